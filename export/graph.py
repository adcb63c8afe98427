"""PyTorch image tower to ONNX, with grey levels as input and normalisation inside."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
import onnxslim
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from fetalclip_edge.tasks.biometry import HEAD_OUTPUT
from training.models import ImageTower, ModelConfig
from training.models.decoder import HeadDecoder

__all__ = [
    "FEATURES",
    "GREY",
    "INPUT",
    "OUTPUT",
    "Tower",
    "ancestors",
    "core_module",
    "dequantised_input",
    "export_core",
    "export_module",
    "with_grey_levels",
]

INPUT, OUTPUT, FEATURES = "image", "embedding", "domain_features"
"""Names of the graph's input, uint8 `(N, 1, S, S)`, and outputs, float32 `(N, D)` and `(N, F)`.

The last is there for backbones that have stages of EfficientNet's make. With a decoder there is a
map besides, `fetalclip_edge.tasks.biometry.HEAD_OUTPUT`, float32 `(N, 1, S / 4, S / 4)`."""

GREY = "grey"
"""What the names of the nodes that normalise begin with."""

_CORE_INPUT = "normalised"
_OPSET = 17
_IR_VERSION = 8  # what opset 17 came with; older runtimes refuse newer ones


class Tower(Protocol):
    """What can be exported: `training.models.ImageTower`, `export.published.PublishedTower`.

    Called with grey levels 0 to 255 `(N, 1, S, S)` it gives embeddings `(N, D)`, L2-normalised,
    as PyTorch computes them and the graph must.
    """

    @property
    def config(self) -> ModelConfig:
        """Shape and normalisation."""

    @property
    def has_stages(self) -> bool:
        """Whether there are domain features beside the embedding."""

    def embed_and_characterise(self, normalised: Tensor) -> tuple[Tensor, ...]:
        """Embeddings and, with stages, domain features of normalised grey `(N, 1, S, S)`."""

    def __call__(self, images: Tensor) -> Tensor:
        """Embeddings of grey levels."""


class _Core(nn.Module):
    """The tower from where its input is normalised."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, normalised: Tensor) -> tuple[Tensor, ...]:
        return self.tower.embed_and_characterise(normalised)


class _CoreWithHead(nn.Module):
    """The same with a decoder that reads the tower's maps, and changes nothing in it."""

    def __init__(self, tower: ImageTower, decoder: HeadDecoder) -> None:
        super().__init__()
        self.tower, self.decoder = tower, decoder

    def forward(self, normalised: Tensor) -> tuple[Tensor, ...]:
        maps = self.tower.pyramid(normalised)
        return (*self.tower.characterise(maps[-1]), self.decoder(maps))


def export_core(tower: Tower, path: Path, decoder: HeadDecoder | None = None) -> None:
    """Write the graph from normalised float32 `(N, 1, S, S)` to the embedding.

    Where the backbone can, domain features are a second output.

    Batch normalisation is folded into the convolutions, and constant padding too.

    Args:
        tower: what embeds.
        path: where to write.
        decoder: of the head, for a third output.

    Raises:
        ValueError: a decoder is given, and the tower has no maps that it could read.
    """
    module, outputs = core_module(tower, decoder)
    size = tower.config.image_size
    export_module(module, path, channels=1, size=size, name=_CORE_INPUT, outputs=outputs)


def core_module(tower: Tower, decoder: HeadDecoder | None = None) -> tuple[nn.Module, list[str]]:
    """What `export_core` writes, and the names of its outputs.

    Args:
        tower: what embeds.
        decoder: of the head, for a third output.

    Raises:
        ValueError: a decoder is given, and the tower has no maps that it could read.
    """
    outputs = [OUTPUT, FEATURES] if tower.has_stages else [OUTPUT]
    if decoder is None:
        return _Core(tower), outputs
    if not (isinstance(tower, ImageTower) and tower.has_stages):
        raise ValueError("a decoder of the head needs a model of our own with stages")
    return _CoreWithHead(tower, decoder), [*outputs, HEAD_OUTPUT]


def export_module(
    module: nn.Module, path: Path, *, channels: int, size: int, name: str, outputs: list[str]
) -> None:
    """Write the graph of a module, for batches of any number.

    Args:
        module: from float32 `(N, channels, size, size)` to a tuple of the outputs.
        path: where to write.
        channels: of the input.
        size: side of the input, in pixels.
        name: of the input.
        outputs: their names.
    """
    with _without_fast_path(), warnings.catch_warnings():
        # The TorchScript exporter is deprecated, and the one that works with INT8 (see
        # docs/bundle.md); sizes are fixed, so what it says of traced constants is meant.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.zeros(2, channels, size, size),),
            path,
            input_names=[name],
            output_names=outputs,
            dynamic_axes={each: {0: "N"} for each in (name, *outputs)},
            opset_version=_OPSET,
            dynamo=False,
        )
    model = onnxslim.slim(str(path))
    model.ir_version = _IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """Attention as the sum of its parts: the fused operation that torch prefers is not in ONNX."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def ancestors(graph: onnx.GraphProto, output: str) -> set[str]:
    """Names of the nodes that an output depends on."""
    needed, names = {output}, set()
    for node in reversed(graph.node):  # sorted: what a node needs comes before it
        if needed.intersection(node.output):
            needed.update(node.input)
            names.add(node.name)
    return names


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
        helper.make_node("Cast", [INPUT], ["grey"], f"{GREY}/cast", to=TensorProto.FLOAT),
        helper.make_node("Sub", ["grey", "grey_zero"], ["grey_centred"], f"{GREY}/centre"),
        helper.make_node("Div", ["grey_centred", "grey_unit"], [_CORE_INPUT], f"{GREY}/scale"),
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
