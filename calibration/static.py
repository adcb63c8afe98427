"""What static quantisation needs, whichever integers it ends in."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader

from calibration.linear_layers import is_transformer, linear_nodes
from export.graph import OUTPUT, ancestors

__all__ = [
    "CORE_INPUT",
    "CORRECTED_ON",
    "EQUALISED_ON",
    "FrameReader",
    "UnsupportedGraphError",
    "demand_layers",
    "left_in_float32",
    "normalised",
    "quiet",
]

CORE_INPUT = "normalised"
"""Input of the graph that `export.graph.export_core` writes."""

EQUALISED_ON, CORRECTED_ON = 128, 32
"""So many frames of the calibration set give the ranges of channels, and the mean errors."""

_HEAD = ("GlobalAveragePool", "Flatten", "MatMul", "Gemm")
"""Left in float32: hardly any of the work, and an embedding in 8 bits would jump from frame to
frame (one grey level of one pixel moved its cosine three times as far)."""


class UnsupportedGraphError(ValueError):
    """There is nothing in the graph that INT8 could speed up, or a layer that it should leave."""


class FrameReader(CalibrationDataReader):  # type: ignore[misc]
    """Normalised frames `(N, 1, S, S)`, one at a time."""

    def __init__(self, frames: NDArray[np.float32]) -> None:
        self._batches: Iterator[dict[str, NDArray[np.float32]]] = (
            {CORE_INPUT: frame[None]} for frame in frames
        )

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next frame, as what the graph is given."""
        return next(self._batches, None)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the advice that onnxruntime gives, through the root logger, to slim the graph."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def normalised(frames: NDArray[np.uint8], mean: float, std: float) -> NDArray[np.float32]:
    """What the core takes for grey levels; mean and deviation in units of 0 to 1."""
    zero, unit = np.float32(255 * mean), np.float32(255 * std)
    values: NDArray[np.float32] = (frames.astype(np.float32) - zero) / unit
    return values


def demand_layers(graph: onnx.GraphProto, in_float: Sequence[str] = ()) -> list[str]:
    """Names of the layers that INT8 is for, all on the way to the embedding.

    Of a transformer these are the linear layers, of other graphs the convolutions.

    Args:
        graph: written by `export.graph.export_core`.
        in_float: names of some that shall stay in float32.

    Raises:
        UnsupportedGraphError: the graph is not such a one, there is no such layer, or a name is
            of none.
    """
    there = ([i.name for i in graph.input], OUTPUT in [o.name for o in graph.output])
    if there != ([CORE_INPUT], True):
        raise UnsupportedGraphError(
            f"INT8 is made of a graph from {CORE_INPUT!r} to {OUTPUT!r}, as "
            f"export.graph.export_core writes it, not of one from {', '.join(there[0])}"
        )
    kind, layers = "linear layer", [node.name for node in linear_nodes(graph)]
    if not is_transformer(graph):
        embeds = ancestors(graph, OUTPUT)
        kind = "convolution"
        layers = [n.name for n in graph.node if n.op_type == "Conv" and n.name in embeds]
    if not layers:
        kinds = ", ".join(sorted({node.op_type for node in graph.node}))
        raise UnsupportedGraphError(
            f"INT8 is for convolutions and linear layers, and this graph has none ({kinds}); "
            "export FP16 or FP32"
        )
    if unknown := sorted(set(in_float) - set(layers)):
        raise UnsupportedGraphError(
            f"the graph has no {kind} {', '.join(unknown)} to leave in float; it has "
            f"{', '.join(layers)}"
        )
    if len(set(in_float)) == len(layers):
        raise UnsupportedGraphError(f"every {kind} is to stay in float: export FP16 or FP32")
    return layers


def left_in_float32(graph: onnx.GraphProto) -> list[str]:
    """Names of the head's nodes, and of those that work for the domain features alone."""
    embeds = ancestors(graph, OUTPUT)
    return [node.name for node in graph.node if node.op_type in _HEAD or node.name not in embeds]
