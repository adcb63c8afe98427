"""Quantise a trained model for every runtime: `python -m calibration.int8 MODEL --out DIR`.

Chooses real training frames, makes the U8S8 graph for ONNX Runtime and OpenVINO and the symmetric
one for TensorRT, leaves the worst layers in float32 until both pass the accuracy gate on
validation patients, and writes what passed with a report.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer
from numpy.typing import NDArray
from rich.console import Console
from scipy.special import softmax

from calibration.confidence import fit_temperature
from calibration.families import FAMILIES, Family, write_graphs
from calibration.frames import calibration_set, demand_planes, hash_of, read_frames, without_repeats
from calibration.gate import GateError, Judgement, judge
from calibration.report import Answers, GraphReport, write_report
from calibration.sensitivity import Sensitivity, quantised_layers, rank_layers
from calibration.settings import Settings, load_settings, save_settings
from calibration.static import demand_layers, normalised
from calibration.symmetric_int8 import METHODS, place_quantisers
from export.examples import BundleData, read_data
from export.graph import OUTPUT, export_core, with_grey_levels
from export.measure import encode, one_thread_session
from export.precisions import choose_precisions
from export.source import Source, load_source, with_patients_apart
from fetalclip_edge.results import PLANES
from training.progress import image_progress

__all__ = ["SETTINGS", "calibrate"]

SETTINGS = "settings.yaml"

_RANKED_ON = 32
_RANGES_ON = 64

Frames = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Work:
    """What every attempt needs."""

    core: Path
    frames: Frames
    held: Frames
    expected: Floats
    data: BundleData
    source: Source
    folder: Path

    @property
    def normalisation(self) -> tuple[float, float]:
        return self.source.config.mean, self.source.config.std


@dataclass(frozen=True, slots=True)
class _Attempt:
    path: Path
    judgement: Judgement
    embeddings: Floats


def calibrate(
    model: Path, data: Path, out: Path, settings: Settings, console: Console
) -> dict[Family, GraphReport]:
    """Quantise, judge, repair, and write what passed, with a report and the settings it took.

    Args:
        model: folder written by `training.pretrain` or `training.distill`, or a published file.
        data: shards, written by `training.data`.
        out: folder for the graphs and the report.
        settings: how to calibrate.
        console: for progress.

    Returns:
        What is known of each family's graph.

    Raises:
        FileNotFoundError: `model` or `data` lacks a file.
        ValueError: there are too few frames or none of a plane, the model cannot be quantised, or
            it was trained on other data.
        RuntimeError: the method needs modelopt, which is not installed.
    """
    out.mkdir(parents=True, exist_ok=True)
    source = with_patients_apart(load_source(model), data)
    choose_precisions(source, ["int8"])
    examples = read_data(data, source.held_out, source.origin.data_sha256)
    console.print(f"choosing {settings.frames} calibration frames", highlight=False)
    chosen = calibration_set(without_repeats(examples.learned), settings.frames, settings.seed)
    demand_planes(chosen)
    spec = source.preprocess
    frames = read_frames(chosen, spec.size, spec.interpolation)
    held = read_frames(examples.held, spec.size, spec.interpolation)
    with tempfile.TemporaryDirectory() as folder:
        core, fp32 = Path(folder) / "core.onnx", Path(folder) / "fp32.onnx"
        export_core(source.tower, core)
        demand_layers(onnx.load(core).graph, settings.in_float)
        plain = with_grey_levels(onnx.load(core), source.config.mean, source.config.std)
        onnx.save(plain, fp32)
        expected = encode(one_thread_session(fp32), held, "validation, FP32")[OUTPUT]
        work = _Work(core, frames, held, expected, examples, source, Path(folder))
        layers = _rank(work, settings)
        attempts, in_float = _until_it_passes(work, settings, layers, console)
        for family, attempt in attempts.items():
            path = out / family.file
            path.unlink(missing_ok=True)  # one of an earlier run may be there
            if attempt.judgement.passed:
                path.write_bytes(attempt.path.read_bytes())
    reports = {
        family: GraphReport(family.file, a.judgement, _answers(a.embeddings, examples, source))
        for family, a in attempts.items()
    }
    taken = replace(settings, in_float=(*settings.in_float, *in_float), layers_in_float=0)
    save_settings(out / SETTINGS, taken)
    facts = {
        "frames": len(frames),
        "seed": settings.seed,
        "sha256_of_frames": hash_of(frames),
        "method_of_the_symmetric_graph": settings.method,
        "layers_in_float": ", ".join(taken.in_float) or "none",
        "validation_images": len(held),
    }
    titled = {family.title: report for family, report in reports.items()}
    write_report(out, titled, layers, facts, _answers(expected, examples, source))
    return reports


def _rank(work: _Work, settings: Settings) -> list[Sensitivity]:
    given = normalised(work.frames[:_RANGES_ON], *work.normalisation)
    unit = 255 * work.source.config.std
    placed = place_quantisers(onnx.load(work.core), given, unit, settings.method, settings.in_float)
    chosen = np.linspace(0, len(work.held) - 1, min(_RANKED_ON, len(work.held))).astype(int)
    shown = normalised(work.held[chosen], *work.normalisation)
    with image_progress(Console(stderr=True)) as progress:
        total = len(quantised_layers(placed.model))
        task = progress.add_task("layers, one by one", total=total)
        return rank_layers(placed, shown, lambda: progress.advance(task))


def _until_it_passes(
    work: _Work, settings: Settings, layers: Sequence[Sensitivity], console: Console
) -> tuple[dict[Family, _Attempt], list[str]]:
    in_float: list[str] = []
    worst = [each.layer for each in layers][: min(settings.layers_in_float, len(layers) - 1)]
    while True:
        console.print(f"quantising on {len(work.frames)} frames", highlight=False)
        attempts = _attempt(work, settings, in_float)
        failed = {f: a for f, a in attempts.items() if not a.judgement.passed}
        for family, attempt in failed.items():
            failures = "; ".join(attempt.judgement.failures)
            console.print(f"{family.title}: {failures}", highlight=False, soft_wrap=True)
        if not failed or len(in_float) == len(worst):
            return attempts, in_float
        in_float.append(worst[len(in_float)])
        console.print(f"leaving {in_float[-1]} in float32", highlight=False, soft_wrap=True)


def _attempt(work: _Work, settings: Settings, in_float: Sequence[str]) -> dict[Family, _Attempt]:
    found = {}
    paths = write_graphs(
        work.core, work.frames, work.normalisation, settings, work.folder, in_float
    )
    for family in FAMILIES:
        session = one_thread_session(paths[family], family.on_integers)
        rows = encode(session, work.held, f"validation, {family.title}")[OUTPUT]
        prompts = work.source.embeddings
        judgement = judge(work.expected, rows, work.data.held, prompts, settings.gate)
        found[family] = _Attempt(paths[family], judgement, rows)
    return found


def _answers(embeddings: Floats, data: BundleData, source: Source) -> Answers:
    """Of the planes, at the likeliest temperature."""
    planes = np.array([example.facts.plane for example in data.held])
    truth = np.array([PLANES.index(plane) for plane in planes])
    cosines = embeddings @ source.embeddings["planes"].T
    scores = softmax(cosines / fit_temperature(cosines, truth), axis=1)
    return Answers(scores.max(axis=1).astype(float), scores.argmax(axis=1) == truth)


def main(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="folder written by training, or the file of MobileFetalCLIP's published weights",
        ),
    ],
    data: Annotated[Path, typer.Option(help="shards, written by training.data")],
    out: Annotated[Path, typer.Option(help="folder for the graphs and the report")],
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML: frames, seed, method, in_float, layers_in_float, and the limits of gate"
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help=f"how TensorRT's ranges are found: {', '.join(METHODS)}"),
    ] = None,
) -> None:
    """Quantise a trained model to INT8, and write the graphs that pass the accuracy gate.

    encoder.cpu.onnx is for ONNX Runtime and OpenVINO, encoder.int8.onnx for TensorRT and
    TensorRT-RTX. A graph that fails is not written: report.md says which class and which layers
    lose the most, and the command ends with code 1. The settings that were taken are in
    settings.yaml, for python -m export.bundle --config.

    Example: python -m calibration.int8 runs/student --data shards --out runs/int8
    """
    console = Console(stderr=True)
    try:
        settings = Settings() if config is None else load_settings(config)
        if method is not None:
            settings = replace(settings, method=method)
        reports = calibrate(model, data, out, settings, console)
        failed = [report.file for report in reports.values() if not report.judgement.passed]
        if failed:
            raise GateError(f"{', '.join(failed)} failed the gate; see {out / 'report.md'}")
    except (OSError, ValueError, RuntimeError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1 if isinstance(error, RuntimeError) else 2) from error
    console.print(f"wrote {out}; read {out / 'report.md'}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
