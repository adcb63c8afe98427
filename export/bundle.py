"""Make a bundle from a trained model: `python -m export.bundle RUN --out BUNDLE`.

Exports the image tower to ONNX, quantises it on real training frames, fits confidence on
validation patients, writes the bundle only when INT8 is good enough on them, and measures FP32 and
INT8 on the test patients. Needs the shards that the model was trained on.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import onnxruntime as ort
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save as encode_arrays

from calibration.frames import calibration_set, demand_planes, read_frames, without_repeats
from calibration.gate import Gate, GateError, judge
from calibration.onnxruntime_int8 import quantise
from export.card import CARD, model_card
from export.examples import BundleData, read_data
from export.fitting import Fitted, fit
from export.graph import OUTPUT, export_core, with_grey_levels
from export.head import HeadExport, demand_heads
from export.manifest import describe, write_checksums
from export.measure import Encoded, encode, one_thread_session, paired_latency
from export.metrics import (
    count_withheld,
    measure_confidence,
    measure_precisions,
    withheld_shares,
)
from export.parity import check_parity
from export.precisions import Precision, choose_precisions, to_fp16
from export.reference import reference_tensors
from export.replacing import new_bundle
from export.source import Source, load_source, with_patients_apart
from fetalclip_edge.bundle import CHECKSUM, MANIFEST, REFERENCE
from fetalclip_edge.machine import describe_machine
from fetalclip_edge.tasks.biometry import HEAD_OUTPUT
from training.datasets import Example
from training.head_release import load_head
from training.models import ImageTower
from training.models.decoder import HeadDecoder

__all__ = ["GateError", "export_bundle"]

GRAPH = "encoder.cpu.onnx"
_FP32, _FP16 = "encoder.onnx", "encoder.fp16.onnx"
_PARITY_FRAMES = 16
_CALIBRATION_FRAMES = 256
_SEED = 0
_TIMING_ROUNDS = 200


@dataclass(frozen=True, slots=True)
class Frames:
    """Examples with their frames, uint8 `(N, 1, S, S)`."""

    examples: list[Example]
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Exported:
    """The graphs in a working folder; FP32 is there always, to measure the others by."""

    fp32: Path
    int8: Path | None = None
    fp16: Path | None = None

    def carried(self, precisions: Sequence[str]) -> dict[str, dict[str, Path]]:
        """Backend -> precision -> graph, of what a bundle of these precisions holds.

        FP16 is for GPUs: their runtimes take precision from the graph.
        """
        graphs: dict[str, dict[str, Path]] = {"onnxruntime": {}}
        if self.int8 is not None:
            graphs["onnxruntime"]["int8"] = self.int8
        if "fp32" in precisions:
            graphs["onnxruntime"]["fp32"] = self.fp32
        if self.fp16 is not None:
            graphs["tensorrt"] = graphs["tensorrt_rtx"] = {"fp16": self.fp16}
        return {backend: graphs_of for backend, graphs_of in graphs.items() if graphs_of}


def export_bundle(
    run: Path,
    data: Path,
    out: Path,
    *,
    name: str,
    version: str,
    console: Console,
    precisions: Sequence[str] = (),
    head: Path | None = None,
) -> dict[str, Any]:
    """Export, quantise, calibrate, measure and write.

    Args:
        run: folder written by `training.pretrain` or `training.distill`, or FetalCLIP's or
            MobileFetalCLIP's published file.
        data: shards, written by `training.data`.
        out: folder of the bundle; replaced when it exists, after everything has gone well.
        name: of the bundle.
        version: of the bundle.
        console: for progress.
        precisions: of the graphs to write: "int8" and "fp32" for ONNX Runtime, "fp16" for
            TensorRT. None is INT8 and FP16, and FP32 in place of INT8 for published models.
        head: folder written by `training.segmentation` on this run, for a map of the head.

    Returns:
        The metrics that the manifest holds.

    Raises:
        ParityError: a graph does not give PyTorch's embeddings; nothing is written.
        GateError: INT8 fails the accuracy gate on validation; nothing is written.
        FileNotFoundError: `run` or `data` lacks a file.
        ValueError: `out` exists and is not a bundle, `run`, `head` or `data` does not hold what it
            must, `run` was trained on other data, or `head` on another run's maps.
    """
    _check_out(out)
    release = with_patients_apart(load_source(run), data)
    decoder = None if head is None else _read_head(head, release)
    precisions = choose_precisions(release, precisions)
    examples = read_data(data, release.held_out, release.origin.data_sha256)
    if decoder is not None:
        demand_heads(examples.held)
    validation = _read(examples.held, release)

    with tempfile.TemporaryDirectory() as work:
        console.print(
            f"exporting {', '.join(precisions)}, with {_CALIBRATION_FRAMES} training frames"
        )
        chosen = calibration_set(without_repeats(examples.learned), _CALIBRATION_FRAMES, _SEED)
        demand_planes(chosen)
        graphs = _make_graphs(
            release,
            _read(chosen, release).pixels,
            Path(work),
            precisions,
            None if decoder is None else decoder.release.decoder,
        )
        sessions = {"fp32": one_thread_session(graphs.fp32)}
        if graphs.int8 is not None:
            sessions["int8"] = one_thread_session(graphs.int8)
        main_one = list(sessions)[-1]  # whose answers the thresholds are fitted to
        held = _encode_both(sessions, validation, "validation")
        judged = measure_precisions(held, examples.held, release)
        _gate(held, examples, release)
        # Captions alone do not say which kind of image is which.
        labelled = [example for example in examples.learned if example.facts.plane is not None]
        fitted = fit(
            labelled,
            encode(sessions[main_one], _read(labelled, release).pixels, "training images"),
            examples.held,
            held[main_one],
            release,
        )
        metrics = _measure(sessions, examples, release, fitted)
        metrics["validation"] = {
            **judged,
            "measured_on": f"{len(examples.held)} images of patients held out of training",
        }
        manifest = describe(
            release,
            examples,
            fitted.temperatures,
            {"domain_distance": fitted.domain_distance},
            metrics,
            graphs={
                backend: {precision: graph.name for precision, graph in each.items()}
                for backend, each in graphs.carried(precisions).items()
            },
            name=name,
            version=version,
        )
        if decoder is not None:
            manifest["head"] = decoder.described(
                examples.held,
                held[main_one][HEAD_OUTPUT],
                examples.heads,
                _head_maps(sessions[main_one], examples.heads, release),
            )
            metrics["head"] = manifest["head"]["metrics"]
        reference = encode_arrays(reference_tensors(sessions["fp32"], release.preprocess))
        files = {g for each in graphs.carried(precisions).values() for g in each.values()}
        _write(release, sorted(files), fitted, reference, manifest, out)
    return metrics


def _read_head(folder: Path, release: Source) -> HeadExport:
    if not isinstance(release.tower, ImageTower):
        raise ValueError(f"--head {folder} is for models that were trained here")
    return HeadExport(load_head(folder, release.tower), release.config.image_size)


def _read(examples: list[Example], release: Source) -> Frames:
    spec = release.preprocess
    return Frames(examples, read_frames(examples, spec.size, spec.interpolation))


def _check_out(out: Path) -> None:
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent):
            return  # it can be written to
    empty = out.is_dir() and not any(out.iterdir())
    bundle = all((out / name).is_file() for name in (MANIFEST, CHECKSUM))
    if not (empty or bundle):
        raise ValueError(f"{out} is not empty and not a bundle; choose another --out")


def _make_graphs(
    release: Source,
    frames: NDArray[np.uint8],
    work: Path,
    precisions: Sequence[str],
    decoder: HeadDecoder | None = None,
) -> Exported:
    config = release.config
    core, fp32, int8, fp16 = (work / name for name in ("core.onnx", _FP32, GRAPH, _FP16))
    export_core(release.tower, core, decoder)
    onnx.save(with_grey_levels(onnx.load(core), config.mean, config.std), fp32)
    some = frames[:_PARITY_FRAMES]
    check_parity(release.tower, fp32, some, some, "fp32")
    if "int8" in precisions:
        quantise(core, frames, config.mean, config.std, int8)
    if "fp16" in precisions:
        onnx.save(to_fp16(fp32, some), fp16)
        check_parity(release.tower, fp16, some, some, "fp16")
    return Exported(
        fp32, int8 if "int8" in precisions else None, fp16 if "fp16" in precisions else None
    )


def _encode_both(
    sessions: dict[str, ort.InferenceSession], frames: Frames, title: str
) -> dict[str, Encoded]:
    return {
        precision: encode(session, frames.pixels, f"{title}, {precision}")
        for precision, session in sessions.items()
    }


def _measure(
    sessions: dict[str, ort.InferenceSession],
    examples: BundleData,
    release: Source,
    fitted: Fitted,
) -> dict[str, Any]:
    """Accuracy, confidence and speed of FP32 and INT8 on the test patients."""
    test = _read(examples.tests, release)
    encoded = _encode_both(sessions, test, "test")
    metrics = measure_precisions(encoded, test.examples, release)
    main_one = list(sessions)[-1]
    found = encoded[main_one]
    metrics[main_one] |= measure_confidence(found[OUTPUT], test.examples, release, fitted)
    metrics[main_one]["withheld"] = count_withheld(found, test.examples, fitted)
    if examples.heads:
        heads = _read(examples.heads, release)
        of_heads = encode(sessions[main_one], heads.pixels, "test, heads")
        metrics["heads"] = {
            **count_withheld(of_heads, heads.examples, fitted)["brain"],
            "measured_on": "test images of HC18",
        }
    layout = next(name for name in examples.layouts if name.endswith("FETAL_PLANES_DB"))
    metrics["measured_on"] = (
        f"{len(test.examples)} images of {len({e.group for e in test.examples})} test patients "
        f"of the {layout}; F1 over those of abdomen, brain, femur and thorax"
    )
    metrics["latency_ms_one_thread"] = paired_latency(sessions, test.pixels, _TIMING_ROUNDS)
    processor = describe_machine()["processor"]
    metrics["latency_measured_on"] = f"{processor}, onnxruntime {ort.__version__}"
    return metrics


def _head_maps(
    session: ort.InferenceSession, heads: list[Example], release: Source
) -> NDArray[np.float32]:
    """The graph's maps of test heads, `(N, 1, H, W)`; none of none."""
    if not heads:
        return np.empty((0, 1, 1, 1), np.float32)
    return encode(session, _read(heads, release).pixels, "test, heads")[HEAD_OUTPUT]


