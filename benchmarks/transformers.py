"""How fast a ViT is in INT8 on a CPU: `python -m benchmarks.transformers --data SHARDS`.

Untrained weights: time, and how near INT8 is to FP32 on real frames, not what a trained one would
lose. FP32 and the U8S8 graph take turns in ONNX Runtime and OpenVINO.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.contenders import Encode, in_openvino
from benchmarks.timing import interleave, machine, table
from calibration.frames import calibration_set, read_frames, without_repeats
from calibration.onnxruntime_int8 import quantise
from export.graph import INPUT, OUTPUT, Tower, export_core, with_grey_levels
from export.measure import one_thread_session
from export.published import PublishedTower
from fetalclip_edge.cosines import row_cosines
from training.models import ImageTower, ModelConfig
from training.models.untrained import untrained_model
from training.shards import read_examples

__all__ = ["compare", "tower"]


def tower(name: str) -> Tower:
    """An untrained image tower: `fetalclip`, or a timm model of ours on 224 pixels.

    Raises:
        ValueError: timm has no model of that name.
    """
    torch.manual_seed(0)
    if name == "fetalclip":
        found = PublishedTower(untrained_model(name).eval().requires_grad_(False))
        found.forget_original()
        return found
    return ImageTower(ModelConfig(backbone=name)).eval().requires_grad_(False)


def compare(
    name: str,
    learned: NDArray[np.uint8],
    shown: NDArray[np.uint8],
    rounds: int,
    console: Console,
) -> dict[str, Any]:
    """Quantise an untrained tower and set INT8 beside FP32.

    Args:
        name: of the tower, as `tower` has it.
        learned: frames to calibrate on, uint8 `(N, 1, S, S)`.
        shown: other frames, uint8 `(M, 1, S, S)`: what is timed and compared.
        rounds: how often each graph takes its turn, one frame at a time on one thread.
        console: for progress.

    Returns:
        Seconds of quantising, and a row a runtime and precision.
    """
    with tempfile.TemporaryDirectory() as work:
        core, fp32, int8 = (Path(work) / f"{name}.onnx" for name in ("core", "fp32", "int8"))
        with console.status(f"exporting {name}"):
            config = _in_a_child(_export, name, core, fp32)
        begin = time.perf_counter()
        with console.status(f"quantising on {len(learned)} frames"):
            _in_a_child(quantise, core, learned, config.mean, config.std, int8)
        taken = time.perf_counter() - begin
        core.unlink()
        sizes = {"FP32": fp32.stat().st_size / 1e6, "INT8": int8.stat().st_size / 1e6}
        encoders = {
            (runtime, precision): load(path, config.image_size)
            for runtime, load in (("ONNX Runtime", _onnxruntime), ("OpenVINO", _openvino))
            for precision, path in (("FP32", fp32), ("INT8", int8))
        }
        with console.status("comparing embeddings"):
            embeddings = {
                key: np.concatenate([encode(frame[None]) for frame in shown])
                for key, encode in encoders.items()
            }
        with console.status(f"{rounds} rounds"):
            times = interleave(
                {" ".join(key): partial(encode, shown[:1]) for key, encode in encoders.items()},
                rounds,
            )
    rows = []
    for runtime, precision in encoders:
        own, plain = times[f"{runtime} {precision}"], times[f"{runtime} FP32"]
        wanted, found = embeddings["ONNX Runtime", "FP32"], embeddings[runtime, precision]
        cosines = row_cosines(wanted, found)
        rows.append(
            {
                "runtime": runtime,
                "precision": precision,
                "median_ms": own.median,
                "times_as_fast_as_fp32": plain.ratio_to(own),
                "size_mb": sizes[precision],
                "cosine_mean": float(cosines.mean()),
                "cosine_min": float(cosines.min()),
                "centred_cosine_mean": _centred(wanted, found),
            }
        )
    return {"quantising_s": taken, "rows": rows}


def _export(name: str, core: Path, fp32: Path) -> ModelConfig:
    """Write the graph to quantise and the one in float32."""
    model = tower(name)
    export_core(model, core)
    onnx.save(with_grey_levels(onnx.load(core), model.config.mean, model.config.std), fp32)
    return model.config


def _in_a_child(work: Callable[..., Any], *given: object) -> Any:
    """In a process of its own, which gives its gigabytes back."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


def _centred(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Mean cosine of what sets each frame apart from the mean of all."""
    centre = wanted.mean(axis=0)
    return float(row_cosines(wanted - centre, found - centre).mean())


def _onnxruntime(path: Path, _size: int) -> Encode:
    session = one_thread_session(path)
    return lambda frames: np.asarray(session.run([OUTPUT], {INPUT: frames})[0])


def _openvino(path: Path, size: int) -> Encode:
    return in_openvino(path, (1, 1, size, size), threads=1)


def main(
    data: Annotated[Path, typer.Option(help="shards, written by training.data")],
    model: Annotated[
        str, typer.Option(help="fetalclip, or the name of a ViT of timm on 224 pixels")
    ] = "vit_small_patch16_224",
    frames: Annotated[int, typer.Option(min=1, help="to calibrate on")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="of taking turns")] = 40,
    json_out: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Time a ViT's INT8 beside its FP32 on one thread, with untrained weights, on real frames.

    FetalCLIP takes 12 GB of memory and, on one core, half an hour.
    """
    console = Console(stderr=True)
    try:
        read = read_examples(data, "train")
        learned = calibration_set(without_repeats(read), frames, seed=0)
        shown = read_examples(data, "test")[:32]
        size = ModelConfig().image_size
        found = compare(
            model, read_frames(learned, size), read_frames(shown, size), rounds, console
        )
    except (OSError, ValueError, RuntimeError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1 if isinstance(error, RuntimeError) else 2) from error
    found = {"model": model, "machine": machine(["onnxruntime", "openvino", "timm"]), **found}
    if json_out:
        typer.echo(json.dumps(found, indent=2))
        return
    header = ["runtime", "precision", "ms", "times FP32", "MB", "cosine", "least", "centred"]
    digits = (1, 2, 0, 5, 5, 4)
    lines = [
        [*list(row.values())[:2], *map(lambda v, d: f"{v:.{d}f}", list(row.values())[2:], digits)]
        for row in found["rows"]
    ]
    typer.echo(f"{model}, quantised in {found['quantising_s']:.0f} s")
    typer.echo(table(header, lines))


if __name__ == "__main__":
    typer.run(main)
