"""Which layers lose the most in INT8, and what it costs to leave them in float."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

from export.graph import INPUT, OUTPUT

__all__ = ["Sensitivity", "leave_in_float", "quantised_layers", "rank_layers"]

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What leaving one layer in float brings.

    Attributes:
        layer: name of its node.
        gain: by so much the mean cosine with FP32 rises.
    """

    layer: str
    gain: float


def quantised_layers(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions and products that work on dequantised weights."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul")
        and node.input[1] in made_by
        and made_by[node.input[1]].op_type == "DequantizeLinear"
    ]


def leave_in_float(
    quantised: onnx.ModelProto, core: onnx.ModelProto, layers: Collection[str]
) -> onnx.ModelProto:
    """The graph with some layers on what they were given before it was rounded.

    Args:
        quantised: Q/DQ graph.
        core: what it was made from, with nodes of the same names.
        layers: names of such nodes.

    Raises:
        ValueError: a name is of no quantised layer.
    """
    if unknown := sorted(set(layers) - set(quantised_layers(quantised))):
        raise ValueError(f"the graph has no quantised layer {', '.join(unknown)}")
    model = onnx.ModelProto()
    model.CopyFrom(quantised)
    graph = model.graph
    plain = {c.name: c for c in core.graph.initializer}
    originals = {node.name: node for node in core.graph.node}
    made_by = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.name not in layers:
            continue
        rounded = made_by.get(node.input[0])
        if rounded is not None and rounded.op_type == "DequantizeLinear":
            before = made_by.get(rounded.input[0])
            if before is not None and before.op_type == "QuantizeLinear":
                node.input[0] = before.input[0]
        for position in range(1, len(node.input)):
            values = numpy_helper.to_array(plain[originals[node.name].input[position]])
            name = f"{node.name} in float, {position}"
            graph.initializer.append(numpy_helper.from_array(values, name))
            node.input[position] = name
    _drop_unread(graph)
    onnx.checker.check_model(model)
    return model


def _drop_unread(graph: onnx.GraphProto) -> None:
    wanted = {output.name for output in graph.output}
    for node in reversed(list(graph.node)):  # sorted: what a node needs comes before it
        if wanted.intersection(node.output):
            wanted.update(node.input)
        else:
            graph.node.remove(node)
    for constant in [c for c in graph.initializer if c.name not in wanted]:
        graph.initializer.remove(constant)


def rank_layers(
    quantised: onnx.ModelProto,
    core: onnx.ModelProto,
    frames: NDArray[np.uint8],
    expected: Floats,
    step: Callable[[], object] = lambda: None,
) -> list[Sensitivity]:
    """Leave one layer after another in float, and see how much nearer the answers come.

    Args:
        quantised: Q/DQ graph that takes uint8.
        core: what it was made from, with nodes of the same names.
        frames: of validation patients, uint8 `(N, 1, S, S)`.
        expected: their embeddings in FP32 `(N, D)`.
        step: called after each layer.

    Returns:
        All layers, the one that costs most first.
    """
    whole = _cosine(quantised, frames, expected)
    found = []
    for layer in quantised_layers(quantised):
        without = _cosine(leave_in_float(quantised, core, [layer]), frames, expected)
        found.append(Sensitivity(layer, without - whole))
        step()
    return sorted(found, key=lambda s: -s.gain)


def _cosine(model: onnx.ModelProto, frames: NDArray[np.uint8], expected: Floats) -> float:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    rows: Sequence[Floats] = [session.run([OUTPUT], {INPUT: frame[None]})[0][0] for frame in frames]
    return float((np.stack(rows) * expected).sum(axis=1).mean())