def _gate(held: dict[str, Encoded], examples: BundleData, release: Source) -> None:
    """Judge by the validation patients: the test patients choose nothing."""
    if "int8" not in held:
        return
    fp32, int8 = held["fp32"][OUTPUT], held["int8"][OUTPUT]
    found = judge(fp32, int8, examples.held, release.embeddings, Gate())
    if not found.passed:
        raise GateError(f"INT8 fails the accuracy gate: {'; '.join(found.failures)}")


def _write(
    release: Source,
    graphs: Sequence[Path],
    fitted: Fitted,
    reference: bytes,
    manifest: dict[str, Any],
    out: Path,
) -> None:
    with new_bundle(out) as new:
        for graph in graphs:
            shutil.copy(graph, new / graph.name)
        (new / "prompts.safetensors").write_bytes(encode_arrays(release.embeddings))
        (new / "domain.safetensors").write_bytes(encode_arrays(fitted.domain.tensors()))
        (new / REFERENCE).write_bytes(reference)
        (new / CARD).write_text(model_card(manifest), encoding="utf-8")
        write_checksums(new, manifest)


def report(metrics: dict[str, Any], console: Console) -> None:
    """Print FP32 and, where there is one, INT8 side by side."""
    if "int8" not in metrics:
        table = Table("", "FP32", title=metrics["measured_on"])
        for task in ("planes", "brain_planes"):
            table.add_row(f"{task} macro f1", f"{metrics['fp32'][f'{task}_macro_f1']:.4f}")
        latency = metrics["latency_ms_one_thread"]["fp32"]
        table.add_row("ms a frame, one thread", f"{latency:.2f}")
        console.print(table)
        return
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
    for task in ("planes", "brain_planes"):
        error = int8[f"{task}_expected_calibration_error"]
        table.add_row(f"{task.replace('_', ' ')}, calibration error", "", f"{error:.4f}")
    for plane, withheld in withheld_shares(metrics).items():
        table.add_row(f"  {plane}, withheld", "", f"{withheld['images']} of {withheld['of']}")
    console.print(table)


