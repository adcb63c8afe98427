"""Find the ultrasound in a scanner's screen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.results import Region
from fetalclip_edge.sectors.lit import lit, thumbnail
from fetalclip_edge.sectors.shape import Points, Side, ends_of, hull_of, side, whole
from fetalclip_edge.sectors.tissue import tissue

__all__ = ["Sector", "find_in_thumbnail", "find_sector"]

Kind = Literal["fan", "trapezoid", "rectangle"]
Mask = NDArray[np.uint8]

_LEAST_CONFIDENCE = 0.5
_LEAST_SUPPORT = 0.25
"""Share of the rows that must end on a straight side."""

_MOST_BEYOND = 0.25
"""Share of the rows that may stick out of it; what does is cut off."""

_RIM = 1.0
"""Pixels of the thumbnail that are kept beyond a side: it runs through the middles of the rows."""

_LOST, _ADDED = 0.06, 0.02
"""Share of what is lit that a whole shape may leave out, and of what it adds that may be lit."""

_BESIDE = 4
"""Pixels beside the outline that are looked at."""

_FILLED = 0.3
"""Share of the outline that is lit, from which on more says nothing."""

_SAG = 0.03
"""Of the height: how much deeper the middle of a fan's lower end is than its corners."""

_UPRIGHT = 0.04
"""Pixels across for each one down, up to which a side is upright."""


@dataclass(frozen=True, slots=True)
class Sector:
    """The ultrasound within a frame.

    Attributes:
        region: the smallest rectangle around it.
        outline: its corners in pixels of the frame, in turn; (0, 0) is the corner of the top left
            pixel. Always convex.
        kind: "fan" (a curved array: its lower end is an arc), "trapezoid" or "rectangle".
        confidence: 0 to 1: the share of the outline that is the frame's border or has the
            screen's background beside it, times how well the outline is filled.
    """

    region: Region
    outline: tuple[tuple[float, float], ...]
    kind: Kind
    confidence: float

    def mask(self, height: int, width: int, rim: int = 0) -> Mask:
        """255 within the outline and `rim` pixels beside it, 0 elsewhere, `(height, width)`."""
        shown = np.zeros((height, width), dtype=np.uint8)
        # OpenCV's corners are the middles of pixels, here in 16ths.
        corners = np.round((np.array(self.outline) - 0.5) * 16).astype(np.int32)
        cv2.fillConvexPoly(shown, corners, 255, shift=4)
        if rim > 0:
            cv2.polylines(shown, [corners], True, 255, 2 * rim + 1, shift=4)
        return shown


def find_sector(image: NDArray[np.uint8]) -> Sector | None:
    """The ultrasound within one picture of a scanner's screen.

    Args:
        image: uint8, `(H, W)` grey or `(H, W, 3)`.

    Returns:
        Where it is, or None where nothing looks like it.

    Raises:
        InvalidImageError: the image is empty or has a wrong shape (a ValueError).
        InvalidImageTypeError: it is not a uint8 array (a TypeError).

    Example:
        >>> import numpy as np
        >>> screen = np.zeros((600, 800), np.uint8)
        >>> screen[100:500, 200:600] = np.random.default_rng(0).integers(30, 90, (400, 400))
        >>> find_sector(screen).kind
        'rectangle'
    """
    small = thumbnail(image)
    return find_in_thumbnail(small, image.shape[0], image.shape[1])


def find_in_thumbnail(small: NDArray[np.uint8], height: int, width: int) -> Sector | None:
    """As `find_sector`, for a picture that was made small already.

    Args:
        small: of `thumbnail`.
        height: of the picture, in whose pixels the answer is.
        width: likewise.
    """
    found = lit(small)
    seen = tissue(found)
    if seen is None:
        return None
    polygon, sides = _outline(seen, found)
    confidence = _confidence(polygon, found)
    if confidence < _LEAST_CONFIDENCE:
        return None
    scale = np.array([width / small.shape[1], height / small.shape[0]])
    corners = np.clip(polygon * scale, 0, (width, height))
    left, top = (math.floor(value) for value in corners.min(axis=0))
    right, bottom = (math.ceil(value) for value in corners.max(axis=0))
    return Sector(
        Region(left, top, right - left, bottom - top),
        tuple((float(x), float(y)) for x, y in corners),
        _kind(polygon, sides),
        confidence,
    )


def _outline(seen: Mask, found: Mask) -> tuple[Points, list[Side]]:
    """The convex outline of a sector: of its whole shape where that agrees with what is lit."""
    left, right = ends_of(seen)
    hull = hull_of(left, right)
    mirror = np.array([-1.0, 1.0])
    sides = [side(left, hull), side(right * mirror, hull * mirror)]
    good = [s for s in sides if s is not None and s.support >= _LEAST_SUPPORT]
    good = [s for s in good if s.beyond <= min(_MOST_BEYOND, s.support / 2)]
    if len(good) < 2:
        return hull, good
    shape = whole(good[0], good[1], seen, _RIM)
    lost = np.count_nonzero(seen & (1 - shape)) / np.count_nonzero(seen)
    added = shape & (1 - _filled(hull, seen))
    if lost > _LOST:
        return hull, good
    if np.count_nonzero(added & found) > _ADDED * np.count_nonzero(added):
        shape &= _filled(hull, seen)
    return hull_of(*ends_of(shape)), good


def _filled(polygon: Points, like: Mask) -> Mask:
    """1 within a convex polygon, 0 elsewhere."""
    inside = np.zeros_like(like)
    cv2.fillConvexPoly(inside, np.round(polygon - 0.5).astype(np.int32), 1)
    return inside


def _kind(polygon: Points, sides: list[Side]) -> Kind:
    left, top = polygon.min(axis=0)
    right, bottom = polygon.max(axis=0)
    corners = [_lowest(polygon, left + share * (right - left)) for share in (0.1, 0.9)]
    if bottom - sum(corners) / 2 > _SAG * (bottom - top):
        return "fan"
    if any(abs(line.slope) > _UPRIGHT for line in sides):
        return "trapezoid"
    return "rectangle"


def _lowest(polygon: Points, x: float) -> float:
    """Where a convex polygon ends, on the way down at `x`."""
    before = np.roll(polygon, 1, axis=0)
    found = []
    for (x0, y0), (x1, y1) in zip(before, polygon, strict=True):
        if min(x0, x1) <= x <= max(x0, x1):
            share = 0.0 if x1 == x0 else (x - x0) / (x1 - x0)
            found.append(float(max(y0, y1) if x1 == x0 else y0 + share * (y1 - y0)))
    return max(found)


def _confidence(polygon: Points, found: Mask) -> float:
    """See `Sector.confidence`."""
    inside = _filled(polygon, found)
    wide = np.ones((2 * _BESIDE + 1, 2 * _BESIDE + 1), np.uint8)
    around = cv2.dilate(inside, wide) - inside
    beside = int(np.count_nonzero(around))
    free = 1.0 if not beside else 1 - np.count_nonzero(around & found) / beside
    filled = np.count_nonzero(found & inside) / max(1, int(np.count_nonzero(inside)))
    return float(free * min(1.0, filled / _FILLED))
