"""Round weights so that their errors cancel on real inputs, not each to its nearest step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["patches", "round_weights"]

Doubles = NDArray[np.float64]
_DAMPING = 0.01
_BLOCK = 64
"""So many inputs are done before those after them hear of it: one large product is faster."""


def round_weights(
    weights: Doubles, scale: Doubles, covariance: Doubles, limit: int
) -> NDArray[np.int8]:
    """Round one input after another, and let those still to come make up for the error.

    GPTQ: Frantar et al. 2023, arXiv 2210.17323.

    Args:
        weights: `(O, K)`.
        scale: `(O,)`, size of a step.
        covariance: `(K, K)`, of the inputs.
        limit: largest integer, at most 127; the smallest is its negative.

    Returns:
        Integers `(O, K)`.

    Raises:
        ValueError: the covariance is not finite.
    """
    left = np.array(weights, dtype=np.float64)
    size = left.shape[1]
    # The inputs that vary most come first, while there is most left to make up with.
    order = np.argsort(-np.diag(covariance), kind="stable")
    left, upper = left[:, order], _substitutes(covariance[np.ix_(order, order)])
    rows = np.ascontiguousarray(left.T)  # of one input each
    integers = np.empty(left.shape, np.int8)
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        errors = np.empty((stop - start, len(scale)))
        for j in range(start, stop):
            steps = np.clip(np.round(rows[j] / scale), -limit, limit)
            integers[:, order[j]] = steps
            errors[j - start] = (rows[j] - steps * scale) / upper[j, j]
            rows[j + 1 : stop] -= np.outer(upper[j, j + 1 : stop], errors[j - start])
        rows[stop:] -= upper[start:stop, stop:].T @ errors
    return integers


def _substitutes(covariance: Doubles) -> Doubles:
    """U with inverse = U^T U: row j says how inputs after j stand in for an error at j.

    Inputs that hardly vary have a covariance that is little but the error of computing it, and may
    not be positive definite. It is damped until it is, up to each weight to its nearest step.
    """
    level = float(np.mean(np.abs(np.diag(covariance))))
    if not np.isfinite(level):
        raise ValueError("what a layer reads is not finite on the calibration frames")
    damping = _DAMPING
    while True:
        damped = covariance + np.eye(len(covariance)) * (damping * level + 1e-12)
        try:
            upper: Doubles = np.linalg.cholesky(np.linalg.inv(damped)).T
        except np.linalg.LinAlgError:
            damping *= 10
        else:
            return upper


def patches(
    image: NDArray[np.float32], kernel: tuple[int, int], pads: list[int], strides: list[int]
) -> NDArray[np.float32]:
    """What the windows of a convolution see in one input.

    Args:
        image: `(C, H, W)`.
        kernel: height and width.
        pads: zeros above, left, below and right.
        strides: down and across.

    Returns:
        `(C kernel, windows)`, in the order of the convolution's weights.
    """
    if kernel == (1, 1) and not any(pads) and strides == [1, 1]:
        return image.reshape(len(image), -1)
    top, left, below, right = pads
    padded = np.pad(image, ((0, 0), (top, below), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(1, 2))
    seen = windows[:, :: strides[0], :: strides[1]]
    return np.moveaxis(seen, (3, 4), (1, 2)).reshape(len(image) * kernel[0] * kernel[1], -1)