def main(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="folder written by training, or the file of FetalCLIP's or MobileFetalCLIP's "
            "published weights",
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder of the bundle to write")],
    data: Annotated[Path, typer.Option(help="shards, written by training.data")],
    name: Annotated[str, typer.Option(help="name of the bundle")] = "fetalclip-edge-student",
    version: Annotated[str, typer.Option(help="version of the bundle")] = "0.1.0",
    precision: Annotated[
        list[Precision] | None,
        typer.Option(
            help="of a graph to write, again for more: int8 and fp32 for ONNX Runtime, fp16 for "
            "TensorRT; otherwise int8 and fp16, and for published models fp32 and fp16"
        ),
    ] = None,
    head: Annotated[
        Path | None,
        typer.Option(help="folder written by training.segmentation, to measure heads with"),
    ] = None,
    json_out: Annotated[bool, typer.Option("--json", help="print the metrics as JSON")] = False,
) -> None:
    """Export, quantise, calibrate and measure a trained model, and write its bundle."""
    console = Console(stderr=True)
    try:
        wanted = [each.value for each in precision or []]
        metrics = export_bundle(
            run,
            data,
            out,
            name=name,
            version=version,
            console=console,
            precisions=wanted,
            head=head,
        )
    except (OSError, ValueError, RuntimeError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1 if isinstance(error, RuntimeError) else 2) from error
    report(metrics, console)
    console.print(
        f"wrote {out}; next: python -m training.evaluate {out} --data {data} --out EVALUATION",
        highlight=False,
        soft_wrap=True,
    )
    if json_out:
        typer.echo(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    typer.run(main)
