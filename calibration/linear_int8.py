"""INT8 of a transformer for CPUs: its linear layers in U8S8, the rest in float32.

Attention's products, layer norms, softmax and GELU stay in float32, and so do the patch embedding
and the projection, which are hardly any of the work. What a layer writes is not rounded: the
runtimes' integer kernels give float32, and the residual stream keeps all it has.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from calibration.linear_layers import LinearLayer, apart
from calibration.smoothing import ChannelRanges, channel_ranges, smooth

__all__ = ["LARGEST", "Smoothed", "in_u8s8", "smoothed"]

Floats = NDArray[np.float32]
LARGEST = 64
"""Integer that a weight becomes: seven bits, as `calibration.onnxruntime_int8` says why."""

_STEPS = 255
_MOST = 2**31 - 1
_FLOOR, _TINY = 1e-4, 1e-12


@dataclass(frozen=True, slots=True)
class Smoothed:
    """A transformer in float32, ready to be rounded.

    Attributes:
        model: its linear layers apart, channels evened out.
        layers: its linear layers.
        ranges: name of a tensor that a layer reads -> its channels' ranges.
        scales: name of a layer -> size of the steps of its weights, `(O,)`.
    """

    model: onnx.ModelProto
    layers: Sequence[LinearLayer]
    ranges: dict[str, ChannelRanges]
    scales: dict[str, Floats]


def smoothed(model: onnx.ModelProto, frames: Floats) -> Smoothed:
    """Set a core's linear layers apart and even out what they read.

    Args:
        model: graph of a transformer, written by `export.graph.export_core`; it changes, for two
            of FetalCLIP's size would be too much for many machines.
        frames: its input on the calibration set, float32 `(N, 1, S, S)`.
    """
    layers = apart(model)
    ranges = channel_ranges(model, [layer.given for layer in layers], frames)
    even = smooth(model, layers, ranges)
    constants = {c.name: c for c in model.graph.initializer}
    scales = {layer.name: _scale(constants[layer.weights]) for layer in layers}
    return Smoothed(model, layers, even, scales)


def _scale(weights: onnx.TensorProto) -> Floats:
    """Steps of weights `(K, O)`, which reach each output's largest."""
    largest = np.abs(numpy_helper.to_array(weights)).max(axis=0)
    # An output that is switched off must not have steps that no float32 holds.
    least = max(_FLOOR * float(largest.max()), _TINY)
    scale: Floats = (np.maximum(largest, least) / LARGEST).astype(np.float32)
    return scale


def in_u8s8(plain: Smoothed, names: Collection[str]) -> onnx.ModelProto:
    """The Q/DQ graph from normalised float32, some of its linear layers in U8S8.

    Weights are rounded to the nearest step, and the mean error of that on what the layer reads
    goes into its bias.

    Args:
        plain: the transformer.
        names: of the layers that become INT8.
    """
    model = onnx.ModelProto()
    model.CopyFrom(plain.model)
    graph = model.graph
    constants = {c.name: c for c in graph.initializer}
    nodes = {node.name: node for node in graph.node}
    rounded: dict[str, str] = {}
    before: dict[str, list[onnx.NodeProto]] = {}
    for layer in (each for each in plain.layers if each.name in names):
        ranges = plain.ranges[layer.given]
        if layer.given not in rounded:
            before[layer.name] = _round_input(graph, layer.given, ranges)
            rounded[layer.given] = before[layer.name][-1].output[0]
        new, read = _round_constants(graph, layer, constants, ranges, plain.scales[layer.name])
        before.setdefault(layer.name, []).extend(new)
        nodes[layer.name].input[:] = [rounded[layer.given], *read]
    sorted_nodes = [each for node in graph.node for each in (*before.get(node.name, ()), node)]
    in_order = onnx.GraphProto(node=sorted_nodes)
    del graph.node[:]
    graph.node.extend(in_order.node)
    return model


def _round_input(graph: onnx.GraphProto, name: str, ranges: ChannelRanges) -> list[onnx.NodeProto]:
    """Nodes that make a tensor uint8 and back."""
    scale, zero = _steps(ranges)
    told = [_put(graph, f"{name} scale", scale), _put(graph, f"{name} zero", zero)]
    steps, back = f"{name} in uint8", f"{name} rounded"
    return [
        helper.make_node("QuantizeLinear", [name, *told], [steps], f"{name} quantise"),
        helper.make_node("DequantizeLinear", [steps, *told], [back], f"{name} dequantise"),
    ]


def _steps(ranges: ChannelRanges) -> tuple[np.float32, np.uint8]:
    """Size of a step of a tensor, and the step that is zero."""
    least, most = min(float(ranges.least.min()), 0.0), max(float(ranges.most.max()), 0.0)
    scale = np.float32(max((most - least) / _STEPS, _TINY))
    return scale, np.uint8(round(-least / float(scale)))


def _round_constants(
    graph: onnx.GraphProto,
    layer: LinearLayer,
    constants: dict[str, onnx.TensorProto],
    ranges: ChannelRanges,
    scale: Floats,
) -> tuple[list[onnx.NodeProto], list[str]]:
    """Make weights int8 and correct the bias; nodes that dequantise, and what the layer reads.

    The bias of a `Gemm` becomes int32, without which ONNX Runtime leaves it to floats.
    """
    weights = numpy_helper.to_array(constants[layer.weights])
    integers = np.clip(np.round(weights / scale), -LARGEST, LARGEST).astype(np.int8)
    error = ranges.mean @ (integers * scale - weights)
    bias = (numpy_helper.to_array(constants[layer.bias]) - error).astype(np.float32)
    constants[layer.weights].CopyFrom(numpy_helper.from_array(integers, layer.weights))
    found = [_dequantise(graph, layer.weights, scale, np.zeros(len(scale), np.int8), axis=1)]
    if layer.node.op_type == "Gemm":
        steps = (scale * _steps(ranges)[0]).astype(np.float32)
        in_steps = np.clip(np.round(bias / steps.astype(np.float64)), -_MOST, _MOST)
        bias = in_steps.astype(np.int32)
        found.append(_dequantise(graph, layer.bias, steps, np.zeros(len(steps), np.int32), axis=0))
    constants[layer.bias].CopyFrom(numpy_helper.from_array(bias, layer.bias))
    return found, [node.output[0] for node in found]


def _dequantise(
    graph: onnx.GraphProto, name: str, scale: Floats, zero: NDArray[np.generic], axis: int
) -> onnx.NodeProto:
    told = [_put(graph, f"{name} scale", scale), _put(graph, f"{name} zero", zero)]
    node: onnx.NodeProto = helper.make_node(
        "DequantizeLinear", [name, *told], [f"{name} rounded"], f"{name} dequantise", axis=axis
    )
    return node


def _put(graph: onnx.GraphProto, name: str, value: NDArray[np.generic] | np.generic) -> str:
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name
