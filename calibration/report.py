"""The report of a calibration: Markdown, JSON and plots, without a picture of any patient."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.timing import table
from calibration.gate import Judgement
from calibration.sensitivity import Sensitivity

__all__ = ["Answers", "GraphReport", "write_report"]

_BINS = 10
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Answers:
    """How sure a graph is of the plane of each validation image, and whether it is right.

    Attributes:
        confidence: `(N,)`, 0 to 1.
        correct: `(N,)`.
    """

    confidence: NDArray[np.float64]
    correct: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class GraphReport:
    """What is known of one INT8 graph.

    Attributes:
        file: its name; it was written only where it passed the gate.
        judgement: on validation patients.
        answers: its own.
    """

    file: str
    judgement: Judgement
    answers: Answers


def write_report(
    folder: Path,
    graphs: Mapping[str, GraphReport],
    layers: Sequence[Sensitivity],
    calibration: Mapping[str, Any],
    fp32: Answers,
) -> None:
    """Write `report.md`, `report.json`, `sensitivity.png` and `accuracy.png`.

    Args:
        folder: it exists.
        graphs: title of the family of runtimes -> its graph.
        layers: the one that costs most first.
        calibration: facts about the calibration set, for the head of the report.
        fp32: answers of the graph in float32.
    """
    described = {
        family: {"file": graph.file, **graph.judgement.to_dict()}
        for family, graph in graphs.items()
    }
    whole = {
        "calibration": dict(calibration),
        "graphs": described,
        "layers": [asdict(each) for each in layers],
    }
    (folder / "report.json").write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    _sensitivity(layers).savefig(folder / "sensitivity.png", dpi=110)
    _accuracy(graphs, fp32).savefig(folder / "accuracy.png", dpi=110)
    lines = ["# INT8 calibration", ""]
    lines += [f"- {name.replace('_', ' ')}: {value}" for name, value in calibration.items()]
    for family, graph in graphs.items():
        lines += ["", f"## {family}", "", *_told(graph)]
    lines += [
        "",
        "![F1 lost by class, and how often the answer is right by confidence](accuracy.png)",
        "",
        "## Layers",
        "",
        "What rounding one layer alone costs, before its weights are fitted: a convolution in the "
        "symmetric graph, a ViT's linear layer in the one for CPUs.",
        "",
        table(["layer", "1 - mean cosine"], [[s.layer, f"{s.loss:.2e}"] for s in layers[:_SHOWN]]),
        "",
        "![what each layer costs](sensitivity.png)",
    ]
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _told(graph: GraphReport) -> list[str]:
    found = graph.judgement
    verdict = "passed the gate." if found.passed else "failed the gate and was not written:"
    rows: list[list[object]] = []
    for task, (before, after) in found.macro_f1.items():
        rows.append([f"{_words(task)}, macro-F1", *_pair(before, after)])
        rows += [[f"{name}, F1", *_pair(*pair)] for name, pair in found.class_f1[task].items()]
    rows.append(["planes, calibration error", *_pair(*found.calibration_error)])
    rows += [
        [f"{_words(task)}, same answer as FP32", "", f"{share:.4f}"]
        for task, share in found.agreement.items()
    ]
    rows.append(["cosine with FP32, mean", "", f"{found.cosine_mean:.5f}"])
    rows += [
        [f"cosine of {name} with FP32, mean", "", f"{cosine:.5f}"]
        for name, cosine in found.other_cosines.items()
    ]
    rows.append(["cosine with FP32, 1st percentile", "", f"{found.cosine_p01:.5f}"])
    return [
        f"`{graph.file}` {verdict}",
        "",
        *(f"- {failure}" for failure in found.failures),
        *([""] if found.failures else []),
        table(["validation patients", "FP32", "INT8"], rows),
    ]


def _words(task: str) -> str:
    return task.replace("_", " ")


def _pair(before: float, after: float) -> list[str]:
    return [f"{before:.4f}", f"{after:.4f}"]


def _sensitivity(layers: Sequence[Sensitivity]) -> Figure:
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots()
    shown = list(layers[:_SHOWN])[::-1]
    axes.barh([each.layer[-48:] for each in shown], [each.loss for each in shown])
    axes.set_xlabel("1 - mean cosine with FP32, this layer alone in INT8")
    axes.tick_params(axis="y", labelsize=6)
    return figure


def _accuracy(graphs: Mapping[str, GraphReport], fp32: Answers) -> Figure:
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    width = 0.8 / max(len(graphs), 1)
    for number, (family, graph) in enumerate(graphs.items()):
        drops = {
            name: 100 * (before - after)
            for each in graph.judgement.class_f1.values()
            for name, (before, after) in each.items()
        }
        places = np.arange(len(drops)) + (number - (len(graphs) - 1) / 2) * width
        left.bar(places, list(drops.values()), width, label=family)
        left.set_xticks(range(len(drops)), list(drops), rotation=60)
    left.axhline(0, color="grey", linewidth=0.8)
    left.set_ylabel("F1 lost against FP32, points")
    left.legend(fontsize=8)
    right.plot([0, 1], [0, 1], linestyle="--", color="grey")
    for title, answers in (("FP32", fp32), *((f, g.answers) for f, g in graphs.items())):
        bins = np.clip((answers.confidence * _BINS).astype(int), 0, _BINS - 1)
        there = np.unique(bins)
        right.plot(
            [answers.confidence[bins == b].mean() for b in there],
            [answers.correct[bins == b].mean() for b in there],
            marker="o",
            label=title,
        )
    right.set_xlabel("confidence in the plane")
    right.set_ylabel("share that is right")
    right.legend(fontsize=8)
    return figure
