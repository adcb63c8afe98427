"""Latency of a stream: every sample of every stage, and its percentiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.results import Timing

__all__ = ["Latency", "LatencyRecorder"]

_KEPT = 100_000
"""Samples kept per stage: an hour at 30 frames per second, 0.8 MB a stage."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of one stage, in milliseconds."""

    p50: float
    p95: float
    p99: float
    max: float


class LatencyRecorder:
    """Collects the timing of results.

    Percentiles are over the last 100,000 results, the maximum is over all; no sample is
    left out or clipped.
    """

    def __init__(self) -> None:
        self._samples: dict[str, _Ring] = {}
        self._max: dict[str, float] = {}

    def add(self, timing: Timing) -> None:
        """Take in the stages of one result."""
        for stage, value in timing.to_dict().items():
            self._max[stage] = max(value, self._max.get(stage, value))
            if stage not in self._samples:
                self._samples[stage] = _Ring()
            self._samples[stage].add(value)

    def summary(self) -> dict[str, Latency]:
        """Stage -> its percentiles."""
        summary: dict[str, Latency] = {}
        # Copies, for another thread may ask while results come in.
        for stage, samples in list(self._samples.items()):
            p50, p95, p99 = np.percentile(samples.values(), (50, 95, 99)).tolist()
            summary[stage] = Latency(p50, p95, p99, self._max[stage])
        return summary


class _Ring:
    """The last samples of one stage."""

    def __init__(self) -> None:
        # All of its memory is taken now (zeros would be lent page by page), so that a stream which
        # runs for days needs no more than one that has begun.
        self._values = np.full(_KEPT, np.nan)
        self._count = 0

    def add(self, value: float) -> None:
        self._values[self._count % len(self._values)] = value
        self._count += 1

    def values(self) -> NDArray[np.float64]:
        return self._values[: self._count].copy()
