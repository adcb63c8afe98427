"""Timing of alternatives side by side: interleaved rounds, paired ratios, tails kept."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

from fetalclip_edge.machine import describe_machine

__all__ = ["Timings", "interleave", "machine", "print_report", "table"]


@dataclass(frozen=True)
class Timings:
    """Milliseconds of one alternative, one a round."""

    milliseconds: tuple[float, ...]

    def percentile(self, percent: float) -> float:
        """The given percentile, interpolated linearly, in milliseconds."""
        return float(np.percentile(self.milliseconds, percent))

    @property
    def median(self) -> float:
        """Milliseconds of the middle round."""
        return self.percentile(50)

    def ratio_to(self, other: Timings) -> float:
        """How many times longer this took: the median of the ratios round by round.

        Both ran in the same round, so what slows the machine down for a while slows both.
        """
        pairs = zip(self.milliseconds, other.milliseconds, strict=True)
        return float(np.median([mine / theirs for mine, theirs in pairs]))

    def to_dict(self) -> dict[str, float]:
        """Median, p95, p99 and the largest, in milliseconds."""
        values = {
            "median_ms": self.median,
            "p95_ms": self.percentile(95),
            "p99_ms": self.percentile(99),
            "max_ms": max(self.milliseconds),
        }
        return {name: round(value, 4) for name, value in values.items()}


def interleave(
    alternatives: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 3
) -> dict[str, Timings]:
    """Time every alternative once a round, each round in another order.

    Args:
        alternatives: name -> what to time.
        rounds: how many timings to take of each, at least 1.
        warmup: rounds before those, which are not counted.

    Returns:
        name -> its timings, in the order of the rounds.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    taken: dict[str, list[float]] = {name: [] for name in alternatives}
    names = list(alternatives)
    for index in range(warmup + rounds):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            work = alternatives[name]
            begin = time.perf_counter_ns()
            work()
            end = time.perf_counter_ns()
            if index >= warmup:
                taken[name].append((end - begin) / 1e6)
    return {name: Timings(tuple(values)) for name, values in taken.items()}


def machine(packages: Sequence[str] = ()) -> dict[str, Any]:
    """What a timing depends on: the machine, its load, and versions of `packages`."""
    return {
        **describe_machine(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "packages": {name: metadata.version(name) for name in packages},
    }


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table whose columns line up; floats are shown with three digits."""
    cells = [list(header)] + [[_shown(value) for value in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def print_report(report: Mapping[str, Any], text: str) -> None:
    """The text on stderr for people, the report as JSON on stdout for files and programs."""
    print(text, file=sys.stderr)
    print(json.dumps(report, indent=2))
