"""Tells a picture that stands still (the probe's freeze key) from a live one."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.results import Frame

__all__ = ["FreezeDetector"]

_STEP = 8
"""Every eighth row, whole: pixels picked one by one would each cost a line of the cache."""
_STILL_GREY_LEVELS = 0.25
"""Mean change between two frames below which they are one picture. Speckle of live ultrasound
changes by about one level even when nobody moves; a video codec leaves a still picture as it is."""


class FreezeDetector:
    """Watches the frames of one source.

    Args:
        hold_s: seconds for which the picture must have stood still.
    """

    def __init__(self, hold_s: float = 0.5) -> None:
        self._hold_s = hold_s
        self._last: NDArray[np.uint8] | None = None
        self._still_since_s = 0.0

    def update(self, frame: Frame) -> bool:
        """Take in the next frame; True when the picture has stood still for `hold_s`."""
        now_s = frame.captured_ns / 1e9 if frame.pts_s is None else frame.pts_s
        thumbnail = _picture(frame)[::_STEP].copy()
        last, self._last = self._last, thumbnail
        if last is None or last.shape != thumbnail.shape or _change(last, thumbnail):
            self._still_since_s = now_s
            return False
        return now_s - self._still_since_s >= self._hold_s


def _picture(frame: Frame) -> NDArray[np.uint8]:
    """The ultrasound alone: the clock on a frozen scanner's screen still runs."""
    if frame.region is None:
        return frame.image
    x, y, width, height = frame.region
    return frame.image[y : y + height, x : x + width]


def _change(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> bool:
    total = cv2.norm(before, after, cv2.NORM_L1)
    return bool(total > _STILL_GREY_LEVELS * before.size)
