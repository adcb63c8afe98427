"""From similarities to calibrated probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

__all__ = ["expected_calibration_error", "fit_temperature"]

_COLDEST, _HOTTEST = 0.005, 1.0
_BINS = 15


def fit_temperature(
    cosines: NDArray[np.floating[Any]],
    truth: NDArray[np.int64],
    *,
    between: tuple[float, float] = (_COLDEST, _HOTTEST),
) -> float:
    """The temperature that makes `softmax(cosines / temperature)` most likely.

    Temperature scaling: Guo et al. 2017, arXiv 1706.04599. A hundred right answers do not show that
    the next is certain, as the likeliest temperature of them alone would claim. So each truth
    counts as right in N + 1 of N + 2 cases, else as any other class: the rule of succession, which
    Platt 1999 (Probabilistic outputs for support vector machines) took for the same reason.

    Args:
        cosines: `(N, classes)`, of validation patients.
        truth: `(N,)`, index of the right class.
        between: the lowest and the highest temperature; those of cosines unless told otherwise.

    Returns:
        The temperature, between 0.005 and 1, or as `between` says.

    Raises:
        ValueError: there are no rows, or not one truth for each.
    """
    if len(cosines) == 0 or len(cosines) != len(truth):
        raise ValueError(f"need one truth per row, not {len(truth)} for {len(cosines)}")

    doubt = 1 / (len(truth) + 2)
    target = np.full(cosines.shape, doubt / max(cosines.shape[1] - 1, 1))
    target[np.arange(len(truth)), truth] = 1 - doubt

    def surprise(log_temperature: float) -> float:
        scaled = log_softmax(cosines / np.exp(log_temperature), axis=1)
        return float(-(target * scaled).sum(axis=1).mean())

    best = minimize_scalar(surprise, bounds=np.log(between), method="bounded")
    return float(np.exp(best.x))


def expected_calibration_error(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_]
) -> float:
    """Mean gap between confidence and accuracy over 15 equal bins, weighted by their size.

    Naeini et al. 2015, as in arXiv 1706.04599.

    Args:
        confidence: `(N,)`, highest probability of each answer, 0 to 1.
        correct: `(N,)`, whether the answer was right.

    Raises:
        ValueError: there are no answers, or not one truth for each.
    """
    if len(confidence) == 0 or len(confidence) != len(correct):
        raise ValueError(f"need one truth per answer, not {len(correct)} for {len(confidence)}")
    bins = np.clip((confidence * _BINS).astype(int), 0, _BINS - 1)
    error = 0.0
    for index in np.unique(bins):
        inside = bins == index
        error += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    return float(error)
