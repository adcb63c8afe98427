"""Temperature and calibration error, against scikit-learn and sums done by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss

from calibration.confidence import expected_calibration_error, fit_temperature


def sampled(temperature: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Cosines, and truths drawn from the probabilities they mean at a temperature."""
    rng = np.random.default_rng(0)
    cosines = rng.uniform(-0.3, 0.3, (count, 5)).astype(np.float32)
    edges = softmax(cosines / temperature, axis=1).cumsum(axis=1)
    truth = (rng.random((count, 1)) > edges).sum(axis=1)
    return cosines, np.minimum(truth, 4)


@pytest.mark.parametrize("temperature", [0.02, 0.07, 0.3])
def test_a_known_temperature_is_found(temperature: float) -> None:
    assert fit_temperature(*sampled(temperature)) == pytest.approx(temperature, rel=0.04)


def test_no_other_temperature_is_likelier_by_sklearns_log_loss() -> None:
    cosines, truth = sampled(0.11, 2000)
    found = fit_temperature(cosines, truth)

    def surprise(temperature: float) -> float:
        probabilities = softmax(cosines.astype(np.float64) / temperature, axis=1)
        return float(log_loss(truth, probabilities, labels=range(5)))

    grid = np.geomspace(0.005, 1, 200)
    assert found == pytest.approx(min(grid, key=surprise), rel=0.03)
    assert surprise(found) <= min(map(surprise, grid)) + 1e-4


@pytest.mark.parametrize("count", [8, 98, 998])
def test_answers_that_were_all_right_are_believed_in_n_plus_1_of_n_plus_2_cases(count: int) -> None:
    cosines = np.tile(np.array([[0.6, 0.1]], np.float32), (count, 1))
    found = fit_temperature(cosines, np.zeros(count, np.int64))
    # Two classes 0.5 apart: the odds exp(0.5 / T) are N + 1 to 1.
    assert found == pytest.approx(0.5 / np.log(count + 1), rel=0.01)


def test_the_temperature_stays_within_its_bounds() -> None:
    near, wrong = np.float32([[0.501, 0.5]] * 500), np.array([1, 2, 0])
    assert fit_temperature(near, np.zeros(500, np.int64)) == pytest.approx(0.005, rel=0.05)
    assert fit_temperature(np.eye(3, dtype=np.float32), wrong) == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize(("rows", "truths"), [(0, 0), (3, 2)])
def test_a_truth_is_needed_for_every_row(rows: int, truths: int) -> None:
    with pytest.raises(ValueError, match=f"not {truths} for {rows}"):
        fit_temperature(np.zeros((rows, 4), np.float32), np.zeros(truths, np.int64))


@pytest.mark.parametrize(
    ("confidence", "correct", "expected"),
    [
        # Two bins of two: |0.95 - 1/2| and |0.55 - 2/2|, each with half the weight.
        ([0.95, 0.95, 0.55, 0.55], [True, False, True, True], 0.45),
        # One bin: sure of all and right in three of four.
        ([1.0, 1.0, 1.0, 1.0], [True, True, True, False], 0.25),
        # 0.62 and 0.64 share the bin from 9/15 to 10/15, so their errors cancel out in part.
        ([0.62, 0.64], [True, False], 0.13),
        # 0.59 lies in the bin below: |0.59 - 1| / 2 + |0.64 - 0| / 2.
        ([0.59, 0.64], [True, False], 0.525),
        ([0.0, 1.0], [False, True], 0.0),
    ],
)
def test_the_calibration_error_is_the_one_computed_by_hand(
    confidence: list[float], correct: list[bool], expected: float
) -> None:
    error = expected_calibration_error(np.array(confidence), np.array(correct))
    assert error == pytest.approx(expected)


@pytest.mark.parametrize(("answers", "truths"), [(0, 0), (3, 2)])
def test_the_calibration_error_of_nothing_is_refused(answers: int, truths: int) -> None:
    with pytest.raises(ValueError, match=f"not {truths} for {answers}"):
        expected_calibration_error(np.zeros(answers), np.zeros(truths, np.bool_))


def test_probabilities_at_the_right_temperature_are_calibrated_and_others_are_not() -> None:
    cosines, truth = sampled(0.1)

    def error(temperature: float) -> float:
        scores = softmax(cosines.astype(np.float64) / temperature, axis=1)
        return expected_calibration_error(scores.max(axis=1), scores.argmax(axis=1) == truth)

    assert error(0.1) < 0.02
    assert error(0.02) > 0.1
    assert error(0.5) > 0.1
