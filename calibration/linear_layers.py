"""The linear layers of a transformer: which they are, and each with constants of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.graph import OUTPUT, ancestors

__all__ = ["LinearLayer", "apart", "is_transformer", "linear_nodes"]

Floats = NDArray[np.float32]
_LAST_AXIS = 2
"""Weights of a linear layer have two axes."""


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """A layer `x @ weights + bias`, whose constants nothing else reads.

    Attributes:
        node: of the layer's name. `MatMul`, and an `Add` after it; or `Gemm` with three inputs and
            no attributes, where the layer reads a matrix.
        weights: name of its weights, `(K, O)`.
        bias: name of its bias, `(O,)`.
        norm: the `LayerNormalization` that makes its input, where nothing else reads that; its
            constants are its own, too. None where something else makes it.
    """

    node: onnx.NodeProto
    weights: str
    bias: str
    norm: onnx.NodeProto | None = None

    @property
    def name(self) -> str:
        """As in the graph that training's model was exported to."""
        return str(self.node.name)

    @property
    def given(self) -> str:
        """The tensor that it reads."""
        return str(self.node.input[0])


def linear_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Products with constant weights on the way to the embedding, but for the projection to it."""
    embeds = ancestors(graph, OUTPUT)
    matrices = {c.name for c in graph.initializer if len(c.dims) == _LAST_AXIS}
    found = [
        node
        for node in graph.node
        if node.name in embeds and node.op_type in ("MatMul", "Gemm") and node.input[1] in matrices
    ]
    return found[:-1]


def is_transformer(graph: onnx.GraphProto) -> bool:
    """Whether its work is in linear layers: there are more of them than of convolutions."""
    embeds = ancestors(graph, OUTPUT)
    convolutions = sum(node.op_type == "Conv" and node.name in embeds for node in graph.node)
    return len(linear_nodes(graph)) > int(convolutions)


def apart(model: onnx.ModelProto) -> list[LinearLayer]:
    """Give every linear layer weights `(K, O)` and a bias of its own; what it computes is the same.

    Exporters drop a bias of zeros, and keep equal constants once for all who read them.

    Args:
        model: graph written by `export.graph.export_core`; it changes.

    Returns:
        Its linear layers, in the graph's order.
    """
    graph = model.graph
    constants = {c.name: c for c in graph.initializer}
    wanted = [node.name for node in linear_nodes(graph)]
    biases = {name: _split(graph, name, constants) for name in wanted}
    readers = _readers(graph)
    made_by = {output: node for node in graph.node for output in node.output}
    norms = {
        node.name: norm
        for node in graph.node
        if node.name in biases and (norm := _norm(node.input[0], made_by, readers)) is not None
    }
    for norm in norms.values():
        for place, name in enumerate(norm.input[1:], 1):
            norm.input[place] = _put(
                graph, f"{norm.name} constant {place}", _values(constants[name])
            )
    _forget_unread(graph)
    onnx.checker.check_model(model)
    nodes = {node.name: node for node in graph.node}
    return [
        LinearLayer(nodes[name], nodes[name].input[1], biases[name], norms.get(name))
        for name in wanted
    ]


def _split(graph: onnx.GraphProto, name: str, constants: dict[str, onnx.TensorProto]) -> str:
    """Give one layer weights `(K, O)` and a bias of its own; the name of that."""
    [(place, node)] = [(i, n) for i, n in enumerate(graph.node) if n.name == name]
    weights, bias_name = _values(constants[node.input[1]]), f"{name} bias"
    if node.op_type == "Gemm":
        told = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        weights = (weights.T if told.get("transB") else weights) * np.float32(told.get("alpha", 1))
        bias = np.zeros(weights.shape[1], np.float32)
        if len(node.input) > _LAST_AXIS:
            bias = bias + _values(constants[node.input[2]]) * np.float32(told.get("beta", 1))
        del node.attribute[:]
        put = (_put(graph, f"{name} weights", weights), _put(graph, bias_name, bias))
        node.input[:] = [node.input[0], *put]
        return bias_name
    node.input[1] = _put(graph, f"{name} weights", weights)
    after = [n for n in graph.node if node.output[0] in n.input]
    added = [c for n in after if n.op_type == "Add" for c in n.input if c in constants]
    if len(after) == len(added) == 1 and list(constants[added[0]].dims) == [len(weights[0])]:
        after[0].input[:] = [node.output[0], _put(graph, bias_name, _values(constants[added[0]]))]
        return bias_name
    _put(graph, bias_name, np.zeros(weights.shape[1], np.float32))
    product, result = f"{name} product", node.output[0]
    node.output[0] = product
    graph.node.insert(
        place + 1, helper.make_node("Add", [product, bias_name], [result], f"{name} add")
    )
    return bias_name


def _norm(
    name: str, made_by: dict[str, onnx.NodeProto], readers: dict[str, int]
) -> onnx.NodeProto | None:
    """What normalises a tensor that one layer alone reads, maybe with first axes exchanged."""
    while (node := made_by.get(name)) is not None and readers[name] == 1:
        if node.op_type == "LayerNormalization":
            return node if len(node.output) == 1 and len(node.input) > _LAST_AXIS else None
        order = [a.ints for a in node.attribute if a.name == "perm"]
        if node.op_type != "Transpose" or not order or order[0][-1] != len(order[0]) - 1:
            return None
        name = node.input[0]
    return None


def _readers(graph: onnx.GraphProto) -> dict[str, int]:
    count = {output.name: 1 for output in graph.output}
    for node in graph.node:
        for name in node.input:
            count[name] = count.get(name, 0) + 1
    return count


def _values(constant: onnx.TensorProto) -> Floats:
    values: Floats = numpy_helper.to_array(constant)
    return values


def _put(graph: onnx.GraphProto, name: str, values: Floats) -> str:
    values = np.ascontiguousarray(values, np.float32)
    graph.initializer.append(numpy_helper.from_array(values, name))
    return name


def _forget_unread(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input}
    for place in reversed(range(len(graph.initializer))):
        if graph.initializer[place].name not in read:
            del graph.initializer[place]
