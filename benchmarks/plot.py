"""Latency against accuracy in a picture: `python -m benchmarks.plot ENCODER RETENTION --out FILE`.

From what `benchmarks.encoder` and `benchmarks.retention` wrote of the same bundle. Models that were
timed and not judged, those with random weights, are lines in place of points.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from rich.console import Console

from benchmarks.contenders import EMBEDDING_ALONE

__all__ = ["Point", "draw", "read_points"]

_TITLES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt": "TensorRT",
    "tensorrt_rtx": "TensorRT-RTX",
}
_MARKERS = {"int8": "o", "fp16": "^", "fp32": "s"}
_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple")


@dataclass(frozen=True, slots=True)
class Point:
    """A graph in a runtime.

    Attributes:
        model: title of the model.
        runtime: name of the backend, or "open_clip eager".
        precision: of the graph.
        milliseconds: of one frame, the median.
        macro_f1: of the planes, 0 to 1; None where it was not measured.
    """

    model: str
    runtime: str
    precision: str
    milliseconds: float
    macro_f1: float | None

    @property
    def title(self) -> str:
        """Runtime and precision, for people."""
        return f"{_TITLES.get(self.runtime, self.runtime)} {self.precision.upper()}"


def read_points(encoder: Path, retention: Path) -> list[Point]:
    """What was timed, with its accuracy where that was measured.

    Args:
        encoder: written by `benchmarks.encoder`.
        retention: written by `benchmarks.retention`, of the same bundle.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another program wrote it, or the two have no graph in common.
    """
    scores = {
        _text(row, "name", retention): _number(row, ["planes_macro_f1"], retention)
        for row in _rows(retention)
    }
    points = [
        Point(
            _text(row, "model", encoder),
            _text(row, "runtime", encoder),
            _text(row, "precision", encoder),
            _number(row, ["batch 1", "median_ms"], encoder),
            scores.get(_text(row, "name", encoder)),
        )
        for row in _rows(encoder)
        if not _text(row, "model", encoder).endswith(EMBEDDING_ALONE)
    ]
    if not any(point.macro_f1 is not None for point in points):
        raise ValueError(
            f"{encoder} and {retention} have no graph in common: run benchmarks.encoder and "
            "benchmarks.retention on the same bundle"
        )
    return points


def draw(points: Sequence[Point], path: Path) -> None:
    """Macro-F1 of the planes against milliseconds, as PNG.

    Args:
        points: at least one of them with its accuracy.
        path: where to write.
    """
    runtimes = list(dict.fromkeys(p.runtime for p in points if p.macro_f1 is not None))
    with mpl.rc_context({"font.size": 10}):
        figure = Figure(figsize=(7.5, 4.2), layout="constrained")
        axes = figure.subplots()
        scores = []
        for point in points:
            if point.macro_f1 is None:
                _line(axes, point)
                continue
            scores.append(point.macro_f1)
            axes.scatter(
                [point.milliseconds],
                [point.macro_f1],
                s=70,
                marker=_MARKERS.get(point.precision, "D"),
                color=_COLOURS[runtimes.index(point.runtime) % len(_COLOURS)],
                label=f"{point.title}, {point.milliseconds:.3g} ms",
                zorder=3,
            )
        axes.set_xscale("log")
        most = max(point.milliseconds for point in points)
        least = min(point.milliseconds for point in points)
        axes.set_xlim(least / 1.6, most * 1.8)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("ms a frame, batch 1, median")
        axes.set_ylabel("planes, macro-F1")
        # Not so near that a point in a thousand looks like much.
        axes.set_ylim(max(min(scores) - 0.05, 0), min(max(scores) + 0.03, 1.01))
        axes.grid(alpha=0.3)
        figure.legend(loc="outside upper center", ncols=2, fontsize=8)
        figure.savefig(path, dpi=120)


def _line(axes: Axes, point: Point) -> None:
    axes.axvline(point.milliseconds, color="grey", linestyle="--", linewidth=1)
    axes.annotate(
        f"{point.model}, {point.title}",
        (point.milliseconds, 0.02),
        xycoords=("data", "axes fraction"),
        xytext=(-3, 0),
        textcoords="offset points",
        rotation=90,
        ha="right",
        va="bottom",
        fontsize=7,
        color="dimgrey",
    )


def _rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no rows of a benchmark: {error!r}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} holds no rows of a benchmark, but {type(rows).__name__}")
    return rows


def _text(row: Mapping[str, Any], key: str, path: Path) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise ValueError(f"a row of {path} has no {key}")
    return value


def _number(row: Mapping[str, Any], keys: Sequence[str], path: Path) -> float:
    value: Any = row
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"a row of {path} has no {' / '.join(keys)}")
    return float(value)


def main(
    encoder: Annotated[Path, typer.Argument(help="encoder.json of benchmarks.encoder")],
    retention: Annotated[
        Path, typer.Argument(help="retention.json of benchmarks.retention, of the same bundle")
    ],
    out: Annotated[Path, typer.Option(help="PNG to write")],
) -> None:
    """Draw how fast every graph is against how well it tells planes apart.

    Points are graphs of the bundle; dashed lines are models with random weights, whose speed alone
    is known.

    Example: python -m benchmarks.plot runs/encoder.json runs/retention.json --out encoder.png
    """
    console = Console(stderr=True)
    try:
        points = read_points(encoder, retention)
        out.parent.mkdir(parents=True, exist_ok=True)
        draw(points, out)
    except (OSError, ValueError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    console.print(f"wrote {out}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
