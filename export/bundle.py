"""Make a bundle from a trained model: `python -m export.bundle RUN --out BUNDLE`.

Exports the image tower to ONNX, quantises it on real training frames, fits confidence on
validation patients, measures both precisions on the test patients, and writes the bundle only when
INT8 is good enough. Needs the images that `docs/data.md` describes.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save as encode_arrays

from calibration.confidence import (
    expected_calibration_error,
    fit_temperature,
    similarity_threshold,
)
from calibration.frames import calibration_set, read_frames
from calibration.onnxruntime_int8 import quantise
from export.graph import export_core, with_grey_levels
from export.manifest import describe, model_card, write_checksums
from export.measure import accuracy, embed, one_thread_session, paired_latency
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.results import BRAIN_PLANES, PLANES
from training.datasets import Example, hc18_examples, planes_examples
from training.release import Release, load_release

__all__ = ["GateError", "export_bundle"]

GRAPH = "encoder.cpu.onnx"
_CALIBRATION_FRAMES = 256
_ACCEPTANCE = 0.98
_LARGEST_LOSS = 0.01
_SEED = 0
_TIMING_ROUNDS = 200


class GateError(RuntimeError):
    """INT8 lost more accuracy than a bundle may."""


@dataclass(frozen=True, slots=True)
class Frames:
    """Examples with their frames, uint8 `(N, 1, S, S)`."""

    examples: list[Example]
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Exported:
    """The graphs of both precisions, in a working folder."""

    fp32: Path
    int8: Path


def export_bundle(
    run: Path, data: Path, out: Path, *, name: str, version: str, console: Console
) -> dict[str, Any]:
    """Export, quantise, calibrate, measure and write.

    Args:
        run: folder written by `training.pretrain`.
        data: folder with `planes/` and `hc18/`.
        out: folder of the bundle; replaced when it exists, after everything has gone well.
        name: of the bundle.
        version: of the bundle.
        console: for progress.

    Returns:
        The metrics that the manifest holds.

    Raises:
        GateError: INT8 loses more than one point of macro-F1; nothing is written.
        FileNotFoundError: `run` or `data` lacks a file.
        ValueError: `out` exists and is not a bundle.
    """
    if out.exists() and any(out.iterdir()) and not (out / "manifest.json").is_file():
        raise ValueError(f"{out} is not empty and not a bundle; choose another --out")
    release = load_release(run)
    size = release.config.image_size
    train = planes_examples(data, "train") + hc18_examples(data, "train")
    learned = [example for example in train if example.group not in release.held_out]
    held = [example for example in train if example.group in release.held_out]
    validation = Frames(held, read_frames(held, size))
    tests = planes_examples(data, "test")
    test = Frames(tests, read_frames(tests, size))

    with tempfile.TemporaryDirectory() as work:
        console.print(f"exporting and quantising on {_CALIBRATION_FRAMES} training frames")
        chosen = calibration_set(learned, _CALIBRATION_FRAMES, _SEED)
        graphs = _make_graphs(release, read_frames(chosen, size), Path(work))
        sessions = {
            "fp32": one_thread_session(graphs.fp32),
            "int8": one_thread_session(graphs.int8),
        }
        fitted = _fit(embed(sessions["int8"], validation.pixels, "validation"), held, release)
        embeddings = {
            precision: embed(session, test.pixels, f"test, {precision}")
            for precision, session in sessions.items()
        }
        metrics = _measure(embeddings, test, release, fitted)
        metrics["latency_ms_one_thread"] = paired_latency(sessions, test.pixels, _TIMING_ROUNDS)
        _gate(metrics)
        _write(release, graphs.int8, fitted, metrics, out, name=name, version=version)
    ModelBundle.load(out)
    return metrics


def _make_graphs(release: Release, frames: NDArray[np.uint8], work: Path) -> Exported:
    config = release.config
    core, fp32, int8 = work / "core.onnx", work / "encoder.onnx", work / GRAPH
    export_core(release.tower, core)
    onnx.save(with_grey_levels(onnx.load(core), config.mean, config.std), fp32)
    quantise(core, frames, config.mean, config.std, int8)
    return Exported(fp32, int8)


def _fit(
    embeddings: NDArray[np.float32], examples: list[Example], release: Release
) -> dict[str, float]:
    """Temperatures and threshold, from validation patients alone."""
    planes = embeddings @ release.embeddings["planes"].T
    truth = np.array([PLANES.index(example.facts.plane) for example in examples])
    parts = [
        (row, BRAIN_PLANES.index(example.facts.brain_plane))
        for row, example in zip(embeddings, examples, strict=True)
        if example.facts.brain_plane in BRAIN_PLANES
    ]
    brain = np.stack([row for row, _ in parts]) @ release.embeddings["brain_planes"].T
    return {
        "planes": fit_temperature(planes, truth),
        "brain_planes": fit_temperature(brain, np.array([index for _, index in parts])),
        "plane_similarity": similarity_threshold(planes.max(axis=1), _ACCEPTANCE),
    }


def _measure(
    embeddings: dict[str, NDArray[np.float32]],
    test: Frames,
    release: Release,
    fitted: dict[str, float],
) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        precision: accuracy(values, test.examples, release.embeddings)
        for precision, values in embeddings.items()
    }
    cosines = (embeddings["fp32"] * embeddings["int8"]).sum(axis=1)
    similar = embeddings["int8"] @ release.embeddings["planes"].T
    scores = np.exp((similar - similar.max(axis=1, keepdims=True)) / fitted["planes"])
    scores /= scores.sum(axis=1, keepdims=True)
    truth = np.array([PLANES.index(example.facts.plane) for example in test.examples])
    metrics["int8"] |= {
        "cosine_with_fp32_mean": float(cosines.mean()),
        "cosine_with_fp32_p01": float(np.quantile(cosines, 0.01)),
        "expected_calibration_error": expected_calibration_error(
            scores.max(axis=1).astype(np.float64), scores.argmax(axis=1) == truth
        ),
        "abstains": float((similar.max(axis=1) < fitted["plane_similarity"]).mean()),
    }
    metrics["measured_on"] = (
        f"{len(test.examples)} images of {len({e.group for e in test.examples})} test patients "
        "of the FETAL_PLANES_DB subset; F1 over abdomen, brain, femur and thorax"
    )
    metrics["validation"] = release.validation
    return metrics


def _gate(metrics: dict[str, Any]) -> None:
    loss = metrics["fp32"]["planes_macro_f1"] - metrics["int8"]["planes_macro_f1"]
    if loss > _LARGEST_LOSS:
        each = ", ".join(
            f"{plane} {metrics['fp32']['planes_f1'][plane]:.3f} -> {value:.3f}"
            for plane, value in metrics["int8"]["planes_f1"].items()
        )
        raise GateError(f"INT8 loses {100 * loss:.1f} points of macro-F1 (at most 1): {each}")


def _write(
    release: Release,
    graph: Path,
    fitted: dict[str, float],
    metrics: dict[str, Any],
    out: Path,
    *,
    name: str,
    version: str,
) -> None:
    """Write into a folder beside `out` and put it in place, so that no half bundle is seen."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        new = Path(folder) / "new"
        new.mkdir()
        shutil.copy(graph, new / GRAPH)
        (new / "prompts.safetensors").write_bytes(encode_arrays(release.embeddings))
        manifest = describe(release, fitted, metrics, graph=GRAPH, name=name, version=version)
        (new / "MODEL_CARD.md").write_text(model_card(manifest), encoding="utf-8")
        write_checksums(new, manifest)
        if out.exists():
            out.replace(Path(folder) / "old")
        new.replace(out)


