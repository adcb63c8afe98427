"""Orders of colours, and pictures as files.

By OpenCV, whose cvtColor turns the colours of full HD several times as fast as numpy's strides.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.masking import visible
from fetalclip_edge.results import Frame

__all__ = ["encode_jpeg", "encode_png", "in_color", "ultrasound"]

Pixels = NDArray[np.uint8]


def ultrasound(frame: Frame) -> Pixels:
    """The ultrasound of a frame alone: what may be shown and kept.

    Returns:
        `(H, W)` grey or `(H, W, 3)` RGB; may be a view of the frame's picture.
    """
    image = visible(frame)
    return _turned(image) if frame.color == "bgr" else image


def in_color(image: Pixels) -> Pixels:
    """A grey or RGB picture as `(H, W, 3)` RGB."""
    if image.ndim == 3:
        return image
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), dtype=np.uint8)


def encode_jpeg(image: Pixels, longest_side: int, quality: int) -> bytes:
    """A grey or RGB picture as JPEG.

    Args:
        image: uint8, `(H, W)` or `(H, W, 3)`.
        longest_side: pixels; a larger picture is made smaller.
        quality: 0 to 100, as libjpeg has it.
    """
    height, width = image.shape[:2]
    scale = longest_side / max(height, width)
    if scale < 1:
        size = (max(1, round(scale * width)), max(1, round(scale * height)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    _, jpeg = cv2.imencode(".jpg", _for_opencv(image), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return jpeg.tobytes()


def encode_png(image: Pixels) -> bytes:
    """A grey or RGB picture, uint8, as PNG."""
    _, png = cv2.imencode(".png", _for_opencv(image))
    return png.tobytes()


def _for_opencv(image: Pixels) -> Pixels:
    return image if image.ndim == 2 else _turned(image)


def _turned(image: Pixels) -> Pixels:
    """BGR as RGB, and the other way round."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
