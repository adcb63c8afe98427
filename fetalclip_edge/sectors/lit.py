"""Which parts of a scanner's screen are ultrasound: at a reduced size, by grey levels alone."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.errors import InvalidImageError, InvalidImageTypeError

__all__ = ["SIDE", "lit", "thumbnail"]

SIDE = 256
"""Pixels of a thumbnail's longer side, at most: a ruler's line is less than one wide then."""

_SPARSE = 2
"""Pixels of the frame that go into one of the thumbnail along a side, at most: more cost time."""

_RING = 0.03
"""Share of the longer side that is looked at along the border to learn the background's level."""

_COMMON = 0.4
"""Share of the border that a background other than black must fill."""

_NOISE = 12
"""Grey levels from the background within which a pixel of the border is its noise."""

_CLEAN = 0.25
"""Share of the border that must be of one level, give or take one, to be free of noise."""

_ABOVE_NOISE = 2.0
_EVEN = 2
_PANEL = 24.0
"""Grey levels above the background from which an even patch is a panel, not tissue."""


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture in grey, of at most `SIDE` pixels a side.

    Args:
        image: uint8, `(H, W)` or `(H, W, 3)`, of which green is taken, the middle one.

    Raises:
        InvalidImageError: it is empty or has another shape.
        InvalidImageTypeError: it is no uint8 array.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise InvalidImageTypeError("image must be a uint8 array")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or 0 in image.shape:
        raise InvalidImageError(f"image must be (H, W) or (H, W, 3) and not empty: {image.shape}")
    longest = max(image.shape[:2])
    height, width = (max(1, round(side * min(1.0, SIDE / longest))) for side in image.shape[:2])
    step = max(1, longest // (SIDE * _SPARSE))
    grey = image if image.ndim == 2 else image[:, :, 1]
    pixels: Any = np.ascontiguousarray(grey[::step, ::step])
    if pixels.shape != (height, width):
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(pixels, dtype=np.uint8)


def lit(small: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Where a thumbnail is something other than background and even panels.

    Args:
        small: of `thumbnail`.

    Returns:
        uint8 `(H, W)`, 1 or 0.
    """
    level, noise = _background(small)
    away = cv2.absdiff(small, np.full_like(small, level))
    found = away > noise
    # Along a row: the buttons of a screen are shaded from top to bottom.
    along = np.ones((1, 5), np.uint8)
    even = cv2.morphologyEx(small, cv2.MORPH_GRADIENT, along) <= _EVEN
    return np.asarray(found & ~(even & (away > _PANEL)), dtype=np.uint8)


def _background(small: NDArray[np.uint8]) -> tuple[int, float]:
    """The grey level around the ultrasound, and how far its noise goes."""
    wide = max(2, round(_RING * max(small.shape)))
    inner = np.zeros(small.shape, dtype=bool)
    inner[wide:-wide, wide:-wide] = True
    ring = small[~inner]
    counts = np.convolve(np.bincount(ring, minlength=256), np.ones(3), "same")
    level = int(np.argmax(counts))
    if counts[level] < _COMMON * len(ring):
        level = 0
    distances = np.abs(ring.astype(np.int16) - level)
    if (distances <= 1).mean() >= _CLEAN:
        return level, 1.0
    near = distances[distances <= _NOISE]
    return level, _ABOVE_NOISE + (float(np.quantile(near, 0.9)) if len(near) else 0.0)
