"""The outline of a sector, from what of it is lit: straight sides, and whatever ends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Side", "convex", "side", "trimmed"]

Points = NDArray[np.float64]

_NEAR = 1.5
"""Pixels of the thumbnail within which a row's end is on a side."""

_STEEP = 2.0
"""A side goes down by at least half as much as it goes across."""


@dataclass(frozen=True, slots=True)
class Side:
    """A straight side, `x = start + slope * y`.

    Attributes:
        start, slope: of the line, in pixels.
        support: share of the rows whose end lies on it.
        beyond: share of the rows whose end lies outside it.
    """

    start: float
    slope: float
    support: float
    beyond: float

    def at(self, y: float) -> float:
        """Where the side is in a row."""
        return self.start + self.slope * y


def convex(mask: NDArray[np.uint8]) -> Points:
    """The convex hull of a mask's pixels, corners and all, `(N, 2)`; x and y."""
    rows = np.flatnonzero(mask.any(axis=1))
    firsts = mask.argmax(axis=1)[rows]
    lasts = mask.shape[1] - mask[:, ::-1].argmax(axis=1)[rows]
    points = np.concatenate(
        [
            np.stack([x, y], axis=1)
            for x in (firsts, lasts)
            for y in (rows, rows + 1)
        ]
    )
    return np.asarray(cv2.convexHull(points.astype(np.float32))[:, 0], dtype=np.float64)


def side(ends: Points, hull: Points) -> Side | None:
    """The line on which most rows begin, among those through two corners of the hull.

    Args:
        ends: `(N, 2)`, x and y where each row begins, the outside to the left.
        hull: `(M, 2)`, corners.
    """
    best: Side | None = None
    for first in range(len(hull)):
        for second in range(first):
            (x0, y0), (x1, y1) = hull[first], hull[second]
            if abs(y1 - y0) < 0.15 * len(ends) or abs(x1 - x0) > _STEEP * abs(y1 - y0):
                continue
            slope = (x1 - x0) / (y1 - y0)
            start = x0 - slope * y0
            inward = ends[:, 0] - (start + slope * ends[:, 1])
            found = Side(
                start,
                slope,
                float((np.abs(inward) <= _NEAR).mean()),
                float((inward < -_NEAR).mean()),
            )
            if best is None or found.support - 2 * found.beyond > best.support - 2 * best.beyond:
                best = found
    return best


def trimmed(polygon: Points, line: Side) -> Points:
    """What of a convex polygon `(N, 2)` lies to the right of a side."""
    kept: list[Any] = []
    inward = polygon[:, 0] - (line.start + line.slope * polygon[:, 1])
    for index, point in enumerate(polygon):
        before = index - 1
        if (inward[index] >= 0) != (inward[before] >= 0):
            share = inward[before] / (inward[before] - inward[index])
            kept.append(polygon[before] + share * (point - polygon[before]))
        if inward[index] >= 0:
            kept.append(point)
    return np.array(kept).reshape(-1, 2)
