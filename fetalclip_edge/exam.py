"""Gestational age over an examination: of many frames, with an interval that tightens."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean, median

from fetalclip_edge.results import Frame, GestationalAge, Result
from fetalclip_edge.tasks.growth import DEFAULT_CHART, age_from_circumference

__all__ = ["RunningAge"]

_APART_S = 1.0
"""Frames nearer than this show the same plane with the same errors, and count as one."""

_SHARED = 0.5
"""Share of the variance of an error that all frames of one head have in common, so that no number
of frames takes it away. Cautious, not measured: HC18 has few heads that were taken several times.
"""

_ANOTHER = 4.0
_CONVINCED = 3
"""So many looks in a row, each as many standard deviations from the median as this, are another
head: a new examination has begun."""


class RunningAge:
    """The age by all good frames of one examination so far.

    The circumference is the median of looks at least a second apart. Their errors average out in
    part; what fetuses of one age differ by stays.

    Args:
        live: True for a device, whose presentation times are no clock; those of a recording are.
        chart: growth chart of the age.
    """

    def __init__(self, *, live: bool, chart: str = DEFAULT_CHART) -> None:
        self._live, self._chart = live, chart
        self.reset()

    def reset(self) -> None:
        """Forget everything: what comes next is another examination."""
        self._looks: list[list[float]] = []
        self._strange: list[float] = []
        self._began_s = self._strange_s = -math.inf

    @property
    def looks(self) -> int:
        """How many independent looks at the head the age is of."""
        return len(self._looks)

    def update(self, result: Result, frame: Frame, *, still: bool = False) -> Result:
        """The result of a frame with the age of all so far.

        A frame on which no head was measured in millimetres, or that has no time, keeps its own.

        Args:
            result: of the frame alone.
            frame: for its time.
            still: the picture stands still, and is no new look after the first.
        """
        now_s = frame.captured_ns / 1e9 if self._live else frame.pts_s
        head = result.head
        if now_s is None or head is None or head.head_circumference_mm is None:
            return result
        mm, error = head.head_circumference_mm, head.head_circumference_error_mm or 0.0
        if not (still and self._looks) and self._belongs(mm, error, now_s):
            if not 0 <= now_s - self._began_s < _APART_S:
                self._looks.append([])
                self._began_s = now_s
            self._looks[-1].append(mm)
        return replace(result, gestational_age=self._age(error / mm))

    def _belongs(self, mm: float, error: float, now_s: float) -> bool:
        """Whether a circumference is that of this head; after enough others, it is of a new one."""
        if not self._looks or abs(mm - self._median()) <= _ANOTHER * error:
            self._strange.clear()
            return True
        if not 0 <= now_s - self._strange_s < _APART_S:
            self._strange.append(mm)
            self._strange_s = now_s
        if len(self._strange) < _CONVINCED:
            return False
        strange = self._strange
        self.reset()
        self._looks = [[each] for each in strange[:-1]]
        return True

    def _median(self) -> float:
        return median(fmean(look) for look in self._looks)

    def _age(self, error_relative: float) -> GestationalAge | None:
        mm = self._median()
        error = error_relative * mm * math.sqrt(_SHARED + (1 - _SHARED) / self.looks)
        return age_from_circumference(mm, error, self._chart)
