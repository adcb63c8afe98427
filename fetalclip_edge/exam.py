"""Gestational age over an examination: of many frames, with an interval that tightens."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from statistics import median

from fetalclip_edge.results import Frame, GestationalAge, HeadBiometry, Result
from fetalclip_edge.tasks.growth import DEFAULT_CHART, age_from_circumference

__all__ = ["RunningAge"]

_APART_S = 1.0
"""Frames nearer than this show the same plane with the same errors, and count as one."""

_SHARED = 0.5
"""Share of the variance of an error that all frames of one head have in common, so that no number
of frames takes it away. Cautious, not measured: HC18 has few heads that were taken several times.
"""

_MOST_LOOKS = 300
"""Looks that are remembered, the last ones: of a device that runs for days nothing piles up."""

_MEASURES = (
    *("head_circumference_mm", "biparietal_diameter_mm", "occipitofrontal_diameter_mm"),
    "cephalic_index",
)

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
        pause_s: seconds without a look after which the next one begins another examination; for
            who is not told when one ends. By default none do.
    """

    def __init__(
        self, *, live: bool, chart: str = DEFAULT_CHART, pause_s: float = math.inf
    ) -> None:
        self._live, self._chart, self._pause_s = live, chart, pause_s
        self.reset()

    def reset(self) -> None:
        """Forget everything: what comes next is another examination."""
        self._looks: deque[_Look] = deque(maxlen=_MOST_LOOKS)
        self._strange: list[HeadBiometry] = []
        self._error_relative = 0.0
        self._began_s = self._strange_s = -math.inf

    @property
    def looks(self) -> int:
        """How many independent looks at the head the age is of; at most the last 300."""
        return len(self._looks)

    @property
    def head(self) -> HeadBiometry | None:
        """The medians over all looks, and the error that the circumference's has; None before any.

        It has no outline, which is a frame's, and nothing in pixels.
        """
        if not self._looks:
            return None
        return HeadBiometry(
            head_circumference_mm=self._median("head_circumference_mm"),
            biparietal_diameter_mm=self._median("biparietal_diameter_mm"),
            occipitofrontal_diameter_mm=self._median("occipitofrontal_diameter_mm"),
            cephalic_index=self._median("cephalic_index"),
            head_circumference_error_mm=self._error_mm(self._circumference()),
        )

    @property
    def age(self) -> GestationalAge | None:
        """The age by all looks; None before any, or where the chart does not reach."""
        if not self._looks:
            return None
        mm = self._circumference()
        return age_from_circumference(mm, self._error_mm(mm), self._chart)

    def update(self, result: Result, frame: Frame, *, still: bool = False) -> Result:
        """The result of a frame with the age of all so far.

        A frame on which no head was measured in millimetres, or that has no time, keeps its own.
        One whose head is of clearly another size has none: neither is to be relied on.

        Args:
            result: of the frame alone.
            frame: for its time.
            still: the picture stands still, and is no new look: it is shown with the age so far.
        """
        now_s = frame.captured_ns / 1e9 if self._live else frame.pts_s
        head = result.head
        if now_s is None or head is None or head.head_circumference_mm is None:
            return result
        mm, error = head.head_circumference_mm, head.head_circumference_error_mm or 0.0
        if still:
            # No look, so it does not end a pause: the next patient's picture may follow it.
            if not self._looks:
                return result
            return replace(result, gestational_age=None if self._odd(mm, error) else self.age)
        if now_s - self._began_s > self._pause_s:
            self.reset()
        self._error_relative = error / mm
        if not self._belongs(head, mm, error, now_s):
            return replace(result, gestational_age=None)
        if not 0 <= now_s - self._began_s < _APART_S:
            self._looks.append(_Look())
            self._began_s = now_s
        self._looks[-1].add(head)
        return replace(result, gestational_age=self.age)

    def _belongs(self, head: HeadBiometry, mm: float, error: float, now_s: float) -> bool:
        """Whether a circumference is that of this head; after enough others, it is of a new one."""
        if not self._odd(mm, error):
            self._strange.clear()
            return True
        if not 0 <= now_s - self._strange_s < _APART_S:
            self._strange.append(head)
            self._strange_s = now_s
        if len(self._strange) < _CONVINCED:
            return False
        strange = self._strange
        self.reset()
        self._error_relative = error / mm
        for each in strange[:-1]:
            self._looks.append(_Look())
            self._looks[-1].add(each)
        return True

    def _odd(self, mm: float, error: float) -> bool:
        return bool(self._looks) and abs(mm - self._circumference()) > _ANOTHER * error

    def _circumference(self) -> float:
        mm = self._median("head_circumference_mm")
        assert mm is not None
        return mm

    def _median(self, measure: str) -> float | None:
        means = [mean for look in self._looks if (mean := look.mean(measure)) is not None]
        return median(means) if means else None

    def _error_mm(self, mm: float) -> float:
        return self._error_relative * mm * math.sqrt(_SHARED + (1 - _SHARED) / self.looks)


class _Look:
    """What frames of less than a second have measured, on average."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys(_MEASURES, 0.0)
        self._counts = dict.fromkeys(_MEASURES, 0)

    def add(self, head: HeadBiometry) -> None:
        for measure in _MEASURES:
            if (value := getattr(head, measure)) is not None:
                self._sums[measure] += value
                self._counts[measure] += 1

    def mean(self, measure: str) -> float | None:
        count = self._counts[measure]
        return self._sums[measure] / count if count else None
