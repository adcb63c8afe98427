"""Which layers lose the most in INT8."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calibration.linear_int8 import Smoothed, in_u8s8
from calibration.linear_rounding import stretches
from calibration.symmetric_int8 import Placed
from calibration.watching import tensors_of
from export.graph import OUTPUT

__all__ = ["Sensitivity", "alone", "quantised_layers", "rank_layers", "rank_linear_layers"]

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What rounding one layer costs.

    Attributes:
        layer: name of its convolution, or of a transformer's linear layer.
        loss: 1 less the mean cosine with FP32 when this layer alone is in INT8.
    """

    layer: str
    loss: float


def quantised_layers(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions whose weights are dequantised, in the order of the graph."""
    dequantised = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and node.input[1] in dequantised
    ]


def alone(placed: Placed, layer: str) -> onnx.ModelProto:
    """The graph in float32 but for the input and the weights of one convolution.

    What else reads that input, such as the sum of a residual stream, reads it rounded too.

    Raises:
        ValueError: there is no such quantised convolution.
    """
    if layer not in quantised_layers(placed.model):
        raise ValueError(f"the graph has no quantised convolution {layer!r}")
    model = onnx.ModelProto()
    model.CopyFrom(placed.model)
    graph = model.graph
    plain = {c.name: c for c in placed.core.graph.initializer}
    originals = {node.name: node for node in placed.core.graph.node}
    made_by = {name: node for node in graph.node for name in node.output}
    [kept] = [node for node in graph.node if node.name == layer]
    unrounded = {}
    for node in graph.node:
        before = made_by.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if before is not None and node.output[0] != kept.input[0]:
            unrounded[node.output[0]] = before.input[0]
    for node in graph.node:
        node.input[:] = [unrounded.get(name, name) for name in node.input]
        if node.op_type == "Conv" and node.name != layer and node.input[1] in made_by:
            values = numpy_helper.to_array(plain[originals[node.name].input[1]])
            name = f"{node.name} in float"
            graph.initializer.append(numpy_helper.from_array(values, name))
            node.input[1] = name
    return model


def rank_layers(
    placed: Placed, frames: Floats, step: Callable[[], object] = lambda: None
) -> list[Sensitivity]:
    """Quantise one layer after another alone, and see how far the answers go from FP32's.

    Weights are rounded each to its nearest step, before they are fitted to one another.

    Args:
        placed: made by `calibration.symmetric_int8.place_quantisers`.
        frames: of validation patients, normalised, float32 `(N, 1, S, S)`.
        step: called after each layer.

    Returns:
        All layers, the one that costs most first.
    """
    given = {placed.core.graph.input[0].name: frames}
    expected = _embeddings(placed.core, given)
    found = []
    for layer in quantised_layers(placed.model):
        cosines = (_embeddings(alone(placed, layer), given) * expected).sum(axis=1)
        found.append(Sensitivity(layer, float(1 - cosines.mean())))
        step()
    return sorted(found, key=lambda each: -each.loss)


def rank_linear_layers(
    plain: Smoothed, frames: Floats, step: Callable[[], object] = lambda: None
) -> list[Sensitivity]:
    """The same of a transformer's linear layers, as a CPU runs them.

    Each graph is run from the residual stream before its layer on: half the work.

    Args:
        plain: made by `calibration.linear_int8.smoothed`.
        frames: of validation patients, normalised, float32 `(N, 1, S, S)`.
        step: called after each layer.
    """
    image = plain.model.graph.input[0].name
    streams = [part[0].norm.input[0] for part in stretches(plain.layers) if part[0].norm]
    rows = list(tensors_of(plain.model, [*streams, OUTPUT], {image: frames}))
    *values, expected = (np.concatenate(each) for each in zip(*rows, strict=True))
    known, waiting, found = {image: frames}, dict(zip(streams, values, strict=True)), []
    for layer in plain.layers:
        if layer.norm is not None and layer.norm.input[0] in waiting:
            known[layer.norm.input[0]] = waiting.pop(layer.norm.input[0])
        cosines = (_embeddings(in_u8s8(plain, [layer.name]), known) * expected).sum(axis=1)
        found.append(Sensitivity(layer.name, float(1 - cosines.mean())))
        step()
    return sorted(found, key=lambda each: -each.loss)


def _embeddings(model: onnx.ModelProto, given: dict[str, Floats]) -> Floats:
    return np.concatenate([found for [found] in tensors_of(model, [OUTPUT], given)])
