"""How much of FP32 a bundle's graphs keep: `python -m benchmarks.retention BUNDLE --data SHARDS`.

Every backend that is installed, every precision: macro-F1 on the test images, cosine with FP32.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.contenders import Contender, from_bundle
from benchmarks.timing import machine, table
from calibration.frames import read_frames
from export.measure import accuracy
from fetalclip_edge.bundle import ModelBundle
from training.datasets import Example
from training.progress import image_progress
from training.shards import read_examples

__all__ = ["images_of_tests", "measure"]

_BATCH = 8


def images_of_tests(data: Path) -> list[Example]:
    """The test images of shards that are labelled with a plane.

    Raises:
        ValueError: there are none.
    """
    found = [e for e in read_examples(data, "test") if e.facts.plane is not None]
    planes = [e for e in found if e.group.startswith("planes/")]
    if not planes:
        raise ValueError(f"{data} has no test image of FETAL_PLANES_DB")
    return planes


def measure(
    bundle: ModelBundle,
    contenders: Sequence[Contender],
    examples: Sequence[Example],
    console: Console,
) -> list[dict[str, Any]]:
    """Accuracy of each graph on the same frames.

    Args:
        bundle: where the graphs are from.
        contenders: graphs and the backends to run them.
        examples: test images.
        console: for progress.

    Returns:
        A row each, with macro-F1 of both tasks, F1 of each plane, and, where the bundle has FP32
        for ONNX Runtime, mean cosine with it and the 1st percentile.
    """
    spec = bundle.preprocess
    frames = read_frames(examples, spec.size, spec.interpolation)
    embeddings = {one.name: _embed(one, frames, console) for one in contenders}
    reference = next(
        (c.name for c in contenders if (c.runtime, c.precision) == ("onnxruntime", "fp32")), None
    )
    rows = []
    for one in contenders:
        own = embeddings[one.name]
        row: dict[str, Any] = {"name": one.name, "runtime": one.runtime, "precision": one.precision}
        row |= accuracy(own, examples, bundle.prompt_embeddings())
        if reference is not None:
            cosines = (own.astype(np.float64) * embeddings[reference]).sum(axis=1)
            row |= {
                "cosine_with_fp32_mean": float(cosines.mean()),
                "cosine_with_fp32_p01": float(np.quantile(cosines, 0.01)),
            }
        rows.append(row)
    return rows


def _embed(one: Contender, frames: NDArray[np.uint8], console: Console) -> NDArray[np.float32]:
    encode = one.load(threads=1)
    parts = []
    with image_progress(console) as progress:
        task = progress.add_task(one.name, total=len(frames))
        for start in range(0, len(frames), _BATCH):
            parts.append(encode(frames[start : start + _BATCH]))
            progress.advance(task, len(parts[-1]))
    return np.concatenate(parts)


def main(
    bundle: Annotated[Path, typer.Argument(help="folder of the bundle")],
    data: Annotated[Path, typer.Option(help="shards, written by training.data")],
    out: Annotated[Path, typer.Option(help="folder for retention.json and retention.md")],
) -> None:
    """Measure what every graph of a bundle keeps of FP32's accuracy, on test images."""
    console = Console(stderr=True)
    try:
        examples = images_of_tests(data)
        loaded = ModelBundle.load(bundle)
        contenders, left_out = from_bundle(bundle, threads=1)
        rows = measure(loaded, contenders, examples, console)
        out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError, RuntimeError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1 if isinstance(error, RuntimeError) else 2) from error
    report = {
        "machine": machine(
            ["onnxruntime", *sorted({c.runtime for c in contenders} & {"openvino"})]
        ),
        "images": len(examples),
        "patients": len({example.group for example in examples}),
        "rows": rows,
        "left_out": left_out,
    }
    (out / "retention.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    header = ["runtime", "precision", "planes, macro-F1", "sub-planes, macro-F1", "cosine", "p01"]
    cells = [
        [
            row["runtime"],
            row["precision"],
            *(f"{row[f'{task}_macro_f1']:.4f}" for task in ("planes", "brain_planes")),
            *(f"{row.get(f'cosine_with_fp32_{w}', np.nan):.4f}" for w in ("mean", "p01")),
        ]
        for row in rows
    ]
    text = f"{len(examples)} test images\n\n{table(header, cells)}\n"
    (out / "retention.md").write_text(text, encoding="utf-8")
    print(text, file=sys.stderr)
    for name, why in left_out.items():
        console.print(f"left out: {name}: {why}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
