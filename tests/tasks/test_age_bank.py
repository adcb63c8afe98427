"""Zero-shot age: embeddings on a quarter of a circle, where the nearest days are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq

from fetalclip_edge.errors import BundleError
from fetalclip_edge.tasks.age_bank import AgeBank, AgeError
from fetalclip_edge.tasks.gestational_age import head_circumference_quantile

DAYS = np.arange(98, 273)


def directions(days: NDArray[np.int64] | float) -> NDArray[np.float32]:
    """Ages as directions: the later, the farther round."""
    angles = (np.asarray(days, np.float64) - 98) / 174 * np.pi / 2
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)


@pytest.fixture
def bank() -> AgeBank:
    """At 0.2 mm a pixel a direction is its day, at 0.4 mm it is 40 days later."""
    embeddings = np.stack([directions(DAYS), directions(DAYS - 40)])
    sizes = np.array([0.2, 0.4], np.float32)
    return AgeBank(embeddings, sizes, DAYS, AgeError(early=6.0, late=8.0))


@pytest.mark.parametrize(
    ("pixel_size_mm", "days"),
    [
        (0.2, 150),
        (0.4, 190),
        (0.28, 150),  # between the two it is the nearer in proportion: up to 0.2828 the smaller
        (0.285, 190),
        (0.1906, 150),  # within 5 % of the smallest and largest
        (0.4199, 190),
        (0.1904, None),
        (0.4201, None),
    ],
)
def test_the_age_is_that_of_the_nearest_sentences(
    bank: AgeBank, pixel_size_mm: float, days: int | None
) -> None:
    assert bank.estimate(directions(150), pixel_size_mm) == days


def test_at_the_end_of_the_range_the_median_lies_inside(bank: AgeBank) -> None:
    # The fifteen nearest of 98 days are 98 to 112; the eighth of them is 105.
    assert bank.estimate(directions(98), 0.2) == 105


def test_the_interval_holds_biology_and_the_error_on_validation_heads(bank: AgeBank) -> None:
    age = bank(directions(150), 0.2)
    assert age is not None
    assert (age.days, age.method) == (150, "zero-shot")
    # A median head of 150 days is as large as the largest of some earlier day.
    mm = head_circumference_quantile(150, 0.5)

    def day_of(quantile: float) -> float:
        found = brentq(lambda days: head_circumference_quantile(days, quantile) - mm, 98, 290)
        return float(found)

    early, late = np.hypot(150 - day_of(0.975), 6.0), np.hypot(day_of(0.025) - 150, 8.0)
    assert age.low_days == pytest.approx(150 - early, abs=0.51)
    assert age.high_days == pytest.approx(150 + late, abs=0.51)
    assert early > 6
    assert late > 8


def test_no_interval_reaches_beyond_pregnancy(bank: AgeBank) -> None:
    first, last = bank(directions(98), 0.2), bank(directions(272), 0.2)
    assert first is not None
    assert last is not None
    assert first.low_days == 98
    assert last.days == 265
    assert last.high_days <= 294


Spoil = Callable[[AgeBank], AgeBank]


@pytest.mark.parametrize(
    ("told", "spoil"),
    [
        (
            "must be of 1 pixel sizes and 175 ages",
            lambda b: AgeBank(b.embeddings, b.pixel_sizes_mm[:1], b.days, b.error),
        ),
        (
            "must be above 0 and rise",
            lambda b: AgeBank(b.embeddings, b.pixel_sizes_mm[::-1], b.days, b.error),
        ),
        (
            "must be above 0 and rise",
            lambda b: AgeBank(b.embeddings, b.pixel_sizes_mm - 0.2, b.days, b.error),
        ),
        (
            "days must rise",
            lambda b: AgeBank(b.embeddings, b.pixel_sizes_mm, b.days - 1, b.error),
        ),
        (
            "must be L2-normalised",
            lambda b: AgeBank(2 * b.embeddings, b.pixel_sizes_mm, b.days, b.error),
        ),
        (
            "of 0 pixel sizes",
            lambda b: AgeBank(b.embeddings[:0], b.pixel_sizes_mm[:0], b.days, b.error),
        ),
        ("early must be at least 0, not -1", lambda b: AgeError(-1, 0)),
        ("late must be at least 0, not nan", lambda b: AgeError(0, float("nan"))),
        ("late must be a number", lambda b: AgeError(0, "8")),
    ],
)
def test_a_bank_that_does_not_fit_is_refused(bank: AgeBank, told: str, spoil: Spoil) -> None:
    with pytest.raises(BundleError, match=told):
        spoil(bank)
