"""The answers of one film, each in the light of those before it."""

from __future__ import annotations

from dataclasses import replace

from fetalclip_edge.exam import RunningAge
from fetalclip_edge.freeze import FreezeDetector
from fetalclip_edge.model import Model
from fetalclip_edge.motion import QualityWatch
from fetalclip_edge.results import Frame, Result, StreamState
from fetalclip_edge.smoothing import Smoother
from fetalclip_edge.sources import Source

__all__ = ["Film"]

_PAUSE_S = 60.0
"""No head was seen for so long: the next patient may lie there, and nobody has said so."""


class Film:
    """What is remembered of one source. Pictures of their own are each answered alone.

    Args:
        source: of the frames.
        model: whose answers they are; one of the user's own may have no heart and no chart.
        smoothing_s: seconds over which answers are averaged; 0 for none.
    """

    def __init__(self, source: Source, model: Model, smoothing_s: float) -> None:
        self._source, self._model, self._smoothing_s = source, model, smoothing_s
        self.begin()

    def begin(self) -> None:
        """Forget everything: after a break the probe may show anything."""
        self._freeze = FreezeDetector(live=self._source.live)
        self.begin_exam()

    def begin_exam(self) -> None:
        """Forget what was seen, but not whether the picture stands still.

        The last patient's may be on the screen yet, and is no look at the next one.
        """
        live = self._source.live
        self._smoother: Smoother | None = None
        if self._smoothing_s > 0:
            self._smoother = Smoother(live=live, span_s=self._smoothing_s)
        self._quality = QualityWatch(live=live, hold_s=self._smoothing_s)
        self._age: RunningAge | None = None
        heart = getattr(self._model, "heart", None)
        self._heart = None if heart is None else heart.window(live=live)

    def update(self, result: Result, frame: Frame) -> Result:
        """The answer for the next frame, by all that was seen.

        Args:
            result: of the frame alone.
            frame: with the region and the pixel size that hold for it.
        """
        if self._source.still_pictures:
            return result
        if self._smoother is not None:
            result = self._smoother.update(result, frame)
        result = self._quality.update(result, frame)
        still = self._freeze.update(frame)
        if result.head is not None:
            if self._age is None:
                self._age = RunningAge(
                    live=self._source.live, chart=self._model.chart, pause_s=_PAUSE_S
                )
            result = self._age.update(result, frame, still=still)
        if self._heart is not None:
            result = self._heart.update(result, frame, still=self._freeze.repeated)
        if still and result.state == StreamState.LIVE:
            result = replace(result, state=StreamState.FROZEN)
        return result
