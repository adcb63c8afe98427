"""The accuracy gate: how near to FP32 a graph must answer to be worth shipping.

Judged on validation patients, whom training held out: the test patients choose nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.metrics import f1_score

from calibration.confidence import expected_calibration_error, fit_temperature
from export.graph import OUTPUT
from fetalclip_edge.cosines import row_cosines
from fetalclip_edge.results import BRAIN_PLANES, PLANES
from training.datasets import Example
from training.evaluation.intervals import patient_bootstrap
from training.evaluation.scores import drawn_scores
from training.zero_shot import SCORED_PLANES

__all__ = ["Gate", "GateError", "Judgement", "judge"]

Floats = NDArray[np.float32]

_LABELS = {"planes": PLANES, "brain_planes": BRAIN_PLANES}
_SCORED = {"planes": SCORED_PLANES, "brain_planes": BRAIN_PLANES}


class GateError(RuntimeError):
    """A graph lost more accuracy than a bundle may."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Limits; points are hundredths of F1.

    Validation has so few images of brain sub-planes that one answer moves their F1 by points. Of
    these a drop counts as far as chance does not explain it: the lower end of its 95 % interval.

    Attributes:
        macro_f1_drop: of the planes, and of the sub-planes, at most, in points.
        class_f1_drop: of any one plane or sub-plane, at most, in points.
        mean_cosine: of embeddings, and of every other output, with those of FP32, at least.
        p01_cosine: of the 1st percentile of frames, at least.
        agreement: share of frames with the plane that FP32 answers, at least.
        calibration_error_rise: of the planes, at most, 0 to 1.
    """

    macro_f1_drop: float = 0.5
    class_f1_drop: float = 1.5
    mean_cosine: float = 0.99
    p01_cosine: float = 0.9
    agreement: float = 0.98
    calibration_error_rise: float = 0.02

    def __post_init__(self) -> None:
        for name in ("macro_f1_drop", "class_f1_drop"):
            _require(0 <= getattr(self, name) <= 100, name, "0 and 100", getattr(self, name))
        for name in ("mean_cosine", "p01_cosine"):
            _require(-1 <= getattr(self, name) <= 1, name, "-1 and 1", getattr(self, name))
        for name in ("agreement", "calibration_error_rise"):
            _require(0 <= getattr(self, name) <= 1, name, "0 and 1", getattr(self, name))


def _require(condition: bool, name: str, between: str, value: float) -> None:
    if not condition:  # also when it is not a number
        raise ValueError(f"{name} must lie between {between}, not {value!r}")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a graph was measured at, beside FP32, and where it fails.

    Attributes:
        macro_f1: task -> of FP32 and of the graph, 0 to 1.
        class_f1: task -> class -> of FP32 and of the graph, 0 to 1.
        agreement: task -> share of frames with FP32's answer.
        cosine_mean, cosine_p01: of the embeddings with FP32's.
        calibration_error: of the planes, of FP32 and of the graph, each at its own temperature.
        failures: what is beyond the limits, in words; empty when it passes.
        least_drop: "macro" or a brain sub-plane -> how far its F1 falls at least, the lower end
            of the 95 % interval over patients; negative where it may rise.
        other_cosines: another output -> mean cosine with FP32's.
    """

    macro_f1: dict[str, tuple[float, float]]
    class_f1: dict[str, dict[str, tuple[float, float]]]
    agreement: dict[str, float]
    cosine_mean: float
    cosine_p01: float
    calibration_error: tuple[float, float]
    failures: list[str] = field(default_factory=list)
    least_drop: dict[str, float] = field(default_factory=dict)
    other_cosines: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether nothing is beyond the limits."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {**asdict(self), "passed": self.passed}


