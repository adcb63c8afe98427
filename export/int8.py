"""The INT8 graphs of a bundle: judged, repaired, and what the manifest says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from rich.console import Console

from calibration.attempts import Outcome, Work, judge_graphs, until_it_passes
from calibration.families import CPU, Family
from calibration.frames import hash_of, scanners
from calibration.gate import GateError
from calibration.settings import Settings, settings_for
from export.fitting import Fitted
from export.metrics import count_withheld
from training.datasets import Example

__all__ = ["SettledInt8", "settle"]


@dataclass(frozen=True, slots=True)
class SettledInt8:
    """What became of the INT8 graphs.

    Attributes:
        work: what they were made from.
        settings: with the method that was taken.
        outcome: how far each family's graph came; that for CPUs passed.
    """

    work: Work
    settings: Settings
    outcome: Outcome

    @property
    def passed(self) -> dict[Family, Path]:
        """The graphs that the bundle gets; judged by validation: the test chooses nothing."""
        attempts = self.outcome.attempts.items()
        return {family: attempt.path for family, attempt in attempts if attempt.judgement.passed}

    def described(self, chosen: Sequence[Example], fitted: Fitted) -> dict[str, Any]:
        """The part `calibration` of the manifest.

        Args:
            chosen: the calibration set.
            fitted: domain and threshold, of which the withheld validation images are counted.
        """
        settings, outcome = self.settings, self.outcome
        return {
            "frames": len(self.work.frames),
            "seed": settings.seed,
            "sha256_of_frames": hash_of(self.work.frames),
            "scanners": scanners(chosen),
            "method": settings.method,
            "in_float": {
                family.file: [*settings.in_float, *layers]
                for family, layers in outcome.in_float.items()
            },
            "gate": {
                family.file: attempt.judgement.to_dict()
                for family, attempt in outcome.attempts.items()
            },
            "withheld": {
                family.file: count_withheld(attempt.outputs, self.work.examples, fitted)
                for family, attempt in outcome.attempts.items()
            },
        }


def settle(
    work: Work, graphs: Mapping[Family, Path], settings: Settings, console: Console
) -> SettledInt8:
    """Judge INT8 graphs, and leave layers in float until they pass.

    Args:
        work: what they were made from.
        graphs: of each family of runtimes, with nothing more in float than the settings say.
        settings: how to quantise, and the limits of the gate.
        console: for progress; also told of a graph for GPUs that fails, which is left out alone.

    Raises:
        GateError: the graph for CPUs fails.
    """
    settings = settings_for(settings, onnx.load(work.core).graph)
    outcome = until_it_passes(work, settings, judge_graphs(work, graphs, settings.gate), console)
    judged = outcome.attempts[CPU].judgement
    if not judged.passed:
        raise GateError(f"INT8 fails the accuracy gate: {'; '.join(judged.failures)}")
    for family, attempt in outcome.attempts.items():
        if not attempt.judgement.passed:
            console.print(
                f"the bundle has no INT8 for {family.title}; python -m calibration.int8 tells more",
                highlight=False,
                soft_wrap=True,
            )
    return SettledInt8(work, settings, outcome)
