"""The lit parts of a thumbnail that belong to the ultrasound: large, thick and in one place."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["tissue"]

Mask = NDArray[np.uint8]

_THICK = 7
"""Pixels across which a part must be at least; text, rulers and grey bars are thinner."""

_CORNER = 5
"""Pixels across of what is put back where opening has rounded a corner off."""

_SMALLEST = 0.02
"""Share of the picture that the largest part must fill."""

_PART_BELOW, _PART_BESIDE = 0.02, 0.1
"""Of the largest part's area that a further one must have, to belong to it."""

_WITHIN = 0.7
"""Share of a further part's width that lies above or below the largest one."""

_TALL = 0.5
"""Share of the largest part's height along which a further one must lie, when it is beside it."""


def tissue(found: Mask) -> Mask | None:
    """What is ultrasound of what is lit.

    A shadow or fluid from edge to edge cuts the ultrasound in two; then both parts belong to it.

    Args:
        found: of `lit`, 1 or 0, `(H, W)`.

    Returns:
        1 or 0, `(H, W)`; None where nothing is large enough.
    """
    closed = cv2.morphologyEx(found, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    opened = cv2.morphologyEx(closed, cv2.MORPH_OPEN, np.ones((_THICK, _THICK), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if count < 2 or areas.max() < _SMALLEST * found.size:
        return None
    main = stats[1 + int(np.argmax(areas))]
    kept = [label for label in range(1, count) if _belongs(stats[label], main)]
    chosen = np.isin(labels, kept).astype(np.uint8)
    # The corners that opening has rounded off.
    around = cv2.dilate(chosen, np.ones((_CORNER, _CORNER), np.uint8))
    return np.asarray(around & closed, dtype=np.uint8)


def _belongs(part: NDArray[np.int32], main: NDArray[np.int32]) -> bool:
    """Whether a part lies above or below the largest one, or is a good piece of it on its side."""
    area = int(part[cv2.CC_STAT_AREA])
    below = _overlap(part, main, cv2.CC_STAT_LEFT, cv2.CC_STAT_WIDTH)
    if below >= _WITHIN * int(part[cv2.CC_STAT_WIDTH]):
        return area >= _PART_BELOW * int(main[cv2.CC_STAT_AREA])
    beside = _overlap(part, main, cv2.CC_STAT_TOP, cv2.CC_STAT_HEIGHT)
    tall = beside >= _TALL * int(main[cv2.CC_STAT_HEIGHT])
    return tall and area >= _PART_BESIDE * int(main[cv2.CC_STAT_AREA])


def _overlap(part: NDArray[np.int32], main: NDArray[np.int32], start: int, size: int) -> int:
    low = max(int(part[start]), int(main[start]))
    high = min(int(part[start] + part[size]), int(main[start] + main[size]))
    return high - low
