"""95 % intervals by bootstrap: what other patients might have given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["image_bootstrap", "patient_bootstrap"]

Floats = NDArray[np.float64]

_QUANTILES = (0.025, 0.975)


def patient_bootstrap(
    statistic: Callable[[Floats], Floats],
    groups: Sequence[str] | NDArray[np.str_],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Floats:
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
        float64 `(K, 2)`: the 2.5 % and 97.5 % quantiles of each figure over the draws in which
        it is defined.

    Raises:
        ValueError: there are no images.
    """
    names, owner = np.unique(np.asarray(groups), return_inverse=True)
    if not len(names):
        raise ValueError("there are no patients to draw from")
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        drawn = rng.integers(0, len(names), len(names))
        weights = np.bincount(drawn, minlength=len(names))[owner].astype(np.float64)
        values.append(statistic(weights))
    low, high = np.nanquantile(np.array(values, dtype=np.float64), _QUANTILES, axis=0)
    return np.stack([low, high], axis=1)


def image_bootstrap(
    values: NDArray[np.bool_] | Floats, *, resamples: int = 10_000, seed: int = 42
) -> tuple[float, float]:
    """Draw images with replacement, as FetalCLIP's evaluation of gestational age does.

    Args:
        values: one value an image, `(N,)`, of which the mean is reported.
        resamples: how many draws.
        seed: of the draws.

    Returns:
        The 2.5 % and 97.5 % quantiles of the mean.

    Raises:
        ValueError: there are no values.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size:
        raise ValueError("there are no images to draw from")
    rng = np.random.default_rng(seed)
    size = len(numbers)
    means = [numbers[rng.integers(0, size, size)].mean() for _ in range(resamples)]
    low, high = np.quantile(means, _QUANTILES)
    return float(low), float(high)
