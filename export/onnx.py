"""A model's image tower as an ONNX file: `python -m export.onnx MODEL --out FILE --data SHARDS`.

Our own trained models, FetalCLIP and MobileFetalCLIP, in FP32 or FP16. What is written has been
compared with PyTorch on real frames.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from torch import Tensor, nn

from calibration.frames import calibration_set, read_frames
from export.graph import (
    FEATURES,
    INPUT,
    OUTPUT,
    Tower,
    export_core,
    export_module,
    with_grey_levels,
)
from export.parity import Parity, check_parity
from export.precisions import to_fp16
from export.published import PublishedTower
from export.source import Source, load_source
from fetalclip_edge.preprocess import PreprocessSpec
from training.datasets import square
from training.shards import read_examples

__all__ = ["ExportedGraph", "Form", "Precision", "channels_spec", "export_graph", "read_folder"]

_FRAMES = 16
_SEED = 0
_LARGEST_FILE = 1 << 30
"""Bytes; weights beyond it go into a file of their own beside the graph. Protocol buffers end at
2 GiB, and a runtime maps a separate file in place of copying it."""
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}


class Precision(str, Enum):
    """Of weights and arithmetic; inputs and outputs do not change."""

    FP32 = "fp32"
    FP16 = "fp16"


class Form(str, Enum):
    """What the graph takes."""

    GREY = "grey"
    RGB = "rgb"


@dataclass(frozen=True, slots=True)
class ExportedGraph:
    """A graph on disk.

    Attributes:
        path: the ONNX file; its weights are in `NAME.data` beside it where they are large.
        parity: with PyTorch.
        megabytes: of graph and weights.
    """

    path: Path
    parity: Parity
    megabytes: float


class _Channels(nn.Module):
    """A tower for three normalised channels."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, normalised: Tensor) -> tuple[Tensor, ...]:
        if isinstance(self.tower, PublishedTower):
            return self.tower.embed_channels(normalised)
        # Our own see one channel. Of grey frames all three are equal, and equal to their mean.
        return self.tower.embed_and_characterise(normalised.mean(dim=1, keepdim=True))


def channels_spec(source: Source) -> PreprocessSpec:
    """How `fetalclip_edge.preprocess` makes the three-channel input of a model."""
    if isinstance(source.tower, PublishedTower):
        wanted = source.tower.preprocess
        mean, std = wanted.mean, wanted.std
    else:
        mean, std = (source.config.mean,) * 3, (source.config.std,) * 3
    return PreprocessSpec(size=source.config.image_size, color="rgb", mean=mean, std=std)


def export_graph(
    source: Source,
    frames: NDArray[np.uint8],
    out: Path,
    *,
    precision: str = "fp32",
    form: str = "grey",
    largest_file: int = _LARGEST_FILE,
) -> ExportedGraph:
    """Write a model's image tower, once it has been compared with PyTorch.

    Args:
        source: the model.
        frames: real ones, uint8 `(N, 1, S, S)`; they also tell FP16 what stays in float32.
        out: the ONNX file; replaced when it exists, after everything has gone well.
        precision: "fp32" or "fp16".
        form: "grey": uint8 `(N, 1, S, S)`, normalised inside; "rgb": float32 `(N, 3, S, S)`,
            normalised as `channels_spec` says.
        largest_file: bytes of weights beyond which they get a file of their own.

    Raises:
        ParityError: the graph does not give PyTorch's embeddings; nothing is written.
        OSError: `out` cannot be written.
        RuntimeError: FP16 without modelopt.
    """
    precision, form = Precision(precision).value, Form(form).value
    with tempfile.TemporaryDirectory(dir=_writable(out)) as folder:
        work, new = Path(folder) / "work.onnx", Path(folder) / out.name
        inputs = _inputs(source, frames, form)
        model = _trace(source, work, form)
        if precision == "fp16":
            onnx.save(model, work)
            del model  # of FetalCLIP's it is 1.2 GB, and modelopt makes copies of its own
            model = to_fp16(work, inputs[:2])
        data = _save(model, new, largest_file)
        del model
        onnx.checker.check_model(str(new), full_check=True)
        parity = check_parity(source.tower, new, frames, inputs, precision)
        size = sum(path.stat().st_size for path in (new, data) if path is not None)
        mask = os.umask(0)
        os.umask(mask)
        if data is not None:
            data.chmod(0o666 & ~mask)
            data.replace(out.with_name(data.name))
        new.replace(out)
    return ExportedGraph(out, parity, size / 1e6)


def _writable(out: Path) -> Path:
    """The folder of the file to write, made when it is not there."""
    if out.is_dir():
        raise IsADirectoryError(f"{out} is a folder; name a file, such as {out / 'encoder.onnx'}")
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.parent


