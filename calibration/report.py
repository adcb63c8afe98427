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

__all__ = ["GraphReport", "write_report"]

_BINS = 10
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class GraphReport:
    """What is known of one INT8 graph.

    Attributes:
        file: its name; it is there only where it passed the gate.
        method: how its ranges were found.
        judgement: on validation patients.
        layers: by what they gain in float, the worst first.
        in_float: those that stay in float.
        costs_ms: layer -> milliseconds that a frame takes longer with it in float, one thread.
        confidence: of each validation image's plane.
        correct: whether that was right.
    """

    file: str
    method: str
    judgement: Judgement
    layers: Sequence[Sensitivity]
    in_float: Sequence[str]
    costs_ms: Mapping[str, float]
    confidence: NDArray[np.float64]
    correct: NDArray[np.bool_]


def write_report(
    folder: Path, graphs: Mapping[str, GraphReport], calibration: Mapping[str, Any]
) -> None:
    """Write `report.md`, `report.json` and a page of plots for each graph.

    Args:
        folder: it exists.
        graphs: family of runtimes -> its graph.
        calibration: facts about the calibration set and the machine, for the head of the report.
    """
    described = {
        family: {
            "file": graph.file,
            "method": graph.method,
            **graph.judgement.to_dict(),
            "layers": [asdict(layer) for layer in graph.layers],
            "in_float": list(graph.in_float),
            "costs_ms": dict(graph.costs_ms),
        }
        for family, graph in graphs.items()
    }
    whole = {"calibration": dict(calibration), "graphs": described}
    (folder / "report.json").write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    lines = ["# INT8 calibration", ""]
    lines += [f"- {name.replace('_', ' ')}: {value}" for name, value in calibration.items()]
    for family, graph in graphs.items():
        picture = f"{Path(graph.file).stem}.png"
        _plots(graph).savefig(folder / picture, dpi=110)
        lines += ["", f"## {family}", "", *_told(graph), "", f"![{family}]({picture})"]
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _told(graph: GraphReport) -> list[str]:
    found = graph.judgement
    verdict = "passed the gate" if found.passed else "failed the gate and was not written"
    lines = [f"`{graph.file}`, method {graph.method}, {verdict}.", ""]
    lines += [f"- {failure}" for failure in found.failures]
    if graph.layers and not found.passed:
        worst = ", ".join(f"`{layer.layer}`" for layer in graph.layers[:3])
        lines.append(f"- the layers that lose the most: {worst}")
    if graph.in_float:
        lines.append("- in float: " + ", ".join(f"`{name}`" for name in graph.in_float))
    rows: list[list[object]] = []
    for task, (before, after) in found.macro_f1.items():
        title = task.replace("_", " ")
        rows.append([f"{title}, macro-F1", *_pair(before, after)])
        rows += [[f"{name}, F1", *_pair(*pair)] for name, pair in found.class_f1[task].items()]
    rows.append(["planes, calibration error", *_pair(*found.calibration_error)])
    rows += [
        [f"{task.replace('_', ' ')}, same answer as FP32", "", f"{share:.4f}"]
        for task, share in found.agreement.items()
    ]
    rows.append(["cosine with FP32, mean", "", f"{found.cosine_mean:.5f}"])
    rows.append(["cosine with FP32, 1st percentile", "", f"{found.cosine_p01:.5f}"])
    lines += ["", table(["validation patients", "FP32", "INT8"], rows)]
    if graph.layers:
        rows = [
            [layer.layer, f"{layer.gain:.6f}", _cost(graph.costs_ms.get(layer.layer))]
            for layer in graph.layers[:_SHOWN]
        ]
        lines += ["", table(["layer", "gain of mean cosine in float", "cost, ms a frame"], rows)]
    return lines


def _pair(before: float, after: float) -> list[str]:
    return [f"{before:.4f}", f"{after:.4f}"]


def _cost(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:+.2f}"


def _plots(graph: GraphReport) -> Figure:
    figure = Figure(figsize=(14, 4.5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    shown = list(graph.layers[:_SHOWN])[::-1]
    left.barh([layer.layer[-34:] for layer in shown], [layer.gain for layer in shown])
    left.set_xlabel("gain of mean cosine in float")
    left.tick_params(labelsize=6)
    drops = {
        name: 100 * (before - after)
        for each in graph.judgement.class_f1.values()
        for name, (before, after) in each.items()
    }
    middle.bar(list(drops), list(drops.values()))
    middle.set_ylabel("F1 lost against FP32, points")
    middle.tick_params(axis="x", rotation=60)
    bins = np.clip((graph.confidence * _BINS).astype(int), 0, _BINS - 1)
    there = np.unique(bins)
    right.plot([0, 1], [0, 1], linestyle="--", color="grey")
    right.plot(
        [graph.confidence[bins == b].mean() for b in there],
        [graph.correct[bins == b].mean() for b in there],
        marker="o",
    )
    right.set_xlabel("confidence in the plane")
    right.set_ylabel("share that is right")
    return figure
