from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import ellipe

from fetalclip_edge.tasks.ellipse import Ellipse, circumference, fit_ellipse, outline, region

SIZE = 56


def along(ellipse: Ellipse, count: int = 200, arc: float = 1.0) -> NDArray[np.float64]:
    """Points on an ellipse, or on a share of it."""
    angle = 2 * np.pi * arc * np.arange(count) / count
    turn = math.radians(ellipse.angle_deg)
    x, y = ellipse.major / 2 * np.cos(angle), ellipse.minor / 2 * np.sin(angle)
    rows = (
        ellipse.x + x * math.cos(turn) - y * math.sin(turn),
        ellipse.y + x * math.sin(turn) + y * math.cos(turn),
    )
    return np.stack(rows, axis=1)


def slope(ellipse: Ellipse, size: int = SIZE) -> NDArray[np.float32]:
    """A map that is zero on an ellipse, and falls outwards about one a pixel."""
    y, x = np.mgrid[:size, :size] + 0.5
    turn = math.radians(ellipse.angle_deg)
    u = (x - ellipse.x) * math.cos(turn) + (y - ellipse.y) * math.sin(turn)
    v = -(x - ellipse.x) * math.sin(turn) + (y - ellipse.y) * math.cos(turn)
    distance = np.hypot(u / (ellipse.major / 2), v / (ellipse.minor / 2))
    return ((1 - distance) * ellipse.minor / 2).astype(np.float32)


@given(st.floats(1, 400), st.floats(0.5, 1))
def test_circumference_is_the_elliptic_integral(major: float, ratio: float) -> None:
    # Exactly: 4 a E(e^2), by SciPy.
    exact = 2 * major * ellipe(1 - ratio**2)
    assert circumference(major, ratio * major) == pytest.approx(exact, rel=1e-8)


def test_circumference_of_a_circle() -> None:
    assert circumference(100, 100) == pytest.approx(314.159265)


@given(
    st.floats(20, 36),
    st.floats(20, 36),
    st.floats(12, 34),
    st.floats(0.65, 0.95),
    st.floats(0, 179),
)
def test_an_ellipse_is_found_from_its_points(
    x: float, y: float, major: float, ratio: float, angle: float
) -> None:
    drawn = Ellipse(x, y, major, ratio * major, angle)
    fit = fit_ellipse(along(drawn))
    assert fit is not None
    assert fit.inside.all()
    assert fit.residual < 1e-3
    found = fit.ellipse
    assert (found.x, found.y) == pytest.approx((x, y), abs=1e-2)
    assert (found.major, found.minor) == pytest.approx((major, ratio * major), rel=1e-3)
    assert abs((found.angle_deg - angle + 90) % 180 - 90) < 0.5


def test_points_that_lie_elsewhere_do_not_move_it() -> None:
    drawn = Ellipse(30, 25, 40, 30, 20)
    points = along(drawn)
    points[:20] += (6, -9)  # a tenth of them, as where the mask runs out along an echo
    fit = fit_ellipse(points)
    assert fit is not None
    assert fit.inside[:20].sum() <= 1  # one of them happens to lie on it
    assert fit.ellipse.circumference == pytest.approx(drawn.circumference, rel=2e-3)


def test_half_of_an_ellipse_is_enough() -> None:
    drawn = Ellipse(30, 25, 40, 30, 20)
    fit = fit_ellipse(along(drawn, arc=0.5))
    assert fit is not None
    assert fit.ellipse.circumference == pytest.approx(drawn.circumference, rel=0.01)


@pytest.mark.parametrize(
    "points",
    [
        np.empty((0, 2)),
        np.array([[0.0, 0], [1, 0], [0, 1]]),
        np.stack([np.arange(20.0), np.arange(20.0)], axis=1),
    ],
    ids=["none", "three", "a line"],
)
def test_what_determines_no_ellipse_gives_none(points: NDArray[np.float64]) -> None:
    fit = fit_ellipse(points)
    assert fit is None or fit.ellipse.minor / fit.ellipse.major < 0.1


@given(st.floats(0.68, 0.9), st.floats(0, 179), st.floats(24, 46), st.floats(-2, 2))
def test_the_outline_lies_between_the_pixels(
    ratio: float, angle: float, major: float, shift: float
) -> None:
    drawn = Ellipse(28 + shift, 28 - shift, major, ratio * major, angle)
    levels = slope(drawn)
    fit = fit_ellipse(outline(levels, region(levels)))
    assert fit is not None
    # A hundredth of a pixel of the map around the whole head, where a mask would leave half of one.
    assert fit.ellipse.circumference == pytest.approx(drawn.circumference, abs=0.2)
    assert (fit.ellipse.x, fit.ellipse.y) == pytest.approx((drawn.x, drawn.y), abs=0.05)


def test_a_square_of_a_mask_has_its_edge_between_inside_and_outside() -> None:
    levels = np.full((8, 8), -1, np.float32)
    levels[2:5, 3:7] = 1
    found = outline(levels, region(levels))
    assert found[:, 0].min() == 3
    assert found[:, 0].max() == 7
    assert found[:, 1].min() == 2
    assert found[:, 1].max() == 5
    assert len(found) == 2 * (3 + 4)


def test_the_largest_region_counts_and_its_holes_are_filled() -> None:
    levels = np.full((12, 12), -1, np.float32)
    levels[1:8, 1:8] = 1
    levels[3:5, 3:5] = -1
    levels[10:12, 10:12] = 1
    expected = np.zeros((12, 12), bool)
    expected[1:8, 1:8] = True
    np.testing.assert_array_equal(region(levels), expected)
    assert not region(np.full((4, 4), -1, np.float32)).any()


def test_a_region_over_the_whole_map_has_its_border_for_an_outline() -> None:
    levels = np.ones((4, 6), np.float32)
    found = outline(levels, region(levels))
    assert len(found) == 2 * (4 + 6)
    assert found.min(axis=0).tolist() == [0, 0]
    assert found.max(axis=0).tolist() == [6, 4]


def test_growing_and_moving() -> None:
    ellipse = Ellipse(10, 20, 8, 6, 30)
    assert ellipse.grown(-0.5) == Ellipse(10, 20, 7, 5, 30)
    assert ellipse.moved(2, 100, -5) == Ellipse(120, 35, 16, 12, 30)
    assert ellipse.circumference == circumference(8, 6)
