from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fetalclip_edge.errors import BundleError
from fetalclip_edge.results import Region
from fetalclip_edge.tasks.biometry import HeadSpec, HeadTask
from fetalclip_edge.tasks.ellipse import Ellipse

from .test_ellipse import slope

SPEC = HeadSpec(
    edge_px=0.0,
    rim_px=0.0,
    error_relative=0.02,
    least_coverage=0.6,
    most_residual=0.04,
    least_axis_ratio=0.6,
    most_axis_ratio=0.98,
    most_border=0.25,
)
SQUARE = Region(0, 0, 224, 224)
HEAD = Ellipse(28, 28, 40, 30, 25)
"""In pixels of the map, of which one is four of the model's input."""

# By SciPy: 4 a E(1 - (b/a)^2) of half axes 80 and 60.
CIRCUMFERENCE = 442.0665


def task(**changes: float) -> HeadTask:
    return HeadTask(replace(SPEC, **changes), 224)


def test_a_head_is_measured_in_pixels_and_millimetres() -> None:
    head = task()(slope(HEAD), SQUARE, 0.5)
    assert head.reason is None
    assert head.head_circumference_px == pytest.approx(CIRCUMFERENCE, abs=0.6)
    assert head.biparietal_diameter_px == pytest.approx(120, abs=0.3)
    assert head.occipitofrontal_diameter_px == pytest.approx(160, abs=0.3)
    assert head.head_circumference_mm == pytest.approx(CIRCUMFERENCE / 2, abs=0.3)
    assert head.biparietal_diameter_mm == pytest.approx(60, abs=0.2)
    assert head.occipitofrontal_diameter_mm == pytest.approx(80, abs=0.2)
    assert head.cephalic_index == pytest.approx(0.75, abs=2e-3)
    assert head.head_circumference_error_mm == pytest.approx(0.02 * CIRCUMFERENCE / 2, abs=0.05)


def test_without_a_pixel_size_there_are_pixels_alone() -> None:
    head = task()(slope(HEAD), SQUARE, None)
    assert head.head_circumference_px == pytest.approx(CIRCUMFERENCE, abs=0.6)
    assert head.cephalic_index == pytest.approx(0.75, abs=2e-3)
    assert head.head_circumference_mm is None
    assert head.biparietal_diameter_mm is None
    assert head.head_circumference_error_mm is None
    assert head.reason == "the pixel size is unknown"


@pytest.mark.parametrize(
    ("frame", "centre"),
    [
        (Region(0, 0, 800, 540), (400, 270)),
        (Region(0, 0, 540, 800), (270, 400)),
        (Region(100, 30, 800, 540), (500, 300)),
        (Region(0, 0, 801, 540), (400.5, 270.5)),
    ],
)
def test_the_outline_is_in_pixels_of_the_frame(frame: Region, centre: tuple[float, float]) -> None:
    # The head is in the middle of the padded square, so in the middle of the frame.
    head = task()(slope(HEAD), frame, 0.1)
    scale = max(frame.width, frame.height) / 56
    assert head.outline is not None
    assert (head.outline.x, head.outline.y) == pytest.approx(centre, abs=0.6)
    assert head.outline.major == pytest.approx(40 * scale, rel=2e-3)
    assert head.outline.minor == pytest.approx(30 * scale, rel=2e-3)
    assert head.outline.angle_deg == pytest.approx(25, abs=0.3)
    assert head.head_circumference_px == pytest.approx(CIRCUMFERENCE / 4 * scale, rel=2e-3)


def test_edge_and_rim_are_taken_off() -> None:
    # In pixels of the input: both axes lose two of them on either side for the edge, of which the
    # outline is told too, and one for the rim.
    plain = task()(slope(HEAD), SQUARE, 1.0)
    head = task(edge_px=2.0, rim_px=1.0)(slope(HEAD), SQUARE, 1.0)
    assert plain.outline is not None
    assert head.outline is not None
    assert plain.biparietal_diameter_mm is not None
    assert head.biparietal_diameter_mm == pytest.approx(plain.biparietal_diameter_mm - 6)
    assert head.outline.minor == pytest.approx(plain.outline.minor - 4)


def _noise() -> NDArray[np.float32]:
    levels = np.full((56, 56), -1, np.float32)
    levels[10:46, 10:46] = 1
    levels[10:30, 22:34] = -1  # a bite, so that no ellipse fits
    return levels


@pytest.mark.parametrize(
    ("levels", "frame", "reason"),
    [
        (np.full((56, 56), -3, np.float32), SQUARE, "no head found"),
        (slope(Ellipse(28, 28, 3, 2.6, 0)), SQUARE, "no head found"),
        (slope(Ellipse(28, 28, 50, 20, 0)), SQUARE, "not the shape of a head"),
        (slope(Ellipse(28, 28, 40, 39.8, 0)), SQUARE, "not the shape of a head"),
        (slope(Ellipse(4, 28, 46, 40, 90)), SQUARE, "cut off by the picture's border"),
        # Wide frame: black bars above and below, beyond which the head cannot be seen.
        (slope(Ellipse(28, 28, 48, 38, 90)), Region(0, 0, 800, 300), "cut off"),
        (_noise(), SQUARE, "no ellipse"),
    ],
    ids=["nothing", "a dot", "flat", "round", "cut", "cut by bars", "bitten"],
)
def test_what_is_not_to_be_measured_says_why(
    levels: NDArray[np.float32], frame: Region, reason: str
) -> None:
    head = task()(levels, frame, 0.1)
    assert head.reason is not None
    assert reason in head.reason
    assert head.head_circumference_mm is None
    assert head.head_circumference_px is None
    assert head.outline is None


def test_a_head_that_the_border_touches_is_measured_by_the_rest_of_it() -> None:
    # A seventh of the width is beyond the left border; what is left determines the ellipse.
    cut = Ellipse(17, 28, 40, 32, 0)
    head = task()(slope(cut), SQUARE, None)
    assert head.head_circumference_px == pytest.approx(4 * cut.circumference, rel=0.01)


@pytest.mark.parametrize(
    "change", [{"error_relative": -0.1}, {"edge_px": 40}, {"most_border": "x"}]
)
def test_a_manifest_with_wrong_values_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=next(iter(change))):
        HeadSpec.from_dict({**SPEC.to_dict(), **change})


def test_a_manifest_that_lacks_a_value_is_refused() -> None:
    values = SPEC.to_dict()
    del values["rim_px"]
    with pytest.raises(BundleError, match="head lacks rim_px"):
        HeadSpec.from_dict(values)


def test_metrics_beside_the_values_are_left_alone() -> None:
    assert HeadSpec.from_dict({**SPEC.to_dict(), "metrics": {"test": 1}}) == SPEC
