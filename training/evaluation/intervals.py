"""95 % intervals by bootstrap: what other patients might have given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "image_bootstrap", "patient_bootstrap"]

Floats = NDArray[np.float64]
Interval = list[float] | None
"""The 2.5 % and 97.5 % quantiles, or None where the draws say nothing."""

_QUANTILES = (0.025, 0.975)


def patient_bootstrap(
    statistic: Callable[[Floats], Floats],
    groups: Sequence[str] | NDArray[np.str_],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Interval]:
    """Draw patients with replacement, each with all of their images.

    Images of one patient resemble each other, so drawing images would give intervals that are
    too narrow.

    Args:
        statistic: called with how often each image was drawn, float64 `(N,)`; gives `(K,)`
            figures. A figure that a draw leaves undefined is NaN.
        groups: the patient of each image, `(N,)`.
        resamples: how many draws.
        seed: of the draws.

    Returns:
        The interval of each figure over the draws in which it is defined. None where it is in no
        draw, and for all figures where there is one patient alone: one says nothing of others.

    Raises:
        ValueError: there are no images.
    """
    names, owner = np.unique(np.asarray(groups), return_inverse=True)
    if not len(names):
        raise ValueError("there are no patients to draw from")
    if len(names) == 1:
        return [None] * len(statistic(np.ones(len(owner))))
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        drawn = rng.integers(0, len(names), len(names))
        weights = np.bincount(drawn, minlength=len(names))[owner].astype(np.float64)
        values.append(statistic(weights))
    return [_quantiles(column[~np.isnan(column)]) for column in np.array(values).T]


def image_bootstrap(
    values: NDArray[np.bool_] | Floats, *, resamples: int = 10_000, seed: int = 42
) -> Interval:
    """Draw images with replacement, as FetalCLIP's evaluation of gestational age does.

    Args:
        values: one value an image, `(N,)`, of which the mean is reported.
        resamples: how many draws.
        seed: of the draws.

    Returns:
        The interval of the mean; None where there is one image alone.

    Raises:
        ValueError: there are no values.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size:
        raise ValueError("there are no images to draw from")
    if numbers.size == 1:
        return None
    rng = np.random.default_rng(seed)
    size = len(numbers)
    return _quantiles(
        np.array([numbers[rng.integers(0, size, size)].mean() for _ in range(resamples)])
    )


def _quantiles(values: Floats) -> Interval:
    return [float(value) for value in np.quantile(values, _QUANTILES)] if values.size else None