def _trace(source: Source, work: Path, form: str) -> onnx.ModelProto:
    tower = source.tower
    if form == "grey":
        export_core(tower, work)
        return with_grey_levels(onnx.load(work), source.config.mean, source.config.std)
    outputs = [OUTPUT, FEATURES] if tower.has_stages else [OUTPUT]
    size = source.config.image_size
    export_module(_Channels(tower), work, channels=3, size=size, name=INPUT, outputs=outputs)
    return onnx.load(work)


def _inputs(source: Source, frames: NDArray[np.uint8], form: str) -> NDArray[Any]:
    if form == "grey":
        return frames
    spec = channels_spec(source)
    mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in (spec.mean, spec.std))
    normalised: NDArray[np.float32] = (frames.astype(np.float32) / np.float32(255) - mean) / std
    return normalised


def _save(model: onnx.ModelProto, path: Path, largest_file: int) -> Path | None:
    """Write the graph, and the file beside it with the weights where they are large."""
    if model.ByteSize() <= largest_file:
        onnx.save(model, path)
        return None
    data = path.with_name(f"{path.name}.data")
    onnx.save(model, path, save_as_external_data=True, location=data.name)
    return data


def read_folder(folder: Path, spec: PreprocessSpec) -> NDArray[np.uint8]:
    """Frames of a folder of images, as a graph sees them: uint8 `(N, 1, S, S)`.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no images, or one cannot be read.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of frames at {folder}")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} holds no images ({', '.join(sorted(_SUFFIXES))})")
    frames = []
    for path in paths[:: -(-len(paths) // _FRAMES)]:
        try:
            with Image.open(path) as image:
                frames.append(square(image.convert("L"), spec.size, spec.interpolation))
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{path} cannot be read as an image: {error}") from error
    return np.stack(frames)[:, None]


def _frames(source: Source, data: Path | None, folder: Path | None) -> NDArray[np.uint8]:
    if (data is None) == (folder is None):
        raise ValueError(
            "parity is checked on real frames: give shards with --data, or a folder of images "
            "with --frames"
        )
    if folder is not None:
        return read_folder(folder, source.preprocess)
    assert data is not None
    examples = read_examples(data, "train")
    chosen = calibration_set(examples, min(_FRAMES, len(examples)), _SEED)
    return read_frames(chosen, source.preprocess.size, source.preprocess.interpolation)


def main(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="folder written by training, or the file of FetalCLIP's or MobileFetalCLIP's "
            "published weights",
        ),
    ],
    out: Annotated[Path, typer.Option(help="ONNX file to write")],
    precision: Annotated[
        Precision, typer.Option(help="of weights and arithmetic; fp16 is for GPUs")
    ] = Precision.FP32,
    form: Annotated[
        Form,
        typer.Option(
            "--input",
            help="grey: uint8 (N, 1, S, S), normalised inside; rgb: float32 (N, 3, S, S), as "
            "fetalclip_edge.preprocess makes it",
        ),
    ] = Form.GREY,
    data: Annotated[
        Path | None, typer.Option(help="shards, written by training.data, to check parity on")
    ] = None,
    frames: Annotated[
        Path | None, typer.Option(help="folder of images to check parity on, in place of shards")
    ] = None,
    json_out: Annotated[
        bool, typer.Option("--json", help="print what was measured as JSON")
    ] = False,
) -> None:
    """Export an image tower to ONNX and compare it with PyTorch on real frames.

    The graph gives "embedding", L2-normalised, and of our own models "domain_features". Batches
    may have any size. A graph that does not give PyTorch's embeddings is not written.
    """
    console = Console(stderr=True)
    try:
        source = load_source(model)
        pixels = _frames(source, data, frames)
        with console.status(f"exporting {source.config.backbone} in {precision.value}"):
            made = export_graph(source, pixels, out, precision=precision.value, form=form.value)
    except (OSError, ValueError, RuntimeError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1 if isinstance(error, RuntimeError) else 2) from error
    parity = made.parity
    console.print(
        f"wrote {made.path} ({made.megabytes:.1f} MB); beside PyTorch on {parity.frames} frames, "
        f"at batches of 1 and 8: cosine {parity.cosine_mean:.6f} (smallest "
        f"{parity.cosine_min:.6f}), largest difference {parity.largest_difference:.2g}",
        highlight=False,
        soft_wrap=True,
    )
    if json_out:
        report = {
            "file": str(made.path),
            "megabytes": made.megabytes,
            "architecture": source.config.backbone,
            "license": source.origin.license,
            "precision": precision.value,
            "input": form.value,
            "parity": parity.to_dict(),
        }
        typer.echo(json.dumps(report, indent=2))


if __name__ == "__main__":
    typer.run(main)
