"""Bootstrap intervals on cases small enough to work out."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from training.evaluation.intervals import image_bootstrap, patient_bootstrap


def test_a_patient_is_drawn_with_all_of_their_images() -> None:
    # Given three images of one patient, and one of another
    groups = ["b", "a", "b", "b"]
    seen: list[tuple[float, ...]] = []

    def keep(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        seen.append(tuple(weights))
        return np.array([0.0])

    # When patients are drawn
    patient_bootstrap(keep, groups, resamples=60)
    # Then two draws give a twice, b twice, or each once
    assert set(seen) == {(0, 2, 0, 0), (2, 0, 2, 2), (1, 1, 1, 1)}


def test_the_interval_of_two_patients_spans_both() -> None:
    # Given a patient whose images are all right and one whose images are all wrong:
    # a quarter of the draws holds the one alone, a quarter the other
    right = np.array([1.0, 1.0, 0.0, 0.0, 0.0])
    interval = patient_bootstrap(
        lambda weights: np.array([np.average(right, weights=weights)]), ["a", "a", "b", "b", "b"]
    )
    assert interval == [[0, 1]]


def test_draws_that_leave_a_figure_undefined_are_left_out() -> None:
    def figure(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([np.nan if weights[0] == 0 else 0.5, 1.0])

    assert patient_bootstrap(figure, ["a", "b"]) == [[0.5, 0.5], [1, 1]]
    assert patient_bootstrap(lambda _: np.array([np.nan]), ["a", "b"]) == [None]


def test_one_patient_or_image_says_nothing_of_others() -> None:
    assert patient_bootstrap(lambda weights: weights[:2], ["a", "a", "a"]) == [None, None]
    assert image_bootstrap(np.array([True])) is None


def test_patients_widen_the_interval_where_their_images_agree() -> None:
    # Given ten patients of ten equal images each, half of them right
    right = np.repeat([1.0, 0.0] * 5, 10)
    groups = [str(i // 10) for i in range(100)]
    [by_patient] = patient_bootstrap(
        lambda weights: np.array([np.average(right, weights=weights)]), groups
    )
    by_image = image_bootstrap(right)
    # Then the binomial quantiles are those of 10 coins by patient, of 100 by image
    assert by_patient == pytest.approx([0.2, 0.8], abs=0.001)
    assert by_image == pytest.approx([0.40, 0.60], abs=0.011)


def test_nothing_to_draw_from_is_refused() -> None:
    with pytest.raises(ValueError, match="no patients"):
        patient_bootstrap(lambda weights: weights, [])
    with pytest.raises(ValueError, match="no images"):
        image_bootstrap(np.array([]))
