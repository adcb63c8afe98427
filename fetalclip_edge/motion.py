"""How still the probe is held: the picture against itself, a tenth of a second before."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.masking import visible
from fetalclip_edge.results import Frame, Region, Result
from fetalclip_edge.tasks.quality import with_motion

__all__ = ["MotionMeter", "QualityWatch", "speed_score"]

_SIDE, _SAMPLES = 64, 128
"""Of the thumbnail, and of the grid of pixels that it is made of."""
_SURROUNDINGS = (17, 17)
_MARGIN = np.ones((5, 5), np.uint8)
_BLACK = 10.0
"""Grey levels up to which a pixel is background."""

_APART_S, _FARTHEST_S = 0.1 - 1e-6, 0.5
"""Two frames that are compared lie so far apart: nearer than that noise is most of what differs,
and farther than that the picture may have gone and come back. Times are sums of fractions."""

_SPEEDS, _SCORES = (4.0, 6.0, 9.0), (1.0, 0.5, 0.0)
"""A cine of an adult heart, the probe held still, lies between 1.8 and 5.3. Train frames of
FETAL_PLANES_DB moved by a fiftieth of their width in a tenth of a second have 5.6 (median), by a
twenty-fifth 7.8. There are no cines of fetuses to set it by."""


class MotionMeter:
    """Compares each frame of one source with what it was a moment before.

    Speed is the square root of one minus the correlation of fine structure, over the time between:
    in proportion to how fast a picture moves as long as it is slow, and beyond that large.

    Args:
        live: True for a device, whose presentation times are no clock; those of a recording are.
    """

    def __init__(self, *, live: bool) -> None:
        self._live = live
        self._before: deque[tuple[float, NDArray[np.float32]]] = deque()

    def update(self, frame: Frame) -> float | None:
        """Take in the next frame; its speed, or None where there is nothing to compare it with."""
        now_s = frame.captured_ns / 1e9 if self._live else frame.pts_s
        if now_s is None:
            self._before.clear()
            return None
        structure = _structure(frame)
        if structure is None:
            self._before.clear()
            return None
        if self._before and not 0 <= now_s - self._before[-1][0] <= _FARTHEST_S:
            self._before.clear()
        while len(self._before) > 1 and now_s - self._before[1][0] >= _APART_S:
            self._before.popleft()
        speed = None
        if self._before:
            then_s, earlier = self._before[0]
            if _APART_S <= now_s - then_s <= _FARTHEST_S:
                likeness = float(np.vdot(structure, earlier))
                speed = math.sqrt(max(0.0, 1 - likeness)) / (now_s - then_s)
        self._before.append((now_s, structure))
        return speed


class QualityWatch:
    """The quality of a film: with motion, and in words that stay long enough to be read.

    Args:
        live: as of `MotionMeter`.
        hold_s: seconds for which other words must have held before they are told.
    """

    def __init__(self, *, live: bool, hold_s: float) -> None:
        self._meter, self._live, self._hold_s = MotionMeter(live=live), live, hold_s
        self._told: str | None = None
        self._next: str | None = None
        self._since_s: float | None = None

    def update(self, result: Result, frame: Frame) -> Result:
        """The result of a frame in the light of those before it. Its state stays as it is."""
        speed = self._meter.update(frame)
        quality = result.quality
        if quality is None:
            self._since_s = None
            return result
        if speed is not None:
            quality = with_motion(quality, speed_score(speed))
        now_s = frame.captured_ns / 1e9 if self._live else frame.pts_s
        if now_s is not None:
            quality = replace(quality, reason=self._steady(quality.reason, now_s))
        return replace(result, quality=quality)

    def _steady(self, reason: str | None, now_s: float) -> str | None:
        if self._since_s is None or now_s < self._since_s:
            self._told = self._next = reason
            self._since_s = now_s
        elif reason != self._next:
            self._next, self._since_s = reason, now_s
        if now_s - self._since_s >= self._hold_s:
            self._told = self._next
        return self._told


def speed_score(speed: float) -> float:
    """1 for a probe that is held still, 0 for one that sweeps."""
    return float(np.interp(speed, _SPEEDS, _SCORES))


def _structure(frame: Frame) -> NDArray[np.float32] | None:
    """What a picture shows without its shading, of length 1; None where that is nothing.

    Shading stays with the probe, wherever it is moved.
    """
    region = frame.region or Region(0, 0, frame.image.shape[1], frame.image.shape[0])
    rows = visible(frame, max(1, region.height // _SAMPLES))
    if rows.ndim == 3:
        rows = rows[..., 1]
    samples = rows[:, :: max(1, region.width // _SAMPLES)].astype(np.float32)
    levels = cv2.resize(samples, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    levels = cv2.subtract(levels, cv2.blur(levels, _SURROUNDINGS), mask=_inside(levels))
    length = float(np.linalg.norm(levels))
    if length == 0:
        return None
    structure: NDArray[np.float32] = levels / length
    return structure


def _inside(levels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Not the picture's edge, which stays where it is."""
    return np.asarray(cv2.erode((levels > _BLACK).astype(np.uint8), _MARGIN))
