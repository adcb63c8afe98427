"""Precisions of graphs, and FP16: it lives in the graph, as strongly typed TensorRT wants it."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from export.graph import FEATURES, GREY, INPUT, OUTPUT, ancestors
from export.published import PublishedSource
from export.source import Source

__all__ = ["Precision", "choose_precisions", "to_fp16"]


_LARGE_BYTES, _FEWEST = 1 << 28, 2
"""A graph with more weights is shown this many frames: AutoCast holds every tensor of all of them.
Its weights lie beside it: what AutoCast does before it needs them copies the graph several times.
FetalCLIP's ViT-L/14 (1.2 GB) takes 19 GB of memory at most so, and took more than 23 otherwise."""


class Precision(str, Enum):
    """Of the weights and arithmetic of a bundle's graph."""

    INT8 = "int8"
    FP32 = "fp32"
    FP16 = "fp16"


def choose_precisions(source: Source, wanted: Sequence[str]) -> tuple[str, ...]:
    """The precisions of the graphs of a bundle.

    Args:
        source: the model.
        wanted: by the user; nothing chooses INT8 and FP16 for our own models, FP32 and FP16 for
            published ones.

    Raises:
        ValueError: one does not exist.
    """
    if not wanted:
        return ("fp32", "fp16") if isinstance(source, PublishedSource) else ("int8", "fp16")
    for name in wanted:
        if name not in [each.value for each in Precision]:
            raise ValueError(f"precision must be int8, fp32 or fp16, not {name!r}")
    return tuple(dict.fromkeys(wanted))


def to_fp16(path: Path, frames: NDArray[np.generic]) -> onnx.ModelProto:
    """A graph with float16 weights and arithmetic; its input and outputs stay as they are.

    By NVIDIA's AutoCast (modelopt), which runs the graph on real frames and leaves in float32 what
    would leave float16's range on them. What is cheap and sensitive is left in float32 besides: the
    grey levels' way to the first convolution, the division by the embedding's length, and the
    statistics that are the domain features (squares of activations).

    Args:
        path: the float32 graph.
        frames: what the graph takes, `(N, C, S, S)`: real ones, a few are enough.

    Raises:
        RuntimeError: modelopt is not installed.
    """
    try:
        from modelopt.onnx.autocast import convert_to_mixed_precision
    except ImportError as error:
        raise RuntimeError(
            f'FP16 needs NVIDIA\'s modelopt: pip install "fetalclip-edge[export]" ({error})'
        ) from error
    apart = _kept_in_float32(onnx.load(path).graph)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        if path.stat().st_size > _LARGE_BYTES:
            path, frames = _weights_beside(path, Path(folder)), frames[:_FEWEST]
        calibration = Path(folder) / "frames.npz"
        np.savez(calibration, allow_pickle=False, **{INPUT: frames})
        converted: onnx.ModelProto = convert_to_mixed_precision(
            str(path),
            low_precision_type="fp16",
            keep_io_types=True,
            nodes_to_exclude=apart,
            calibration_data=str(calibration),
        )
    onnx.checker.check_model(converted)
    return converted


def _weights_beside(path: Path, folder: Path) -> Path:
    """The same graph with its weights in another file."""
    new = folder / "graph.onnx"
    onnx.save(onnx.load(path), new, save_as_external_data=True, location="weights")
    return new


def _kept_in_float32(graph: onnx.GraphProto) -> list[str]:
    """Regular expressions, each the name of one node."""
    names = {node.name for node in graph.node if node.name.startswith(f"{GREY}/")}
    outputs = {output.name for output in graph.output}
    if FEATURES in outputs:
        names |= ancestors(graph, FEATURES) - ancestors(graph, OUTPUT)
    names |= _from_length_on(graph)
    return [f"{re.escape(name)}$" for name in sorted(names)]


def _from_length_on(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes that compute the embedding's length, and of what follows."""
    reached: set[str] = set()
    names: set[str] = set()
    for node in graph.node:
        if node.op_type == "ReduceL2" or reached.intersection(node.input):
            reached.update(node.output)
            names.add(node.name)
    return names


@contextmanager
def _quiet() -> Iterator[None]:
    """Without modelopt's account of what it does, part of which goes to standard output."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
