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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
import typer
from numpy.typing import NDArray
from rich.console import Console
from safetensors.numpy import save as encode_arrays

from calibration.attempts import Work
from calibration.families import CPU
from calibration.frames import (
    calibration_set,
    demand_planes,
    read_frames,
    without_repeats,
)
from calibration.gate import GateError
from calibration.settings import Settings, load_settings
from calibration.torch_ptq import Network
from export.age_bank import AgeExport, judge_ages, left_out
from export.card import CARD, model_card
from export.examples import BundleData, read_data
from export.fitting import Fitted, Seen, fit, fit_by_twin
from export.graph import OUTPUT
from export.graphs import make_graphs
from export.head import HeadExport, demand_heads
from export.int8 import SettledInt8, settle
from export.manifest import describe, write_checksums
from export.measure import Encoded, encode, one_thread_session, paired_latency
from export.metrics import (
    count_withheld,
    measure_confidence,
    measure_precisions,
)
from export.precisions import Precision, choose_precisions
from export.reference import reference_tensors
from export.replacing import new_bundle
from export.report import report
from export.source import Source, load_source, load_text, with_patients_apart
from export.twin import load_twin, seen_by_twin
from fetalclip_edge.bundle import CHECKSUM, MANIFEST, REFERENCE
from fetalclip_edge.machine import describe_machine
from fetalclip_edge.tasks import age_bank
from fetalclip_edge.tasks.biometry import HEAD_OUTPUT
from training.datasets import Example
from training.head_release import load_head
from training.models import ImageTower

__all__ = ["GateError", "export_bundle"]

_SETTINGS = Settings()
_TIMING_ROUNDS = 200


@dataclass(frozen=True, slots=True)
class Frames:
    """Examples with their frames, uint8 `(N, 1, S, S)`."""

    examples: list[Example]
    pixels: NDArray[np.uint8]


