from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.biometry import Measured, age_coverage, compare, draw_worst, hausdorff, report
from fetalclip_edge.results import (
    GestationalAge,
    HeadBiometry,
    HeadOutline,
    PlaneScores,
    Result,
    StreamState,
    Timing,
)
from training.head_images import Head

WIDTH, HEIGHT, MM = 240, 180, 0.5


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.biometry._DRAWS", 400)


def head(folder: Path, name: str = "1_HC", mm: float = 200.0) -> Head:
    """A picture with a mask whose diameters are 140 and 110 pixels, around (120.5, 90.5)."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    mask[np.hypot((x - 120.5) / 70, (y - 90.5) / 55) <= 1] = 255
    image, masked = folder / f"{name}.png", folder / f"{name}_mask.png"
    cv2.imwrite(str(image), mask // 2)
    cv2.imwrite(str(masked), mask)
    return Head(image, masked, f"hc18/{name}", f"hc18/{name}", "test", MM, mm)


def result(outline: HeadOutline | None, mm: float | None = 200.0, days: int = 155) -> Result:
    measured = HeadBiometry(
        head_circumference_mm=mm, head_circumference_error_mm=2.0, outline=outline
    )
    if outline is None:
        measured = HeadBiometry(reason="only 40% of the head's outline was found")
    return Result(
        state=StreamState.LIVE,
        plane=PlaneScores("brain", 1.0, {"brain": 1.0}),
        brain_plane=None,
        gestational_age=None if outline is None else GestationalAge(days, 145, 165, "chart"),
        head=measured,
        timing=Timing(1.0, 1.0, 1.0),
        embedding=np.zeros(4, np.float32),
    )


EXACT = HeadOutline(120.5, 90.5, 140, 110, 0)


def test_hausdorff_by_hand() -> None:
    # The point (3, 4) is 5 from the nearest of the others, and no other is as far.
    assert hausdorff(np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([[0.0, 0.0]])) == 5.0


def test_an_outline_on_the_mask_is_right(tmp_path: Path) -> None:
    found = compare(head(tmp_path), result(EXACT, 203.0))
    assert found.dice > 0.998
    assert found.hausdorff_mm < 0.2
    assert found.error_mm == pytest.approx(3.0)


def test_an_outline_that_is_larger_has_its_distance_and_dice(tmp_path: Path) -> None:
    # Four pixels of half a millimetre all around; areas are 140 x 110 and 148 x 118.
    found = compare(head(tmp_path), result(HeadOutline(120.5, 90.5, 148, 118, 0)))
    assert found.hausdorff_mm == pytest.approx(2.0, abs=0.2)
    assert found.dice == pytest.approx(2 * 15400 / (15400 + 17464), abs=3e-3)


def test_a_head_that_is_withheld_counts_as_such(tmp_path: Path) -> None:
    heads = [head(tmp_path, f"{i}_HC") for i in range(4)]
    measured = [compare(each, result(EXACT, 203.0 - 2 * i)) for i, each in enumerate(heads[:3])]
    measured.append(compare(heads[3], result(None, None)))
    assert math.isnan(measured[3].dice)
    figures = report(measured)
    assert (figures["heads"], figures["withheld"], figures["ages_given"]) == (4, 1, 3)
    assert figures["withheld_because"] == {"only 40% of the head's outline was found": 1}
    # Errors of 3, 1 and -1 mm; within 1.96 times 2 mm are all.
    assert figures["circumference_mae_mm"]["value"] == pytest.approx(5 / 3)
    assert figures["circumference_bias_mm"]["value"] == pytest.approx(1.0)
    assert figures["circumference_interval_coverage"]["value"] == 1.0
    low, high = figures["circumference_mae_mm"]["interval"]
    assert 1.0 <= low <= 5 / 3 <= high <= 3.0


@pytest.mark.parametrize(("days", "valid"), [(155, 1.0), (130, 0.0), (190, 0.0)])
def test_an_age_is_valid_where_the_chart_has_the_published_head(
    tmp_path: Path, days: int, valid: float
) -> None:
    # WHO: 200 mm is within the middle 95 % at 155 days (median 200), not at 130 nor at 190.
    figures = report([compare(head(tmp_path), result(EXACT, 200.0, days))])
    assert figures["age_valid"]["value"] == valid


def test_no_measure_at_all_is_an_error(tmp_path: Path) -> None:
    nothing = compare(head(tmp_path), result(None, None))
    with pytest.raises(ValueError, match="no head was measured"):
        report([nothing])


def test_simulated_coverage_is_what_the_intervals_claim() -> None:
    # Errors as large as claimed: 95 % lie within, but for rounding to days and the chart's ends.
    errors = np.random.default_rng(0).normal(0, 0.015, 1000)
    assert age_coverage(errors, 0.015, "who") == pytest.approx(0.95, abs=0.03)
    # Errors far larger than claimed: fewer do.
    assert age_coverage(5 * errors, 0.015, "who") < 0.9


def test_the_worst_heads_are_drawn_first(tmp_path: Path) -> None:
    heads = [head(tmp_path, f"{i}_HC") for i in range(3)]
    measured = [compare(each, result(EXACT, 200.0 + i)) for i, each in enumerate(heads)]
    measured.append(Measured(head(tmp_path, "9_HC"), result(None), math.nan, math.nan, math.nan))
    drawn = draw_worst(measured, tmp_path / "worst")
    assert [path.name for path in drawn] == [
        "01_9_HC.png",
        "02_2_HC.png",
        "03_1_HC.png",
        "04_0_HC.png",
    ]
    picture = cv2.imread(str(drawn[1]))
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert (picture == (0, 159, 230)).all(axis=2).any()
