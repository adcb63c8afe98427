"""The lit parts of a thumbnail that belong to the ultrasound: large, thick and in one place."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["tissue"]

Mask = NDArray[np.uint8]

_THICK = 5
"""Pixels across which a part must be at least; text, rulers and grey bars are thinner."""

_SMALLEST = 0.02
"""Share of the picture that the largest part must fill."""

_PART = 0.1
"""Of the largest part's area that a further one must have, to belong to it."""

_BESIDE = 0.6
"""Share of a further part's width (or height) that must lie along the largest one."""


def tissue(found: Mask) -> Mask | None:
    """What is ultrasound of what is lit.

    A shadow or fluid from edge to edge cuts the ultrasound in two; then both parts belong to it.

    Args:
        found: of `lit`, 1 or 0, `(H, W)`.

    Returns:
        1 or 0, `(H, W)`; None where nothing is large enough.
    """
    closed = cv2.morphologyEx(found, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    # A border of the frame is no edge of what it cuts off.
    framed = cv2.copyMakeBorder(closed, *[_THICK] * 4, cv2.BORDER_REPLICATE)
    opened = cv2.morphologyEx(framed, cv2.MORPH_OPEN, np.ones((_THICK, _THICK), np.uint8))
    opened = np.ascontiguousarray(opened[_THICK:-_THICK, _THICK:-_THICK])
    count, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if count < 2 or areas.max() < _SMALLEST * found.size:
        return None
    main = stats[1 + int(np.argmax(areas))]
    kept = [label for label in range(1, count) if _belongs(stats[label], main)]
    chosen = np.isin(labels, kept).astype(np.uint8)
    # The corners that opening has rounded off.
    around = cv2.dilate(chosen, np.ones((_THICK, _THICK), np.uint8))
    return np.asarray(around & closed, dtype=np.uint8)


def _belongs(part: NDArray[np.int32], main: NDArray[np.int32]) -> bool:
    if part[cv2.CC_STAT_AREA] < _PART * main[cv2.CC_STAT_AREA]:
        return False
    return any(
        _overlap(part, main, start, size) >= _BESIDE * max(int(part[size]), int(main[size]) // 2)
        for start, size in (
            (cv2.CC_STAT_LEFT, cv2.CC_STAT_WIDTH),
            (cv2.CC_STAT_TOP, cv2.CC_STAT_HEIGHT),
        )
    )


def _overlap(part: NDArray[np.int32], main: NDArray[np.int32], start: int, size: int) -> int:
    low = max(int(part[start]), int(main[start]))
    high = min(int(part[start] + part[size]), int(main[start] + main[size]))
    return high - low
