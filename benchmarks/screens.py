"""A scanner's screen around a picture of ultrasound: text, rulers, a logo, a panel, made up.

Nothing of it is from a real scanner; which pixels are the screen's is known exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Screen", "screen_around"]

_LETTERS = list("ABCDEFGHIKLMNOPRSTUVWXYZ0123456789.:/-")
_MARGIN = 0.35
"""Width of the columns beside the picture, together, as a share of its width."""

_LINES = 9


@dataclass(frozen=True, slots=True, eq=False)
class Screen:
    """A picture in a screen.

    Attributes:
        image: grey, `(H, W)`.
        plain: the same without anything around the picture.
        drawn: bool `(H, W)`, where the screen has drawn something.
    """

    image: NDArray[np.uint8]
    plain: NDArray[np.uint8]
    drawn: NDArray[np.bool_]


def screen_around(picture: NDArray[np.uint8], seed: int) -> Screen:
    """Put a picture into a screen.

    Args:
        picture: grey, `(H, W)`, at least 100 pixels a side.
        seed: of what is written, where, and how bright.
    """
    rng = np.random.default_rng(seed)
    height, width = picture.shape
    left, right = round(0.3 * _MARGIN * width), round(0.7 * _MARGIN * width)
    top, bottom = round(0.08 * height), round(0.05 * height)
    plain = np.zeros((top + height + bottom, left + width + right), dtype=np.uint8)
    plain[top : top + height, left : left + width] = picture
    over = np.zeros_like(plain)
    _texts(over, rng, left + width + 6, top, right)
    _bar(over, left, top, height)
    _ruler(over, rng, left + width + 1, top, height)
    _panel(over, rng, left + width + 6, top + round(0.72 * height), right - 12)
    _write(over, "".join(rng.choice(_LETTERS, 24)), (8, top - 8), 0.5, 230)
    cv2.circle(over, (left // 2, top // 2 + 2), max(4, top // 3), 200, 2)
    drawn = over > 0
    return Screen(np.where(drawn, over, plain), plain, drawn)


def _texts(over: NDArray[np.uint8], rng: np.random.Generator, x: int, top: int, room: int) -> None:
    for line in range(_LINES):
        text = "".join(rng.choice(_LETTERS, max(3, room // 14)))
        _write(over, text, (x, top + 20 + 22 * line), 0.45, int(rng.integers(140, 256)))


def _bar(over: NDArray[np.uint8], left: int, top: int, height: int) -> None:
    """The scale of greys."""
    length = height // 3
    over[top : top + length, 6 : max(12, left // 4)] = np.linspace(255, 1, length)[:, None]


def _ruler(
    over: NDArray[np.uint8], rng: np.random.Generator, x: int, top: int, height: int
) -> None:
    step = int(rng.integers(12, 30))
    for number, y in enumerate(range(top, top + height, step)):
        over[y : y + 2, x : x + (5 if number % 5 == 0 else 3)] = 220


def _panel(over: NDArray[np.uint8], rng: np.random.Generator, x: int, y: int, room: int) -> None:
    if room < 20:
        return
    over[y : y + 60, x : x + room] = 60
    for line in range(2):
        text = "".join(rng.choice(_LETTERS, max(3, room // 12)))
        _write(over[:, : x + room], text, (x + 3, y + 22 + 26 * line), 0.45, 240)


def _write(
    over: NDArray[np.uint8], text: str, at: tuple[int, int], size: float, level: int
) -> None:
    room = np.ascontiguousarray(over)
    cv2.putText(room, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, level, 1, cv2.LINE_AA)
    over[...] = room
