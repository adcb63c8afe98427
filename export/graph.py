"""PyTorch image tower to ONNX, with grey levels as input and normalisation inside."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxslim
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from training.models import ImageTower

__all__ = ["FEATURES", "INPUT", "OUTPUT", "dequantised_input", "export_core", "with_grey_levels"]

INPUT, OUTPUT, FEATURES = "image", "embedding", "domain_features"
"""Names of the graph's input, uint8 `(N, 1, S, S)`, and outputs, float32 `(N, D)` and `(N, F)`.

The last is there for backbones that have stages of EfficientNet's make."""

_CORE_INPUT = "normalised"
_OPSET = 17
_IR_VERSION = 8  # what opset 17 came with; older runtimes refuse newer ones


class _Core(nn.Module):
    """The tower from where its input is normalised."""

    def __init__(self, tower: ImageTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, normalised: Tensor) -> tuple[Tensor, ...]:
        return self.tower.embed_and_characterise(normalised)


def export_core(tower: ImageTower, path: Path) -> None:
    """Write the graph from normalised float32 `(N, 1, S, S)` to the embedding.

    Where the backbone can, domain features are a second output.

    Batch normalisation is folded into the convolutions, and constant padding too.
    """
    size = tower.config.image_size
    outputs = [OUTPUT, FEATURES] if tower.has_stages else [OUTPUT]
    with warnings.catch_warnings():
        # The TorchScript exporter is deprecated, and the one that works with INT8 (see
        # docs/bundle.md); sizes are fixed, so what it says of traced constants is meant.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Core(tower).eval(),
            (torch.zeros(2, 1, size, size),),
            path,
            input_names=[_CORE_INPUT],
            output_names=outputs,
            dynamic_axes={name: {0: "N"} for name in (_CORE_INPUT, *outputs)},
            opset_version=_OPSET,
            dynamo=False,
        )
    model = onnxslim.slim(str(path))
    model.ir_version = _IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def with_grey_levels(core: onnx.ModelProto, mean: float, std: float) -> onnx.ModelProto:
    """Put `(image / 255 - mean) / std` in front of a graph that takes normalised float32.

    Args:
        core: graph with the input of `export_core`.
        mean: grey level, in units of 0 to 1, that becomes zero.
        std: grey levels, in units of 0 to 1, that become one.

    Returns:
        A graph with a uint8 input.
    """
    model = onnx.ModelProto()
    model.CopyFrom(core)
    graph = model.graph
    constants = {"grey_zero": 255 * mean, "grey_unit": 255 * std}
    for name, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(np.array(value, dtype=np.float32), name))
    nodes = [
        helper.make_node("Cast", [INPUT], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["grey", "grey_zero"], ["grey_centred"]),
        helper.make_node("Div", ["grey_centred", "grey_unit"], [_CORE_INPUT]),
    ]
    for position, node in enumerate(nodes):
        graph.node.insert(position, node)
    return _take_bytes(model)


def _take_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    [old] = model.graph.input
    old.name = INPUT
    old.type.tensor_type.elem_type = TensorProto.UINT8
    onnx.checker.check_model(model)
    return model


def dequantised_input(quantised: onnx.ModelProto) -> onnx.ModelProto:
    """Drop the quantisation of the input: the grey levels of the frame are its INT8 values.

    Exact when the quantisation of the input is the normalisation, that is when its zero point is
    the mean and its scale the reciprocal standard deviation, in grey levels.
    """
    model = onnx.ModelProto()
    model.CopyFrom(quantised)
    graph = model.graph
    [quantise] = [
        n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == _CORE_INPUT
    ]
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name == quantise.output[0]:
                node.input[position] = INPUT
    graph.node.remove(quantise)
    return _take_bytes(model)
