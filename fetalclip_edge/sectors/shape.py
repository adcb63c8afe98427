"""The shape of a sector: straight sides that meet above, and an arc around where they meet."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Points", "Side", "ends_of", "hull_of", "side", "whole"]

Points = NDArray[np.float64]
Mask = NDArray[np.uint8]

_NEAR = 1.5
"""Pixels of the thumbnail within which a row's end is on a side."""

_STRAIGHT = 0.75
"""Pixels of a hull that are no corner of their own."""

_STEEPEST, _FLATTEST = 0.05, -2.5
"""Pixels that a left side goes right for each it goes down: sectors widen on the way down."""

_SHORTEST = 0.15
"""Of the rows: what lies between the two corners that a side is drawn through, at least."""


@dataclass(frozen=True, slots=True)
class Side:
    """A straight side on the left, `x = start + slope * y`; one on the right is seen in a mirror.

    Attributes:
        start, slope: of the line, in pixels.
        support: share of the rows whose end lies on it.
        beyond: share of the rows whose end lies outside it.
    """

    start: float
    slope: float
    support: float
    beyond: float


def ends_of(mask: Mask) -> tuple[Points, Points]:
    """Where each row of a mask that has any begins and ends, `(N, 2)` each; x and y."""
    rows = np.flatnonzero(mask.any(axis=1))
    firsts = mask.argmax(axis=1)[rows].astype(np.float64)
    lasts = (mask.shape[1] - mask[:, ::-1].argmax(axis=1)[rows]).astype(np.float64)
    return np.stack([firsts, rows + 0.5], axis=1), np.stack([lasts, rows + 0.5], axis=1)


def hull_of(left: Points, right: Points) -> Points:
    """The convex hull of rows by their ends, `(N, 2)`: of whole pixels, corners and all."""
    ends = np.concatenate([left, right])
    half = np.array([0.0, 0.5])
    points = np.concatenate([ends - half, ends + half]).astype(np.float32)
    return np.asarray(cv2.convexHull(points)[:, 0], dtype=np.float64)


def side(ends: Points, hull: Points) -> Side | None:
    """The line on which most rows begin, among those through two corners of the hull.

    Args:
        ends: `(N, 2)`, where each row begins.
        hull: `(M, 2)`, corners.
    """
    corners = cv2.approxPolyDP(hull.astype(np.float32), _STRAIGHT, True)[:, 0].astype(np.float64)
    first, second = np.triu_indices(len(corners), 1)
    across, down = (corners[second] - corners[first]).T
    long = np.abs(down) >= max(2.0, _SHORTEST * len(ends))
    slope = across[long] / down[long]
    start = corners[first[long], 0] - slope * corners[first[long], 1]
    steep = (slope <= _STEEPEST) & (slope >= _FLATTEST)
    slope, start = slope[steep], start[steep]
    if not len(slope):
        return None
    inward = ends[:, 0] - (start[:, None] + slope[:, None] * ends[:, 1])
    support = (np.abs(inward) <= _NEAR).mean(axis=1)
    beyond = (inward < -_NEAR).mean(axis=1)
    best = int(np.argmax(support - 2 * beyond))
    return Side(float(start[best]), float(slope[best]), float(support[best]), float(beyond[best]))


def whole(left: Side, right: Side, lit: Mask, rim: float) -> Mask:
    """The sector that two sides belong to, `(H, W)`, 1 or 0.

    It begins at the first row that is lit and ends with the arc, around the point where the sides
    meet, beyond which nothing is lit; or with the last row, where they hardly meet.

    Args:
        left: of the rows' beginnings.
        right: of their ends, seen in a mirror: `-x = start + slope * y`.
        lit: what of the sector is lit, `(H, W)`.
        rim: pixels that are kept beyond a side.
    """
    y = np.arange(lit.shape[0])[:, None] + 0.5
    x = np.arange(lit.shape[1])[None] + 0.5
    inside = (x >= left.start - rim + left.slope * y) & (-x >= right.start - rim + right.slope * y)
    rows = np.flatnonzero(lit.any(axis=1))
    inside &= (y >= rows[0]) & (y <= rows[-1] + 1)
    spread = left.slope + right.slope
    if spread < -_PARALLEL:
        # left.start + left.slope * y = -(right.start + right.slope * y)
        apex_y = -(left.start + right.start) / spread
        apex_x = left.start + left.slope * apex_y
        radius = np.hypot(x - apex_x, y - apex_y)
        inside &= radius <= radius[(lit > 0) & inside].max(initial=0.0) + rim
    return inside.astype(np.uint8)


_PARALLEL = 0.1
"""Widening, in pixels for each row, below which the sides are taken for parallel."""
