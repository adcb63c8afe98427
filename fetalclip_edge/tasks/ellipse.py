"""An ellipse through the outline of a map: with its outliers left out, and its circumference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Ellipse", "Fit", "circumference", "fit_ellipse", "outline", "region"]

T = TypeVar("T", bound=np.generic)

Points = NDArray[np.float64]

_OUTSIDE = 2
"""Neither 0 nor 1, which pixels are before the outside is filled."""

_FEWEST = 6
"""Points that an ellipse is fitted to; five determine one."""

_ROUNDS = 5
_OUTLIER = 3.0
"""Standard deviations beyond which a point is no part of the ellipse."""

_CLOSE = 0.01
"""Distance, in mean radii, at which a point is never an outlier."""


@dataclass(frozen=True, slots=True)
class Ellipse:
    """An ellipse in pixels; the middle of the top left pixel is at (0.5, 0.5).

    Attributes:
        x, y: its centre, `x` to the right and `y` down.
        major, minor: its long and short diameter.
        angle_deg: of the long one against the `x` axis, clockwise as seen on the screen, 0 to 180.
    """

    x: float
    y: float
    major: float
    minor: float
    angle_deg: float

    @property
    def circumference(self) -> float:
        """In pixels; see `circumference`."""
        return circumference(self.major, self.minor)

    def moved(self, scale: float, right: float, down: float) -> Ellipse:
        """Enlarged about the origin, then shifted."""
        return Ellipse(
            scale * self.x + right,
            scale * self.y + down,
            scale * self.major,
            scale * self.minor,
            self.angle_deg,
        )

    def grown(self, width: float) -> Ellipse:
        """With a rim all around; a negative width takes one away."""
        return Ellipse(
            self.x, self.y, self.major + 2 * width, self.minor + 2 * width, self.angle_deg
        )

    def polar(self, points: Points) -> tuple[Points, Points]:
        """Where points `(N, 2)` are as the ellipse sees them.

        Returns:
            Their distance from the centre in units of the ellipse's radius there, 1 on the
            ellipse; and the angle, 0 to 2 pi, on the circle that the ellipse is when stretched.
        """
        along, across = self._stretched(points)
        return np.hypot(along, across), np.arctan2(across, along) % (2 * math.pi)

    def distances(self, points: Points) -> Points:
        """The first that `polar` gives, without the angle."""
        return np.hypot(*self._stretched(points))

    def _stretched(self, points: Points) -> tuple[Points, Points]:
        """Along the long and across to the short axis, in units of either radius."""
        turn = math.radians(self.angle_deg)
        right, down = points[:, 0] - self.x, points[:, 1] - self.y
        cos, sin = math.cos(turn), math.sin(turn)
        long, short = self.major / 2, self.minor / 2
        along = right * (cos / long) + down * (sin / long)
        return along, down * (cos / short) - right * (sin / short)


@dataclass(frozen=True, slots=True)
class Fit:
    """An ellipse and the points it was fitted to.

    Attributes:
        ellipse: fitted to the points that are no outliers.
        inside: which of the points are none, bool `(N,)`.
        residual: root mean square distance of these from the ellipse, in mean radii.
    """

    ellipse: Ellipse
    inside: NDArray[np.bool_]
    residual: float


def circumference(major: float, minor: float) -> float:
    """Of an ellipse, by its diameters.

    Ramanujan's second approximation (Quarterly Journal of Mathematics 45, 1914, p. 372). At the
    axis ratios of heads, 0.6 and more, it is right to nine digits.

    Args:
        major: the long diameter, in any unit; above 0.
        minor: the short one, likewise.
    """
    a, b = major / 2, minor / 2
    h = ((a - b) / (a + b)) ** 2
    return math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))


def region(logits: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The largest connected part of a map above zero, its holes filled.

    Args:
        logits: `(H, W)`.

    Returns:
        bool `(H, W)`; all False where nothing is above zero.
    """
    above = (logits > 0).view(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(above, connectivity=4)
    filled = np.zeros(logits.shape, dtype=bool)
    if count < 2:
        return filled
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    x, y, width, height = map(int, stats[largest, : cv2.CC_STAT_AREA])
    box = slice(y, y + height), slice(x, x + width)
    # What the outside, with a rim around the box, does not reach is the part and its holes.
    around = np.ones((height + 2, width + 2), dtype=np.uint8)
    np.not_equal(labels[box], largest, out=around[1:-1, 1:-1], casting="unsafe")
    cv2.floodFill(around, None, (0, 0), _OUTSIDE, flags=8)
    np.not_equal(around[1:-1, 1:-1], _OUTSIDE, out=filled[box])
    return filled


def outline(logits: NDArray[np.float32], inside: NDArray[np.bool_]) -> Points:
    """Where a map crosses zero around a region, between its pixels.

    Args:
        logits: `(H, W)`.
        inside: what `region` found.

    Returns:
        `(N, 2)`, x and y in pixels of the map; the middle of the top left pixel is at (0.5, 0.5).
        The map's own border counts as outside, half a pixel away.
    """
    height, width = logits.shape
    levels = np.full((height + 2, width + 2), -np.inf)
    levels[1:-1, 1:-1] = logits
    within = np.zeros((height + 2, width + 2), dtype=bool)
    within[1:-1, 1:-1] = inside
    found = []
    for axis in (0, 1):
        edge = _without_end(within, axis, 1) != _without_end(within, axis, 0)
        rows, columns = np.nonzero(edge)
        one = levels[rows, columns]
        other = levels[rows + 1, columns] if axis == 0 else levels[rows, columns + 1]
        # A filled hole may lie at the edge, with no crossing there: the middle, then.
        share = np.full(len(rows), 0.5)
        crossing = (one > 0) != (other > 0)
        finite = crossing & np.isfinite(one) & np.isfinite(other)
        share[finite] = one[finite] / (one[finite] - other[finite])
        # The array's row r is the map's pixel r - 1, whose middle is at r - 0.5.
        at = np.empty((len(rows), 2))
        at[:, 0], at[:, 1] = columns, rows
        at -= 0.5
        at[:, 1 - axis] += share
        found.append(at)
    return np.concatenate(found)


def _without_end(values: NDArray[T], axis: int, end: int) -> NDArray[T]:
    """All but the last (`end` 1) or the first (0) along an axis."""
    chosen = slice(None, -1) if end else slice(1, None)
    return values[chosen] if axis == 0 else values[:, chosen]


def fit_ellipse(points: Points) -> Fit | None:
    """The ellipse nearest to points in the sense of least squares, outliers left out.

    Direct least squares (Fitzgibbon, Pilu and Fisher, IEEE PAMI 21, 1999), again and again without
    the points that are far from the ellipse before.

    Args:
        points: `(N, 2)`, x and y.

    Returns:
        The fit, or None where the points determine none.
    """
    inside = np.ones(len(points), dtype=bool)
    found = None
    for _ in range(_ROUNDS):
        if np.count_nonzero(inside) < _FEWEST or (ellipse := _direct(points[inside])) is None:
            return None
        distances = np.abs(ellipse.distances(points) - 1)
        kept = distances[inside]
        found = Fit(ellipse, inside, math.sqrt(float(kept @ kept) / len(kept)))
        # The median is not moved by the outliers themselves.
        typical = 1.4826 * _median(kept)
        nearer = distances <= max(_OUTLIER * typical, _CLOSE)
        if np.array_equal(nearer, inside):
            break
        inside = nearer
    return found


def _median(values: Points) -> float:
    """Of `(N,)`, N above 0; `np.median` takes far longer over so few."""
    half = len(values) // 2
    if len(values) % 2:
        return float(np.partition(values, half)[half])
    parted = np.partition(values, (half - 1, half))
    return float(parted[half - 1] + parted[half]) / 2


def _direct(points: Points) -> Ellipse | None:
    # Around the middle: far from the origin OpenCV's single precision would show.
    middle = points.sum(axis=0) / len(points)
    try:
        (x, y), (width, height), angle = cv2.fitEllipseDirect(
            (points - middle).astype(np.float32)[:, None]
        )
    except cv2.error:
        return None
    if not (min(width, height) > 0 and math.isfinite(width * height * x * y)):
        return None
    if width < height:
        width, height, angle = height, width, angle + 90
    return Ellipse(x + float(middle[0]), y + float(middle[1]), width, height, angle % 180)