def judge(
    outputs: Mapping[str, Floats],
    others: Mapping[str, Floats],
    examples: Sequence[Example],
    prompts: dict[str, Floats],
    gate: Gate,
) -> Judgement:
    """Measure a graph against FP32 on the same images.

    Args:
        outputs: of FP32 by name, `(N, ...)`; embeddings are `(N, D)`, L2-normalised.
        others: of the graph in question, likewise.
        examples: what the images show, of validation patients.
        prompts: task -> embeddings of its classes `(classes, D)`.
        gate: the limits.

    Raises:
        ValueError: the arrays do not belong together, or no image is labelled with a plane.
    """
    fp32, other = outputs[OUTPUT], others[OUTPUT]
    if fp32.shape != other.shape or len(fp32) != len(examples):
        raise ValueError(
            f"embeddings of {fp32.shape} and {other.shape} do not go with {len(examples)} images"
        )
    truth = {
        "planes": np.array([e.facts.plane or "" for e in examples]),
        "brain_planes": np.array([e.facts.brain_plane or "" for e in examples]),
    }
    if not np.isin(truth["planes"], SCORED_PLANES).any():
        raise ValueError(
            "no validation image is labelled with a plane; add FETAL_PLANES_DB to the "
            "sources of python -m training.data"
        )
    macro, classes, agreement, least_drop = {}, {}, {}, {}
    for task, labels in _LABELS.items():
        known = np.isin(truth[task], _SCORED[task])
        if not known.any():
            continue
        # FP32's opinion of a picture's sub-plane counts where there is a brain to have one of.
        asked = known if task == "planes" else truth["planes"] == "brain"
        answers = [np.array(labels)[(e @ prompts[task].T).argmax(axis=1)] for e in (fp32, other)]
        there = [label for label in _SCORED[task] if label in truth[task]]
        each = [
            f1_score(truth[task][known], a[known], labels=there, average=None, zero_division=0)
            for a in answers
        ]
        macro[task] = (float(each[0].mean()), float(each[1].mean()))
        classes[task] = {
            label: (float(one), float(two)) for label, one, two in zip(there, *each, strict=True)
        }
        agreement[task] = float((answers[0] == answers[1])[asked].mean())
        if task == "brain_planes":
            least_drop = _least_drop(
                *(truth[task][known], answers[0][known], answers[1][known], there),
                [e.group for e, counts in zip(examples, known, strict=True) if counts],
            )
    cosines = (fp32 * other).sum(axis=1)
    found = Judgement(
        macro_f1=macro,
        class_f1=classes,
        agreement=agreement,
        cosine_mean=float(cosines.mean()),
        cosine_p01=float(np.quantile(cosines, 0.01)),
        calibration_error=(
            _calibration_error(fp32, truth["planes"], prompts["planes"]),
            _calibration_error(other, truth["planes"], prompts["planes"]),
        ),
        least_drop=least_drop,
        other_cosines={
            name: float(row_cosines(outputs[name], others[name]).mean())
            for name in outputs
            if name != OUTPUT
        },
    )
    found.failures.extend(_failures(found, gate))
    return found


def _least_drop(
    truth: NDArray[np.str_],
    before: NDArray[np.str_],
    after: NDArray[np.str_],
    labels: Sequence[str],
    patients: Sequence[str],
) -> dict[str, float]:
    """Class, or "macro" -> lower end of the 95 % interval of how far F1 falls, 0 to 1.

    Of one patient alone, who says nothing of others, it is how far it falls.
    """
    places = {label: place for place, label in enumerate(labels)}
    right, one, other = (
        np.array([places.get(each, len(labels)) for each in said])
        for said in (truth, before, after)
    )
    scores = [drawn_scores(right, found, range(len(labels))) for found in (one, other)]

    def drops(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        macro, _, *each = scores[0](weights) - scores[1](weights)
        return np.array([macro, *each])

    intervals = patient_bootstrap(drops, patients)
    found = drops(np.ones(len(truth)))
    least = [drop if i is None else i[0] for drop, i in zip(found, intervals, strict=True)]
    return dict(zip(["macro", *labels], map(float, least), strict=True))


def _calibration_error(embeddings: Floats, truth: NDArray[np.str_], prompts: Floats) -> float:
    """Expected calibration error at the likeliest temperature, as a bundle would have it."""
    known = np.isin(truth, PLANES)
    cosines = (embeddings @ prompts.T)[known]
    index = np.array([PLANES.index(name) for name in truth[known]])
    if not np.isfinite(cosines).all():
        return math.nan
    scores = softmax(cosines / fit_temperature(cosines, index), axis=1)
    return expected_calibration_error(scores.max(axis=1).astype(float), scores.argmax(1) == index)


def _failures(found: Judgement, gate: Gate) -> list[str]:
    """Comparisons are written so that what is not a number fails."""
    failures = []
    before, after = found.macro_f1["planes"]
    if not 100 * (before - after) <= gate.macro_f1_drop:
        failures.append(
            f"macro-F1 of the planes falls by {100 * (before - after):.1f} points, "
            f"{before:.3f} -> {after:.3f} (at most {gate.macro_f1_drop:g})"
        )
    failures += [
        f"F1 of {plane} falls by {100 * (one - two):.1f} points, {one:.3f} -> {two:.3f} "
        f"(at most {gate.class_f1_drop:g})"
        for plane, (one, two) in found.class_f1["planes"].items()
        if not 100 * (one - two) <= gate.class_f1_drop
    ]
    for name, drop in found.least_drop.items():
        macro = name == "macro"
        most = gate.macro_f1_drop if macro else gate.class_f1_drop
        if not 100 * drop <= most:
            failures.append(
                f"{'macro-F1 of the sub-planes' if macro else f'F1 of {name}'} falls by at least "
                f"{100 * drop:.1f} points (95 % interval; at most {most:g})"
            )
    cosines = [
        (f"the mean cosine of {name} with FP32", value, gate.mean_cosine)
        for name, value in found.other_cosines.items()
    ]
    for title, value, least in (
        *cosines,
        ("the mean cosine with FP32", found.cosine_mean, gate.mean_cosine),
        ("the 1st percentile of the cosine with FP32", found.cosine_p01, gate.p01_cosine),
        ("the share of planes answered as by FP32", found.agreement["planes"], gate.agreement),
    ):
        if not value >= least:
            failures.append(f"{title} is {value:.4f} (at least {least:g})")
    rise = found.calibration_error[1] - found.calibration_error[0]
    if not rise <= gate.calibration_error_rise:
        failures.append(
            f"the calibration error of the planes rises by {rise:.3f} "
            f"(at most {gate.calibration_error_rise:g})"
        )
    return failures
