"""A frame with its answer in words below it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.colors import STATE_COLORS
from fetalclip_edge.pixels import in_color, ultrasound
from fetalclip_edge.results import Frame, Result
from fetalclip_edge.words import NO_DEVICE, percent

__all__ = ["annotate", "canvas_size", "caption"]

_LEAST_WIDTH = 320
_FONT = cv2.FONT_HERSHEY_DUPLEX
_BACKGROUND, _TEXT, _QUIET = (22, 24, 28), (240, 240, 240), (170, 170, 170)


def canvas_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of an annotated picture of a frame of this size; both are even."""
    wide = max(_LEAST_WIDTH, width)
    return wide + wide % 2, _even(height) + _band(wide)


def annotate(frame: Frame | None, result: Result, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw the ultrasound of a frame with its answer below; the picture is covered by nothing.

    Args:
        frame: its region without what is masked is drawn, as large as it fits; None leaves the
            place black.
        result: its answer.
        size: width and height to draw, from `canvas_size`.

    Returns:
        uint8 `(height, width, 3)` RGB, a new array.
    """
    width, height = size
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    band = _band(width)
    if frame is not None:
        _place(canvas[: height - band], ultrasound(frame))
    below = canvas[height - band :]
    below[:] = _BACKGROUND
    color = STATE_COLORS[str(result.state)]
    below[: max(2, band // 20)] = color
    scale = band / 62
    lines = caption(result)
    _write(below, lines[0], 0.46, 0.62 * scale)
    _write(below, lines[1], 0.84, 0.48 * scale, color)
    _write(below, NO_DEVICE, 0.84, 0.42 * scale, _QUIET, right=True)
    return canvas


def caption(result: Result) -> tuple[str, str]:
    """The answer in words: plane, confidence and sub-plane, or that there is none; the state."""
    words = "no answer"
    if result.reason is None:
        words = f"{result.plane.label}  {percent(result.plane.confidence)}"
        brain = result.brain_plane
        if brain is not None and brain.label is not None:
            words += f"  {brain.label}  {percent(brain.confidence)}"
    return words, str(result.state).replace("_", " ")


def _band(width: int) -> int:
    """Height of the caption: readable on a frame of any size."""
    return _even(round(62 * min(max(width / 640, 0.75), 2.0)))


def _even(number: int) -> int:
    return number + number % 2


def _place(room: NDArray[np.uint8], image: NDArray[np.uint8]) -> None:
    """Put a grey or RGB picture into the middle; one that is too large is made smaller."""
    height, width = image.shape[:2]
    if height > room.shape[0] or width > room.shape[1]:
        share = min(room.shape[0] / height, room.shape[1] / width)
        width, height = max(1, int(share * width)), max(1, int(share * height))
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    top, left = (room.shape[0] - height) // 2, (room.shape[1] - width) // 2
    room[top : top + height, left : left + width] = in_color(image)


def _write(
    band: NDArray[np.uint8],
    text: str,
    bottom: float,
    scale: float,
    color: tuple[int, int, int] = _TEXT,
    right: bool = False,
) -> None:
    (wide, _), _ = cv2.getTextSize(text, _FONT, scale, 1)
    left = band.shape[1] - wide - 8 if right else 8
    cv2.putText(
        band, text, (left, int(bottom * band.shape[0])), _FONT, scale, color, 1, cv2.LINE_AA
    )
