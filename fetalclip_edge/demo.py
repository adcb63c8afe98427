"""The shipped clip, and what is said of a recording as a whole."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fetalclip_edge.results import Result

__all__ = ["DEMO_CLIP", "Passage", "passages"]

DEMO_CLIP = Path(__file__).parent / "assets" / "simulated_head.mp4"
"""Simulated ultrasound of a fetal head, ten seconds, made by `benchmarks/simulate.py`."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a recording with one answer.

    Attributes:
        start_s, end_s: presentation time of its first and last frame, in seconds.
        state: of its results.
        label: plane of its results.
        frames: how many.
        confidence: mean over its frames.
    """

    start_s: float
    end_s: float
    state: str
    label: str
    frames: int
    confidence: float


def passages(results: Sequence[Result]) -> list[Passage]:
    """Join successive results that agree in state and plane."""
    return [
        _passage(list(group))
        for _, group in itertools.groupby(results, key=lambda r: (r.state, r.plane.label))
    ]


def _passage(results: list[Result]) -> Passage:
    first, last = results[0], results[-1]
    return Passage(
        start_s=first.pts_s or 0.0,
        end_s=last.pts_s or 0.0,
        state=str(first.state),
        label=first.plane.label,
        frames=len(results),
        confidence=sum(r.plane.confidence for r in results) / len(results),
    )
