"""Give every channel of a residual stream the same range, without changing what the graph computes.

All channels of a tensor share one step of 8 bits. Where the largest reaches 77 and another 3, the
small one is left with ten steps. Between convolutions that no activation parts, a scale may move
from the one that writes a channel to those that read it (Nagel et al., arXiv 1906.04721).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calibration.watching import tensors_of

__all__ = ["equalise"]

Floats = NDArray[np.float32]
_SMALLEST = 1e-3
"""A channel that is hardly ever there is enlarged a thousand times at most."""


def equalise(core: onnx.ModelProto, frames: Floats) -> onnx.ModelProto:
    """The same function with channels of equal range.

    Args:
        core: in float32; a graph without such streams comes back as it is.
        frames: its input on the calibration set, float32 `(N, 1, S, S)`.
    """
    model = onnx.ModelProto()
    model.CopyFrom(core)
    streams = _streams(model.graph)
    if not streams:
        return model
    largest = _largest(model, sorted(set().union(*streams)), frames)
    constants = {c.name: c for c in model.graph.initializer}

    def multiply(name: str, factors: Floats, axis: int) -> None:
        values = numpy_helper.to_array(constants[name])
        shape = [1] * values.ndim
        shape[axis] = -1
        scaled = (values * factors.reshape(shape)).astype(np.float32)
        constants[name].CopyFrom(numpy_helper.from_array(scaled, name))

    for stream in streams:
        ranges = np.max([largest[name] for name in stream], axis=0)
        scale = np.maximum(ranges / ranges.max(), _SMALLEST) if ranges.max() > 0 else ranges + 1
        for node in model.graph.node:
            if node.op_type != "Conv":
                continue
            if node.output[0] in stream:
                for name in node.input[1:]:
                    multiply(name, 1 / scale, 0)
            if node.input[0] in stream:
                multiply(node.input[1], scale, 1)
    return model


def _streams(graph: onnx.GraphProto) -> list[set[str]]:
    """Tensors that must keep one scale, for they are added up, and that only convolutions read."""
    stream_of: dict[str, set[str]] = {}
    for node in graph.node:
        if node.op_type == "Conv":
            stream_of[node.output[0]] = {node.output[0]}
        elif node.op_type == "Add" and all(name in stream_of for name in node.input):
            joined = {node.output[0]}.union(*(stream_of[name] for name in node.input))
            stream_of.update(dict.fromkeys(joined, joined))
    inside = set(stream_of)
    shared = _used_twice(graph)
    fixed = {output.name for output in graph.output}
    for node in graph.node:
        for position, name in enumerate(node.input):
            reads = node.op_type == "Conv" and position == 0 and _group(node) == 1
            adds = node.op_type == "Add" and node.output[0] in inside
            if not (reads or adds) or (reads and node.input[1] in shared):
                fixed.add(name)
        if node.op_type == "Conv" and shared.intersection(node.input[1:]):
            fixed.add(node.output[0])
    unique = {id(stream): stream for stream in stream_of.values()}
    return [stream for stream in unique.values() if not stream & fixed]


def _used_twice(graph: onnx.GraphProto) -> set[str]:
    """Weights of more than one node, which no scale of one of them may change."""
    seen: set[str] = set()
    twice: set[str] = set()
    for node in graph.node:
        twice |= seen.intersection(node.input)
        seen.update(node.input)
    return twice & {constant.name for constant in graph.initializer}


def _group(node: onnx.NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "group"), 1)


def _largest(model: onnx.ModelProto, names: Sequence[str], frames: Floats) -> dict[str, Floats]:
    """The largest magnitude of each channel of some tensors, over all frames and pixels."""
    found: dict[str, Floats] = {}
    for values in tensors_of(model, names, {model.graph.input[0].name: frames}):
        for name, value in zip(names, values, strict=True):
            most = np.abs(value).max(axis=(0, 2, 3))
            found[name] = np.maximum(found[name], most) if name in found else most
    return found
