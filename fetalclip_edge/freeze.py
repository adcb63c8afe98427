"""Tells a picture that stands still (the probe's freeze key) from a live one."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.masking import visible
from fetalclip_edge.results import Frame

__all__ = ["FreezeDetector"]

_ROWS = 64
"""Rows compared, whole: pixels picked one by one would each cost a line of the cache."""
_BLACK = 10
"""Grey levels up to which a pixel is background: a scanner's screen is mostly black."""

_STILL_GREY_LEVELS = 0.25
"""Mean change of the picture's pixels between two frames below which they are one. A codec or a
digital link leaves a frozen picture as it is; an analogue one adds noise, which is not told from
movement here."""


class FreezeDetector:
    """Watches the frames of one source.

    Args:
        live: True for a device, whose presentation times are no clock; those of a recording are.
        hold_s: seconds for which the picture must have stood still.

    Attributes:
        repeated: whether the last frame shows the picture of the one before it.
    """

    def __init__(self, *, live: bool, hold_s: float = 0.5) -> None:
        self._live, self._hold_s = live, hold_s
        self._recorded = False
        self._last_s = 0.0
        self._last: NDArray[np.uint8] | None = None
        self._still_since_s = 0.0
        self.repeated = False

    def update(self, frame: Frame) -> bool:
        """Take in the next frame; True when the picture has stood still for `hold_s`."""
        recorded = frame.pts_s is not None and not self._live
        now_s = frame.pts_s if recorded and frame.pts_s is not None else frame.captured_ns / 1e9
        # The ultrasound alone: the clock on a frozen scanner's screen still runs.
        height = frame.image.shape[0] if frame.region is None else frame.region.height
        thumbnail = visible(frame, max(1, height // _ROWS)).copy()
        last, self._last = self._last, thumbnail
        went_back = now_s < self._last_s or recorded != self._recorded
        self._last_s, self._recorded = now_s, recorded
        self.repeated = not (
            last is None or last.shape != thumbnail.shape or went_back or _change(last, thumbnail)
        )
        if not self.repeated:
            self._still_since_s = now_s
        return self.repeated and now_s - self._still_since_s >= self._hold_s


def _change(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> bool:
    total = cv2.norm(before, after, cv2.NORM_L1)
    if total > _STILL_GREY_LEVELS * before.size:
        return True  # as live frames are: no need to count which pixels are picture
    return bool(total > _STILL_GREY_LEVELS * np.count_nonzero(before > _BLACK))