def export_bundle(
    run: Path,
    data: Path,
    out: Path,
    *,
    name: str,
    version: str,
    console: Console,
    precisions: Sequence[str] = (),
    judged_by: Path | None = None,
    settings: Settings | None = None,
    head: Path | None = None,
    text: Path | None = None,
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
        precisions: of the graphs to write: "int8" for all runtimes, "fp32" for CPUs, "fp16"
            for TensorRT. None is INT8 and FP16, and FP32 in place of INT8 for published
            models.
        judged_by: the twin of a model that learned from nearly all patients: trained alike, with
            more of them held out. Confidence and abstention are fitted to what it makes of those.
        settings: how to quantise, and the limits of the gate.
        head: folder written by `training.segmentation` on this run, for a map of the head.
        text: the teacher of a student that comes without its text tower, to embed ages with.

    Returns:
        The metrics that the manifest holds.

    Raises:
        ParityError: a graph does not give PyTorch's embeddings; nothing is written.
        GateError: INT8 for CPUs fails the accuracy gate on validation; nothing is written. That for
            GPUs is left out alone.
        FileNotFoundError: `run` or `data` lacks a file.
        ValueError: `out` exists and is not a bundle, `run`, `head` or `data` does not hold what it
            must, `run` was trained on other data, `head` on another run's maps, or the twin is
            none.
    """
    if text is not None and judged_by is not None:
        raise ValueError(
            "--text embeds ages that heads must judge, and with --judged-by the model has learned "
            "from all of them: give one of the two"
        )
    _check_out(out)
    release = with_patients_apart(load_source(run), data)
    decoder = None if head is None else _read_head(head, release)
    text_tower = release.text if text is None else load_text(text, release)
    precisions = choose_precisions(release, precisions)
    twin = None if judged_by is None else load_twin(judged_by, release)
    examples = read_data(data, (twin or release).held_out, release.origin.data_sha256)
    settings = _SETTINGS if settings is None else settings
    if decoder is not None:
        decoder.demand_unseen((twin or release).held_out)
        demand_heads(examples.held)
    validation = _read(examples.held, release)

    with tempfile.TemporaryDirectory() as work:
        console.print(f"exporting {', '.join(precisions)}, with {settings.frames} training frames")
        chosen = calibration_set(without_repeats(examples.learned), settings.frames, settings.seed)
        demand_planes(chosen)
        frames = _read(chosen, release).pixels
        network = Network(release.tower, None if decoder is None else decoder.release.decoder)
        graphs = make_graphs(
            release,
            frames,
            Path(work),
            precisions,
            settings,
            network,
        )
        sessions = {"fp32": one_thread_session(graphs.fp32)}
        held = _encode_both(sessions, validation, "validation")
        int8: SettledInt8 | None = None
        if graphs.int8:
            to_do = Work(
                graphs.core,
                (release.config.mean, release.config.std),
                frames,
                examples.held,
                validation.pixels,
                held["fp32"],
                release.embeddings,
                Path(work),
                network,
            )
            int8 = settle(to_do, graphs.int8, settings, console)
            graphs = replace(graphs, int8=int8.passed)
            sessions["int8"] = one_thread_session(graphs.int8[CPU])
            held["int8"] = int8.outcome.attempts[CPU].outputs
        main_one = list(sessions)[-1]  # whose answers the thresholds are fitted to
        judged = measure_precisions(held, examples.held, release)
        fitted = _fit(sessions[main_one], examples, held[main_one], release, twin)
        calibration = None if int8 is None else int8.described(chosen, fitted)
        metrics = _measure(sessions, examples, release, fitted)
        metrics["validation"] = {
            **judged,
            "learned_from": twin is not None,
            "measured_on": f"{len(examples.held)} images of patients "
            + (
                "held out of training"
                if twin is None
                else "whom only the twin has not learned from"
            ),
        }
        if twin is None:
            found = held[main_one][OUTPUT]
            limit, size = settings.age_validity, release.preprocess.size
            ages = judge_ages(text_tower, examples, found, size, limit, console)
        else:
            ages = left_out("the model has learned from the heads that would judge it")
        if ages.left_out is None:
            ages = _with_test(ages, sessions[main_one], examples.heads, release)
        metrics["age_bank"] = ages.figures
        manifest = describe(
            release,
            examples,
            fitted.temperatures,
            {"domain_distance": fitted.domain_distance},
            metrics,
            calibration=calibration,
            graphs={
                backend: {precision: graph.name for precision, graph in each.items()}
                for backend, each in graphs.carried(precisions).items()
            },
            name=name,
            version=version,
        )
        if ages.left_out is None:
            manifest["age_bank"] = ages.described()
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
        _write(release, sorted(files), fitted, ages, reference, manifest, out)
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


def _encode_both(
    sessions: dict[str, ort.InferenceSession], frames: Frames, title: str
) -> dict[str, Encoded]:
    return {
        precision: encode(session, frames.pixels, f"{title}, {precision}")
        for precision, session in sessions.items()
    }


def _fit(
    session: ort.InferenceSession,
    examples: BundleData,
    held: Encoded,
    release: Source,
    twin: Source | None,
) -> Fitted:
    # Captions alone do not say which kind of image is which.
    labelled = [example for example in examples.learned if example.facts.plane is not None]
    learned = encode(session, _read(labelled, release).pixels, "training images")
    if twin is None:
        return fit(Seen(labelled, learned), Seen(examples.held, held), release.embeddings)
    everything = {name: np.concatenate([learned[name], held[name]]) for name in learned}
    return fit_by_twin(
        Seen([*labelled, *examples.held], everything),
        *seen_by_twin(twin, examples),
        twin.embeddings,
    )


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


def _with_test(
    ages: AgeExport, session: ort.InferenceSession, heads: list[Example], release: Source
) -> AgeExport:
    """The ages with what they are worth on test heads, where there are some."""
    if not heads:
        return ages
    of_heads = encode(session, _read(heads, release).pixels, "test, heads")
    return ages.measured("test", of_heads[OUTPUT], heads, release.preprocess.size)


def _head_maps(
    session: ort.InferenceSession, heads: list[Example], release: Source
) -> NDArray[np.float32]:
    """The graph's maps of test heads, `(N, 1, H, W)`; none of none."""
    if not heads:
        return np.empty((0, 1, 1, 1), np.float32)
    return encode(session, _read(heads, release).pixels, "test, heads")[HEAD_OUTPUT]


def _write(
    release: Source,
    graphs: Sequence[Path],
    fitted: Fitted,
    ages: AgeExport,
    reference: bytes,
    manifest: dict[str, Any],
    out: Path,
) -> None:
    with new_bundle(out) as new:
        for graph in graphs:
            shutil.copy(graph, new / graph.name)
        (new / "prompts.safetensors").write_bytes(encode_arrays(release.embeddings))
        (new / "domain.safetensors").write_bytes(encode_arrays(fitted.domain.tensors()))
        if ages.left_out is None:
            (new / age_bank.FILE).write_bytes(encode_arrays(ages.tensors()))
        (new / REFERENCE).write_bytes(reference)
        (new / CARD).write_text(model_card(manifest), encoding="utf-8")
        write_checksums(new, manifest)


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
            help="of a graph to write, again for more: int8 for every runtime, fp32 for CPUs, "
            "fp16 for TensorRT; otherwise int8 and fp16, of published models fp32, fp16"
        ),
    ] = None,
    judged_by: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="of a RUN that learned from nearly all patients, the twin that held more of them "
            "out: confidence and abstention are fitted to those",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="how to quantise: YAML, such as settings.yaml of calibration.int8"),
    ] = None,
    head: Annotated[
        Path | None,
        typer.Option(help="folder written by training.segmentation, to measure heads with"),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="TEACHER",
            help="of a student of published weights, their file: its text tower embeds gestational "
            "ages, which the bundle then tells of heads that were not measured",
        ),
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
            judged_by=judged_by,
            settings=None if config is None else load_settings(config),
            head=head,
            text=text,
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
