"""Orders of colours, and pictures as files."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.masking import visible
from fetalclip_edge.results import Frame

__all__ = ["encode_jpeg", "encode_png", "ultrasound"]

Pixels = NDArray[np.uint8]


def ultrasound(frame: Frame) -> Pixels:
    """The ultrasound of a frame alone: what may be shown and kept.

    Returns:
        `(H, W)` grey or `(H, W, 3)` RGB; a view of the frame's picture where nothing is masked.
    """
    image = visible(frame)
    return image[:, :, ::-1] if frame.color == "bgr" else image


def encode_jpeg(image: Pixels, longest_side: int, quality: int) -> bytes:
    """A grey or RGB picture as JPEG.

    Args:
        image: uint8, `(H, W)` or `(H, W, 3)`.
        longest_side: pixels; a larger picture is made smaller.
        quality: 0 to 100, as libjpeg has it.
    """
    pixels: Any = _for_opencv(image)
    height, width = image.shape[:2]
    scale = longest_side / max(height, width)
    if scale < 1:
        size = (max(1, round(scale * width)), max(1, round(scale * height)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return jpeg.tobytes()


def encode_png(image: Pixels) -> bytes:
    """A grey or RGB picture, uint8, as PNG."""
    _, png = cv2.imencode(".png", _for_opencv(image))
    return png.tobytes()


def _for_opencv(image: Pixels) -> Pixels:
    return np.ascontiguousarray(image if image.ndim == 2 else image[:, :, ::-1])
