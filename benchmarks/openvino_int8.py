"""Our INT8 graph in OpenVINO beside NNCF's own: `python -m benchmarks.openvino_int8 BUNDLE`.

NNCF is what OpenVINO's makers quantise with. It gets the bundle's FP32 graph and a calibration set
chosen as for ours; then both and FP32 take turns.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.contenders import Encode, in_openvino
from benchmarks.timing import interleave, machine, table
from calibration.frames import calibration_set, read_frames, without_repeats
from calibration.settings import Settings
from fetalclip_edge.backends import Backend, load_backend
from fetalclip_edge.backends.openvino import import_runtime
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.cosines import row_cosines
from fetalclip_edge.errors import BackendError
from training.datasets import Example
from training.shards import read_examples

__all__ = ["compare", "nncf_encoder"]

_COMPARED_ON = 64


def nncf_encoder(graph: bytes, frames: NDArray[np.uint8], threads: int) -> Encode:
    """A graph quantised by NNCF with its own settings, in OpenVINO.

    Args:
        graph: ONNX in float32, from uint8 `(N, 1, S, S)` to an output `embedding`.
        frames: calibration set, uint8 `(N, 1, S, S)`.
        threads: of the CPU.

    Raises:
        RuntimeError: NNCF is not installed.
    """
    try:
        nncf = importlib.import_module("nncf")
    except ImportError as error:
        raise RuntimeError(f"this compares with NNCF: pip install nncf ({error})") from error
    quantised = nncf.quantize(
        import_runtime().Core().read_model(graph),
        nncf.Dataset([frame[None] for frame in frames]),
        subset_size=len(frames),
    )
    return in_openvino(quantised, (1, *frames.shape[1:]), threads)


def compare(
    encoders: Mapping[str, Encode], frames: NDArray[np.uint8], rounds: int
) -> dict[str, dict[str, float]]:
    """Time encoders in turns on one frame, and compare what they give with the first of them.

    Args:
        encoders: name -> one frame `(1, 1, S, S)` to `(1, D)`; the first is in float32.
        frames: to compare on, uint8 `(N, 1, S, S)`.
        rounds: to time.

    Returns:
        name -> percentiles in milliseconds, `times_as_fast`: as the first, and `cosine`: the mean
        with the first's embeddings.
    """
    outputs = {
        name: np.concatenate([encode(frame[None]) for frame in frames])
        for name, encode in encoders.items()
    }
    turns = {name: (lambda encode=encode: encode(frames[:1])) for name, encode in encoders.items()}
    times = interleave(turns, rounds)
    first = next(iter(encoders))
    return {
        name: {
            **times[name].to_dict(),
            "times_as_fast": times[first].ratio_to(times[name]),
            "cosine": float(row_cosines(outputs[first], outputs[name]).mean()),
        }
        for name in encoders
    }


def _encoder(backend: Backend) -> Encode:
    return lambda image: backend.encode(image)["embedding"]


def _frames(data: Path, bundle: ModelBundle) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The calibration set, and other training frames."""
    chosen = Settings()
    examples = without_repeats(read_examples(data, "train"))
    first = calibration_set(examples, chosen.frames, chosen.seed)
    taken = {id(example) for example in first}
    second = calibration_set([e for e in examples if id(e) not in taken], _COMPARED_ON, 1)

    def read(part: list[Example]) -> NDArray[np.uint8]:
        return read_frames(part, bundle.preprocess.size, bundle.preprocess.interpolation)

    return read(first), read(second)


def main(
    bundle: Annotated[
        Path,
        typer.Argument(help="with FP32: export.bundle --precision int8 --precision fp32"),
    ],
    data: Annotated[Path, typer.Option(help="shards, written by training.data")],
    out: Annotated[Path, typer.Option(help="JSON file to write")],
    threads: Annotated[int, typer.Option(min=1, max=256, help="of the CPU")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="to time")] = 200,
) -> None:
    """Time a bundle's INT8 graph in OpenVINO beside the INT8 that NNCF makes of its FP32 graph.

    Needs OpenVINO's own tool besides: pip install nncf

    Example: python -m benchmarks.openvino_int8 runs/bundle --data shards --out openvino_int8.json
    """
    console = Console(stderr=True)
    try:
        checked = ModelBundle.load(bundle)
        graph = checked.graph("openvino", "fp32")
        backends = {
            title: load_backend(checked, "openvino", threads, precision)
            for title, precision in (("FP32", "fp32"), ("INT8, this bundle's", "int8"))
        }
        with console.status("reading frames"):
            frames, others = _frames(data, checked)
        with console.status(f"NNCF quantises on {len(frames)} frames"):
            theirs = nncf_encoder(graph, frames, threads)
        encoders = {title: _encoder(backend) for title, backend in backends.items()}
        encoders["INT8, NNCF's"] = theirs
        with console.status(f"{rounds} rounds"):
            found = compare(encoders, others, rounds)
    except (OSError, ValueError, RuntimeError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        bad = isinstance(error, ValueError | OSError) and not isinstance(error, BackendError)
        raise typer.Exit(2 if bad else 1) from error
    report: dict[str, Any] = {
        "machine": machine(["openvino", "nncf"]),
        "bundle": f"{checked.name} {checked.version}",
        "threads": threads,
        "rounds": rounds,
        "compared_on": len(others),
        "graphs": found,
    }
    out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    rows = [
        [name, f"{row['median_ms']:.2f}", f"{row['times_as_fast']:.2f}", f"{row['cosine']:.5f}"]
        for name, row in found.items()
    ]
    print(table(["OpenVINO", "p50 ms", "times as fast as FP32", "cosine with FP32"], rows))


if __name__ == "__main__":
    typer.run(main)