def report(metrics: dict[str, Any], console: Console) -> None:
    """Print both precisions side by side."""
    table = Table("", "FP32", "INT8", title=metrics["measured_on"])
    fp32, int8 = metrics["fp32"], metrics["int8"]
    for task in ("planes", "brain_planes"):
        key = f"{task}_macro_f1"
        table.add_row(key.replace("_", " "), f"{fp32[key]:.4f}", f"{int8[key]:.4f}")
    for plane in fp32["planes_f1"]:
        table.add_row(f"  {plane}", *(f"{m['planes_f1'][plane]:.4f}" for m in (fp32, int8)))
    latency = metrics["latency_ms_one_thread"]
    table.add_row("ms a frame, one thread", f"{latency['fp32']:.2f}", f"{latency['int8']:.2f}")
    table.add_row("times as fast", "1.00", f"{latency['fp32'] / latency['int8']:.2f}")
    table.add_row("cosine with FP32, mean", "", f"{int8['cosine_with_fp32_mean']:.4f}")
    table.add_row("calibration error", "", f"{int8['expected_calibration_error']:.4f}")
    table.add_row("abstains", "", f"{100 * int8['abstains']:.1f} %")
    console.print(table)


def main(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder written by training.pretrain")],
    out: Annotated[Path, typer.Option(help="folder of the bundle to write")],
    data: Annotated[Path, typer.Option(help="folder with planes/ and hc18/")] = Path(
        "../shared/data"
    ),
    name: Annotated[str, typer.Option(help="name of the bundle")] = "fetalclip-edge-first-light",
    version: Annotated[str, typer.Option(help="version of the bundle")] = "0.1.0",
    json_out: Annotated[bool, typer.Option("--json", help="print the metrics as JSON")] = False,
) -> None:
    """Export, quantise, calibrate and measure a trained model, and write its bundle."""
    console = Console(stderr=True)
    try:
        metrics = export_bundle(run, data, out, name=name, version=version, console=console)
    except (OSError, ValueError, GateError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(1 if isinstance(error, GateError) else 2) from error
    report(metrics, console)
    console.print(f"wrote {out}")
    if json_out:
        typer.echo(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    typer.run(main)
