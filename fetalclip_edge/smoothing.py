"""Answers of a film: averaged over the last moments, and slow to change their mind on the domain.

A single frame may be blurred, or lie a hair beyond what the model knows, between two that do not.
Shown as it comes, the screen flickers, and nobody reads a flickering screen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from fetalclip_edge.results import Frame, ProbeScores, Result, StreamState
from fetalclip_edge.tasks.planes import brain_plane_scores, plane_scores
from fetalclip_edge.tasks.probes import probe_scores

__all__ = ["DEFAULT_SPAN_S", "Smoother"]

DEFAULT_SPAN_S = 0.3
"""Ten frames at thirty a second: shorter than a look at the screen."""

_BREAK_S = 1.0
"""What was before a gap this long says nothing of what comes after it."""

_LEAVE, _RETURN = 1.04, 1.0
"""Averaged distances at which answers are withheld, and given again. In between what was decided
stands; a stream begins as its first frame is."""

_CLEARLY_BEYOND = 1.15
"""A frame as far as this is withheld at once, whatever was before it."""


class _Average:
    """Of named values, each observation's weight halving and halving again as time goes by."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self._weight = 0.0

    def add(self, values: Mapping[str, float], keep: float) -> None:
        """Take in values; a share `keep` of the weight of earlier ones is left."""
        self._weight = keep * self._weight + 1
        share = 1 / self._weight
        self.values = {
            name: value + (1 - share) * (self.values.get(name, value) - value)
            for name, value in values.items()
        }

    def fade(self, keep: float) -> None:
        """Take in nothing: of the weight of earlier values a share `keep` is left."""
        self._weight *= keep


class Smoother:
    """Averages the answers of one film.

    Planes, sub-planes and probes are averaged over about the last `span_s` seconds, and the label
    is that of the highest average, or by a probe's threshold. So is the distance from what the
    model knows (its logarithm), and withholding begins and ends at different averages.

    Args:
        live: True for a device, whose presentation times are no clock; those of a recording are.
        span_s: time in which the weight of an answer falls to 1/e, in seconds; above 0.
    """

    def __init__(self, *, live: bool, span_s: float = DEFAULT_SPAN_S) -> None:
        self._live, self._span_s = live, span_s
        self.reset()

    def reset(self) -> None:
        """Forget everything: what comes next is another picture."""
        self._planes, self._brain_planes, self._distance = _Average(), _Average(), _Average()
        self._probes: dict[str, _Average] = {}
        self._withheld = False
        self._last_s: float | None = None

    def update(self, result: Result, frame: Frame) -> Result:
        """The result of a frame in the light of those before it.

        A frame that has no time, no picture or no distance that is a number keeps its own answer.
        """
        now_s = frame.captured_ns / 1e9 if self._live else frame.pts_s
        far = result.domain_distance
        if now_s is None or far is None or not math.isfinite(far):
            self.reset()
            return result
        gap_s = math.inf if self._last_s is None else now_s - self._last_s
        if not 0 <= gap_s <= _BREAK_S:
            self.reset()
            self._withheld = result.state == StreamState.OUT_OF_DOMAIN
        self._last_s = now_s
        keep = math.exp(-gap_s / self._span_s)
        distance = self._average_distance(far, keep)
        self._withheld = distance > (_RETURN if self._withheld else _LEAVE)
        self._withheld |= far > _CLEARLY_BEYOND
        self._planes.add(result.plane.scores, keep)
        if result.brain_plane is not None:
            self._brain_planes.add(result.brain_plane.scores, keep)
        else:
            self._brain_planes.fade(keep)
        plane = plane_scores(self._planes.values, abstain=self._withheld)
        brain = None
        if max(plane.scores, key=plane.scores.__getitem__) == "brain" and self._brain_planes.values:
            brain = brain_plane_scores(self._brain_planes.values, abstain=self._withheld)
        return replace(
            result,
            state=StreamState.OUT_OF_DOMAIN if self._withheld else StreamState.LIVE,
            plane=plane,
            brain_plane=brain,
            head=result.head if plane.label == "brain" else None,
            gestational_age=result.gestational_age if plane.label == "brain" else None,
            reason=self._reason(result, distance),
            probes={name: self._probe(name, found, keep) for name, found in result.probes.items()},
        )

    def _probe(self, name: str, found: ProbeScores, keep: float) -> ProbeScores:
        average = self._probes.setdefault(name, _Average())
        average.add(found.scores, keep)
        return probe_scores(average.values, found.threshold, abstain=self._withheld)

    def _average_distance(self, distance: float, keep: float) -> float:
        self._distance.add({"log": math.log(max(distance, 1e-6))}, keep)
        return math.exp(self._distance.values["log"])

    def _reason(self, result: Result, distance: float) -> str | None:
        if not self._withheld:
            return None
        return result.reason or (
            "unlike the fetal ultrasound the model knows over the last moments "
            f"({distance:.2f} times as far as accepted)"
        )
