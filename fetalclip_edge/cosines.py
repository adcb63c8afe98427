"""How near one graph's outputs are to another's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["row_cosines"]


def row_cosines(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Cosine of each row of one array with that of another.

    Args:
        one: `(N, ...)`, each row of any shape.
        other: likewise.

    Returns:
        float64 `(N,)`, -1 to 1; NaN where a row is zero or not finite.
    """
    a, b = (each.reshape(len(each), -1).astype(np.float64) for each in (one, other))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines: NDArray[np.float64] = (a * b).sum(axis=1) / (
            np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        )
    return cosines
