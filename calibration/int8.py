"""Quantise a trained model for every runtime: `python -m calibration.int8 MODEL --out DIR`.

Chooses real training frames, makes the U8S8 graph for ONNX Runtime and OpenVINO and the symmetric
one for TensorRT, leaves the worst layers in float32 until both pass the accuracy gate on
validation patients, and writes what passed with a report.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from rich.console import Console
from scipy.special import softmax

from calibration.attempts import Work, judge_graphs, rank, until_it_passes
from calibration.confidence import fit_temperature
from calibration.families import FAMILIES, Family, write_graphs
from calibration.frames import (
    calibration_set,
    demand_planes,
    hash_of,
    read_frames,
    scanners,
    without_repeats,
)
from calibration.gate import GateError
from calibration.report import Answers, GraphReport, write_report
from calibration.settings import Settings, load_settings, save_settings, settings_for
from calibration.static import demand_layers
from calibration.symmetric_int8 import METHODS
from calibration.torch_ptq import Network
from export.examples import BundleData, read_data
from export.graph import OUTPUT, export_core, with_grey_levels
from export.measure import Encoded, encode, one_thread_session
from export.source import Source, load_source, with_patients_apart
from fetalclip_edge.results import PLANES

__all__ = ["SETTINGS", "calibrate"]

SETTINGS = "settings.yaml"


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
        RuntimeError: modelopt is not installed.
    """
    out.mkdir(parents=True, exist_ok=True)
    source = with_patients_apart(load_source(model), data)
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
        settings = _checked(settings, core)
        _write_fp32(core, source, fp32)
        work = Work(
            core,
            (source.config.mean, source.config.std),
            frames,
            examples.held,
            held,
            encode(one_thread_session(fp32), held, "validation, FP32"),
            source.embeddings,
            Path(folder),
            Network(source.tower),
        )
        layers = rank(work, settings)
        console.print(f"quantising on {len(frames)} frames", highlight=False)
        paths = write_graphs(
            *(core, frames, work.normalisation, settings, work.folder),
            network=work.network,
        )
        attempts = judge_graphs(work, paths, settings.gate)
        outcome = until_it_passes(work, settings, attempts, console, layers)
        for family in FAMILIES:
            (out / family.file).unlink(missing_ok=True)  # one of an earlier run may be there
        for family, attempt in outcome.attempts.items():
            if attempt.judgement.passed:
                (out / family.file).write_bytes(attempt.path.read_bytes())
    reports = {
        family: GraphReport(family.file, a.judgement, _answers(a.outputs, examples, source))
        for family, a in outcome.attempts.items()
    }
    save_settings(out / SETTINGS, settings)
    facts = {
        "frames": len(frames),
        "seed": settings.seed,
        "sha256_of_frames": hash_of(frames),
        "scanners": _listed(scanners(chosen)),
        "method_of_the_symmetric_graph": settings.method,
        "epochs_of_learning_to_be_rounded": settings.distill_epochs,
        **{
            f"in float32 in {family.file}": ", ".join((*settings.in_float, *layers_of)) or "none"
            for family, layers_of in outcome.in_float.items()
        },
        "validation_images": len(held),
    }
    titled = {family.title: report for family, report in reports.items()}
    write_report(out, titled, layers, facts, _answers(work.fp32, examples, source))
    return reports


def _checked(settings: Settings, core: Path) -> Settings:
    """With the method that the graph is quantised by, if graph and settings go together."""
    graph = onnx.load(core).graph
    demand_layers(graph, settings.in_float)
    return settings_for(settings, graph)


def _write_fp32(core: Path, source: Source, out: Path) -> None:
    plain = with_grey_levels(onnx.load(core), source.config.mean, source.config.std)
    onnx.save(plain, out)


def _listed(counts: Mapping[str, int]) -> str:
    text = ", ".join(f"{name} {count}" for name, count in counts.items())
    if "unknown" not in counts:
        return text
    return f"{text} (python -m training.data writes shards that tell, where the data set does)"


def _answers(outputs: Encoded, data: BundleData, source: Source) -> Answers:
    """Of the planes, at the likeliest temperature."""
    planes = np.array([example.facts.plane for example in data.held])
    truth = np.array([PLANES.index(plane) for plane in planes])
    cosines = outputs[OUTPUT] @ source.embeddings["planes"].T
    scores = softmax(cosines / fit_temperature(cosines, truth), axis=1)
    return Answers(scores.max(axis=1).astype(float), scores.argmax(axis=1) == truth)


def main(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="folder written by training, or the file of FetalCLIP's or MobileFetalCLIP's "
            "published weights",
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
        typer.Option(
            help=f"how TensorRT's ranges are found: {', '.join(METHODS)}; without it, "
            "torch-smoothquant for a ViT, onnxruntime for other networks"
        ),
    ] = None,
    distill_epochs: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="let the model for TensorRT learn to be rounded, so often over the calibration "
            "frames; for methods that begin with torch",
        ),
    ] = None,
) -> None:
    """Quantise a trained model to INT8, and write the graphs that pass the accuracy gate.

    encoder.cpu.onnx is for ONNX Runtime and OpenVINO, encoder.int8.onnx for TensorRT and
    TensorRT-RTX. A graph that fails is not written: report.md says
    which class and which layers lose the most, and the command ends with code 1. The settings that
    were taken are in settings.yaml, for python -m export.bundle --config.

    Example: python -m calibration.int8 runs/student --data shards --out runs/int8
    """
    console = Console(stderr=True)
    try:
        settings = Settings() if config is None else load_settings(config)
        told: dict[str, Any] = {"method": method, "distill_epochs": distill_epochs}
        settings = replace(settings, **{k: v for k, v in told.items() if v is not None})
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
