"""Gestational age: the WHO growth chart of head circumference and FetalCLIP's zero-shot rule."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["MAX_DAYS", "MIN_DAYS", "from_similarities", "head_circumference_quantile"]

MIN_DAYS = 14 * 7
"""First day of FetalCLIP's range of gestational ages: 14 weeks + 0 days."""

MAX_DAYS = 38 * 7 + 6
"""Last day of the range: 38 weeks + 6 days."""

# WHO fetal growth charts: Kiserud et al. 2017, PLoS Med 14(1):e1002220, as FetalCLIP's
# evaluation (arXiv 2502.14807) uses them: ln(mm) is a polynomial in weeks.
_WHO_HEAD_CIRCUMFERENCE = {
    0.025: (1.59317517131532, 0.29459800552433, -0.0073860372566707, 6.56951770216148e-5, 0.0),
    0.5: (2.09924879247164, 0.253373656106037, -0.00605647816678282, 5.14256072059917e-5, 0.0),
    0.975: (2.50074069629423, 0.220067854715719, -0.00493623111462443, 3.89066000946519e-5, 0.0),
}


def head_circumference_quantile(days: float, quantile: float) -> float:
    """Head circumference at a gestational age, by the WHO growth chart.

    Source: Kiserud et al. 2017, PLoS Med 14(1):e1002220, as exp of a polynomial in weeks.
    The chart was fitted on 14 to 40 weeks; nothing is refused outside, and nothing is promised.

    Args:
        days: gestational age in days, finite and above 0.
        quantile: 0.025, 0.5 or 0.975.

    Returns:
        Head circumference in millimetres.

    Raises:
        ValueError: `quantile` is not in the chart, or `days` is not a positive number.
    """
    coefficients = _WHO_HEAD_CIRCUMFERENCE.get(quantile)
    if coefficients is None:
        known = ", ".join(str(known) for known in _WHO_HEAD_CIRCUMFERENCE)
        raise ValueError(f"quantile must be one of {known}, not {quantile!r}")
    if not (math.isfinite(days) and days > 0):
        raise ValueError(f"days must be a positive number, not {days!r}")
    weeks = days / 7
    return math.exp(sum(b * weeks**power for power, b in enumerate(coefficients)))


def from_similarities(similarities: ArrayLike, days: ArrayLike, top_n: int = 15) -> int:
    """FetalCLIP's zero-shot rule: the median of the `top_n` most similar gestational ages.

    The candidates are sorted by age and the one at position `n // 2` is taken
    (arXiv 2502.14807, evaluation of gestational age).

    Args:
        similarities: `(D,)`, similarity of an image with the prompt of each candidate age,
            already averaged over prompt templates. Finite.
        days: `(D,)`, the candidate ages in days.
        top_n: how many of the most similar candidates to look at; all of them when there are
            fewer.

    Returns:
        Gestational age in days.

    Raises:
        ValueError: the arrays are empty, not one-dimensional, of different lengths or not
            finite, or `top_n` is below 1.
    """
    scores, ages = np.asarray(similarities, dtype=np.float64), np.asarray(days)
    if scores.ndim != 1 or ages.shape != scores.shape or scores.size == 0:
        raise ValueError(
            "similarities and days must be one-dimensional, of one length and not empty, "
            f"not of shapes {scores.shape} and {ages.shape}"
        )
    if not np.isfinite(scores).all():
        raise ValueError("similarities must be finite")
    if top_n < 1:
        raise ValueError(f"top_n must be at least 1, not {top_n}")
    best = np.argsort(-scores, kind="stable")[:top_n]
    candidates = np.sort(ages[best])
    return int(candidates[len(candidates) // 2])
