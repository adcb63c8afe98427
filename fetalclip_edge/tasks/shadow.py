"""Shadows: what lies dark along the beams, down to the end, below something bright."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["picture_outline", "shadowed_share"]

_BACKGROUND = 0.08
"""Share of the brightest pixel up to which one is background. A share, so that the outline of the
picture stays when the gain is turned."""

_RAYS = 32
_DARK = 0.2
"""Share of the brightness of echoes below which a pixel may lie in shadow."""
_BRIGHT = 0.6
"""Share of it that something on a beam must reach: without, nothing throws a shadow."""
_DEEP = 0.85
"""Share of the beams from which on it is the depth that is dark, and no shadow."""
_SHORTEST = 0.12
"""Share of the picture's height that a shadow takes at least: a dark rim is none."""

_OUTSIDE = -1.0
_OPENING = np.ones((3, 3), np.uint8)

Levels = NDArray[np.float32]
Mask = NDArray[np.uint8]


def picture_outline(levels: Levels) -> Mask:
    """The outline of the ultrasound, filled: `(S, S)`, 1 inside, convex.

    Single letters and marks outside do not count; with nothing to be seen it is all of the picture.

    Args:
        levels: grey levels of a thumbnail, `(S, S)`.
    """
    seen = (levels > _BACKGROUND * levels.max()).astype(np.uint8)
    seen = np.asarray(cv2.morphologyEx(seen, cv2.MORPH_OPEN, _OPENING), np.uint8)
    outlines, _ = cv2.findContours(seen, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not outlines:
        return np.ones_like(seen)
    sector = np.zeros_like(seen)
    cv2.fillConvexPoly(sector, cv2.convexHull(np.concatenate(outlines)), 1)
    return sector


def shadowed_share(levels: Levels, sector: Mask) -> float:
    """How much of the picture lies in shadow, 0 to 1.

    Of a shadow along a side only a part is found: nobody knows where the picture ended.

    Args:
        levels: grey levels of a thumbnail, `(S, S)`.
        sector: the outline of its picture, from `picture_outline`.
    """
    marked = levels.copy()
    marked[sector == 0] = _OUTSIDE
    # Of echoes alone: the mean of all would fall as the shadow grows.
    mean = cv2.mean(levels, sector)[0]
    echo = cv2.mean(levels, (marked > mean).astype(np.uint8))[0]
    across, down = _beams(sector)
    along = cv2.remap(marked, across, down, cv2.INTER_NEAREST, borderValue=_OUTSIDE)
    inside = along > _OUTSIDE
    # Beams part from each other: the deeper, the more of the picture a place on a beam stands for.
    spacing = across[:, 1] - across[:, 0]
    rows = inside.sum(axis=1)
    area = float(rows @ spacing)
    if not area:
        return 0.0
    # The last echo of each beam: what is below it, is dark.
    echoes = along >= _DARK * echo
    below = len(along) - echoes[::-1].argmax(axis=0)
    shadow = (down >= below) & inside
    lengths = shadow.sum(axis=0)
    shadow &= (along.max(axis=0) > _BRIGHT * echo) & (lengths >= _SHORTEST * len(along))
    shadowed = shadow.sum(axis=1)
    shadowed[shadowed > _DEEP * rows] = 0
    return float(shadowed @ spacing) / area


def _beams(sector: Mask) -> tuple[Levels, Levels]:
    """Where each beam is at each height: columns and rows, `(S, 32)` each.

    Beams are straight lines through one point above the picture, or parallel, as its sides are
    until it is widest.
    """
    widths = sector.sum(axis=1, dtype=np.int64)
    top, widest = int((widths > 0).argmax()), int(widths.argmax())
    upper, lower = top + (widest - top) // 4, top + 9 * (widest - top) // 10
    slope = 0.0
    if lower > upper:
        slope = float(widths[lower] - widths[upper]) / (lower - upper)
    centres = [float(sector[row].argmax() + widths[row] / 2 - 0.5) for row in (upper, lower)]
    height, place = _grid(len(sector))
    width = np.maximum(float(widths[upper]) + slope * (height - upper), 1.0)
    across = (sum(centres) / 2 + place * width).astype(np.float32)
    return across, np.repeat(height, _RAYS, axis=1)


@lru_cache(maxsize=4)
def _grid(side: int) -> tuple[Levels, Levels]:
    """Rows `(S, 1)`, and the place of each beam between the sides, -0.5 to 0.5, `(32,)`."""
    place = ((np.arange(_RAYS) + 0.5) / _RAYS - 0.5).astype(np.float32)
    return np.arange(side, dtype=np.float32)[:, None], place
