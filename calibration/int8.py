"""Quantise a trained model for every family of runtimes: `python -m calibration.int8 RUN`.

Chooses real training frames, makes the U8S8 graph for ONNX Runtime and the symmetric Q/DQ graph
for TensorRT, TensorRT-RTX and OpenVINO, leaves the worst layers in float until the accuracy gate
passes on validation patients, and writes what passed with a report.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer
from numpy.typing import NDArray
from rich.console import Console
from scipy.special import softmax

from calibration.confidence import fit_temperature
from calibration.equalisation import equalise
from calibration.frames import calibration_set, demand_planes, read_frames, without_repeats
from calibration.gate import GateError, Judgement, judge
from calibration.modelopt_int8 import folded, quantise_tower, write_qdq
from calibration.onnxruntime_int8 import quantise
from calibration.report import GraphReport, write_report
from calibration.sensitivity import Sensitivity, leave_in_float, quantised_layers, rank_layers
from calibration.settings import Settings, load_settings
from export.examples import BundleData, read_data
from export.graph import OUTPUT, export_core, with_grey_levels
from export.measure import encode, one_thread_session, paired_latency
from fetalclip_edge.machine import describe_machine
from fetalclip_edge.results import PLANES
from training.progress import image_progress
from training.release import Release, load_release

__all__ = ["QDQ_GRAPH", "U8S8_GRAPH", "Candidate", "calibrate"]

U8S8_GRAPH, QDQ_GRAPH = "encoder.cpu.onnx", "encoder.onnx"

_RANKED_ON = 32
_TIMED_LAYERS, _ROUNDS = 6, 40

Frames = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Candidate:
    """An INT8 graph, and the float32 graph that it was made from.

    Attributes:
        method: how its ranges were found.
        model: Q/DQ graph that takes uint8.
        core: with nodes of the same names.
    """

    method: str
    model: onnx.ModelProto
    core: onnx.ModelProto


class _Bench:
    """Validation frames, and what FP32 makes of them."""

    def __init__(self, fp32: Path, held: Frames, data: BundleData, release: Release) -> None:
        self.fp32, self.held, self.data, self.release = fp32, held, data, release
        self.expected = encode(one_thread_session(fp32), held, "validation, fp32")[OUTPUT]

    def judge(self, model: onnx.ModelProto, settings: Settings, title: str) -> _Judged:
        with tempfile.TemporaryDirectory() as work:
            path = Path(work) / "graph.onnx"
            onnx.save(model, path)
            found = encode(one_thread_session(path), self.held, title)[OUTPUT]
        prompts = self.release.embeddings
        return _Judged(judge(self.expected, found, self.data.held, prompts, settings.gate), found)

    def rank(self, candidate: Candidate) -> list[Sensitivity]:
        chosen = np.linspace(0, len(self.held) - 1, min(_RANKED_ON, len(self.held))).astype(int)
        with image_progress(Console(stderr=True)) as progress:
            task = progress.add_task(
                "layers, one by one", total=len(quantised_layers(candidate.model))
            )
            return rank_layers(
                candidate.model,
                candidate.core,
                self.held[chosen],
                self.expected[chosen],
                lambda: progress.advance(task),
            )

    def costs(self, candidate: Candidate, layers: Sequence[str]) -> dict[str, float]:
        """Milliseconds that a frame takes longer with a layer in float, on one thread."""
        with tempfile.TemporaryDirectory() as work:
            models = {"": candidate.model} | {
                layer: leave_in_float(candidate.model, candidate.core, [layer]) for layer in layers
            }
            sessions = {}
            for number, (layer, model) in enumerate(models.items()):
                path = Path(work) / f"{number}.onnx"
                onnx.save(model, path)
                sessions[layer] = one_thread_session(path)
            taken = paired_latency(sessions, self.held[:8], _ROUNDS)
        return {layer: taken[layer] - taken[""] for layer in layers}


@dataclass(frozen=True, slots=True)
class _Judged:
    judgement: Judgement
    embeddings: Floats


def calibrate(
    run: Path, data: Path, out: Path, settings: Settings, console: Console
) -> dict[str, GraphReport]:
    """Quantise, judge, repair, and write what passed, with a report.

    Args:
        run: folder written by `training.pretrain` or `training.distill`.
        data: shards, written by `training.data`.
        out: folder for the graphs and the report.
        settings: how to calibrate.
        console: for progress.

    Returns:
        Family of runtimes -> what is known of its graph.

    Raises:
        FileNotFoundError: `run` or `data` lacks a file.
        ValueError: there are too few frames or none of a plane, the model cannot be quantised, or
            `run` was trained on other data.
    """
    release = load_release(run)
    examples = read_data(data, release.held_out, release.origin.data_sha256)
    console.print("choosing calibration frames")
    chosen = calibration_set(without_repeats(examples.learned), settings.frames, settings.seed)
    demand_planes(chosen)
    spec = release.preprocess
    frames = read_frames(chosen, spec.size, spec.interpolation)
    held = read_frames(examples.held, spec.size, spec.interpolation)
    config = release.config
    with tempfile.TemporaryDirectory() as work:
        core, fp32 = Path(work) / "core.onnx", Path(work) / "fp32.onnx"
        export_core(release.tower, core)
        onnx.save(with_grey_levels(onnx.load(core), config.mean, config.std), fp32)
        bench = _Bench(fp32, held, examples, release)
        graphs = {
            "ONNX Runtime": _finish(
                U8S8_GRAPH, [_u8s8(release, core, frames, console)], bench, settings, console
            ),
            "TensorRT, TensorRT-RTX and OpenVINO": _finish(
                QDQ_GRAPH, _qdq(release, frames, settings, console), bench, settings, console
            ),
        }
    out.mkdir(parents=True, exist_ok=True)
    for family, (report, model) in graphs.items():
        path = out / report.file
        path.unlink(missing_ok=True)  # one of an earlier run may be there
        if report.judgement.passed:
            onnx.save(model, path)
        else:
            console.print(f"{family}: {'; '.join(report.judgement.failures)}", highlight=False)
    reports = {family: report for family, (report, _) in graphs.items()}
    write_report(
        out,
        reports,
        {
            "frames": len(frames),
            "seed": settings.seed,
            "sha256_of_frames": hashlib.sha256(frames.tobytes()).hexdigest(),
            "validation_images": len(held),
            "measured_on": describe_machine()["processor"],
        },
    )
    return reports


def _u8s8(release: Release, core: Path, frames: Frames, console: Console) -> Candidate:
    config = release.config
    console.print(f"quantising on {len(frames)} frames for ONNX Runtime")
    with tempfile.TemporaryDirectory() as work:
        equal, out = Path(work) / "core.onnx", Path(work) / U8S8_GRAPH
        onnx.save(equalise(onnx.load(core), _normalised(frames, release)), equal)
        quantise(equal, frames, config.mean, config.std, out)
        return Candidate("minmax", onnx.load(out), onnx.load(equal))


def _qdq(release: Release, frames: Frames, settings: Settings, console: Console) -> list[Candidate]:
    normalised = _normalised(frames, release)
    tower = folded(release.tower, normalised)
    found = []
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / QDQ_GRAPH
        for method in settings.methods:
            console.print(f"quantising on {len(frames)} frames with modelopt, {method}")
            quantised = quantise_tower(tower, normalised, method)
            core = write_qdq(quantised, tower, normalised, out)
            found.append(Candidate(method, onnx.load(out), core))
    return found


def _normalised(frames: Frames, release: Release) -> Floats:
    zero, unit = 255 * release.config.mean, 255 * release.config.std
    return (frames.astype(np.float32) - np.float32(zero)) / np.float32(unit)


def _finish(
    file: str,
    candidates: Sequence[Candidate],
    bench: _Bench,
    settings: Settings,
    console: Console,
) -> tuple[GraphReport, onnx.ModelProto]:
    """Take the best candidate, and leave its worst layers in float until it passes."""
    judged = [bench.judge(c.model, settings, f"validation, {c.method}") for c in candidates]
    best = max(range(len(candidates)), key=lambda i: judged[i].judgement.cosine_mean)
    candidate, found = candidates[best], judged[best]
    layers = bench.rank(candidate)
    worst = [layer.layer for layer in layers]
    in_float: list[str] = []
    model = candidate.model
    while not found.judgement.passed and len(in_float) < min(settings.layers_in_float, len(worst)):
        in_float.append(worst[len(in_float)])
        console.print(f"{file} fails the gate; leaving {in_float[-1]} in float", highlight=False)
        model = leave_in_float(candidate.model, candidate.core, in_float)
        found = bench.judge(model, settings, "validation, repaired")
    planes = np.array([example.facts.plane for example in bench.data.held])
    known = np.isin(planes, PLANES)
    truth = np.array([PLANES.index(plane) for plane in planes[known]])
    cosines = (found.embeddings @ bench.release.embeddings["planes"].T)[known]
    scores = softmax(cosines / fit_temperature(cosines, truth), axis=1)
    report = GraphReport(
        file,
        candidate.method,
        found.judgement,
        layers,
        in_float,
        bench.costs(candidate, worst[:_TIMED_LAYERS]),
        scores.max(axis=1).astype(float),
        scores.argmax(axis=1) == truth,
    )
    return report, model


def main(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a trained model")],
    data: Annotated[Path, typer.Option(help="shards, written by training.data")],
    out: Annotated[Path, typer.Option(help="folder for the graphs and the report")],
    config: Annotated[
        Path | None,
        typer.Option(help="YAML: frames, seed, methods, layers_in_float, and the limits of gate"),
    ] = None,
) -> None:
    """Quantise a trained model to INT8, and write the graphs that pass the accuracy gate.

    A graph that fails is not written; the report says which class or layer fails. The command
    then ends with code 1.
    """
    console = Console(stderr=True)
    try:
        settings = Settings() if config is None else load_settings(config)
        reports = calibrate(run, data, out, settings, console)
        failed = [report.file for report in reports.values() if not report.judgement.passed]
        if failed:
            raise GateError(f"{', '.join(failed)} failed the gate; see {out / 'report.md'}")
    except (OSError, ValueError, ImportError, GateError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1 if isinstance(error, GateError) else 2) from error
    console.print(f"wrote {out}; read {out / 'report.md'}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
