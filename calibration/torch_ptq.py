"""NVIDIA's modelopt on the model in PyTorch: ranges, SmoothQuant, and learning to be rounded.

For networks of linear layers, such as a ViT, and for when finding ranges is not enough: then the
rounded model learns to give the embeddings of the one in float32.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from calibration.linear_layers import linear_nodes
from calibration.torch_modules import prepared
from export.graph import Tower, export_core
from training.models.decoder import HeadDecoder

__all__ = ["TORCH_METHODS", "Network", "place_in_torch"]

TORCH_METHODS = ("torch-max", "torch-mse", "torch-smoothquant")
"""The largest value; for weights the range with the least error; ranges evened out first."""

_IN_FLOAT = ("*projection*", "*.head.*")
_BATCH = 8
_LEARNING_RATE = 1e-6
"""At ten times as much, Adam's first steps lead away by more than rounding does."""


@dataclass(frozen=True, slots=True)
class Network:
    """A model in PyTorch, which remembers how it was rounded: layers in float32 come after that.

    Attributes:
        tower: what embeds.
        decoder: of the head, which stays in float32; None without one.
    """

    tower: Tower
    decoder: HeadDecoder | None = None
    _rounded: dict[tuple[str, int, bytes], _Rounded] = field(default_factory=dict, repr=False)

    def rounded(self, frames: NDArray[np.float32], method: str, epochs: int) -> _Rounded:
        """Its graphs with quantisers everywhere, made once."""
        key = (method, epochs, hashlib.sha256(frames.tobytes()).digest())
        if key not in self._rounded:
            self._rounded[key] = _round(self.tower, self.decoder, frames, method, epochs)
        return self._rounded[key]


@dataclass(frozen=True, slots=True)
class _Rounded:
    """Q/DQ graph, the same in float32, and whether weights have learned to be rounded."""

    model: onnx.ModelProto
    core: onnx.ModelProto
    learned: bool


def place_in_torch(
    network: Network,
    frames: NDArray[np.float32],
    method: str,
    epochs: int = 0,
    in_float: Sequence[str] = (),
    layers: Sequence[str] = (),
) -> tuple[onnx.ModelProto, onnx.ModelProto, bool]:
    """Give the convolutions and linear layers of a model quantisers.

    The projection to the embedding stays in float32.

    Args:
        network: the model.
        frames: calibration set, normalised, float32 `(N, 1, S, S)`.
        method: one of `TORCH_METHODS`.
        epochs: how often the rounded model sees all frames and learns from the one in float32.
        in_float: names of layers that stay in float32.
        layers: names of all linear layers of a transformer in the graph that `in_float` is about;
            none of other networks.

    Returns:
        Q/DQ graph from normalised float32, the same in float32 before it learned, and whether it
        has learned to be rounded.

    Raises:
        ValueError: the tower is of a kind that cannot be prepared.
        RuntimeError: modelopt is not installed.
    """
    made = network.rounded(frames, method, epochs)
    model = onnx.ModelProto()
    model.CopyFrom(made.model)
    _leave_in_float(model, _names_here(made.core.graph, layers, in_float))
    return model, made.core, made.learned


def _round(
    tower: Tower,
    decoder: HeadDecoder | None,
    frames: NDArray[np.float32],
    method: str,
    epochs: int,
) -> _Rounded:
    try:
        with _quiet():
            import modelopt.torch.quantization as mtq
    except ImportError as error:
        raise RuntimeError(
            f'{method} needs NVIDIA\'s modelopt: pip install "fetalclip-edge[export]" ({error})'
        ) from error
    plain = prepared(tower)
    rounded = cast(nn.Module, copy.deepcopy(plain))
    parts = torch.from_numpy(frames).split(_BATCH)

    def show(model: nn.Module) -> None:
        with torch.no_grad():
            for part in parts:
                cast(Tower, model).embed_and_characterise(part)

    with _quiet():
        mtq.quantize(rounded, _config(mtq, method), show)
        learned = _learn(cast(Tower, rounded), plain, parts, epochs)
        rounded.eval().requires_grad_(False)
        model, core = (_exported(each, decoder) for each in (cast(Tower, rounded), plain))
    _pad_in_convolutions(model.graph, core.graph)
    return _Rounded(model, core, learned)


def _config(mtq: Any, method: str) -> dict[str, Any]:
    name = "INT8_SMOOTHQUANT_CFG" if method == "torch-smoothquant" else "INT8_DEFAULT_CFG"
    config: dict[str, Any] = copy.deepcopy(getattr(mtq, name))
    if method == "torch-mse":
        config["algorithm"] = "mse"
    config["quant_cfg"] += [{"quantizer_name": name, "enable": False} for name in _IN_FLOAT]
    return config


def _learn(rounded: Tower, plain: Tower, parts: Sequence[Tensor], epochs: int) -> bool:
    """Distil: the cosine of every output with that of float32, on the same frames.

    Weights end as they were after the epoch that came nearest, or as they began.

    Returns:
        Whether any came nearer than that.
    """
    if not epochs:
        return False
    module = cast(nn.Module, rounded).requires_grad_(True)
    optimiser = torch.optim.Adam(module.parameters(), lr=_LEARNING_RATE)
    order = torch.Generator().manual_seed(0)
    with torch.no_grad():
        wanted = [plain.embed_and_characterise(part) for part in parts]

    def loss(index: int) -> Tensor:
        found = rounded.embed_and_characterise(parts[index])
        pairs = zip(found, wanted[index], strict=True)
        return torch.stack([1 - F.cosine_similarity(a, b).mean() for a, b in pairs]).sum()

    def on_all() -> float:
        with torch.no_grad():
            return sum(len(part) * float(loss(index)) for index, part in enumerate(parts))

    first = least = on_all()
    best = _weights(module)
    for _ in range(epochs):
        for index in torch.randperm(len(parts), generator=order).tolist():
            optimiser.zero_grad()
            loss(index).backward()
            optimiser.step()
        if (now := on_all()) < least:
            least, best = now, _weights(module)
    module.load_state_dict(best)
    return least < first


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _exported(tower: Tower, decoder: HeadDecoder | None) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        export_core(tower, path, decoder)
        return onnx.load(path)


def _pad_in_convolutions(graph: onnx.GraphProto, core: onnx.GraphProto) -> None:
    """Let convolutions pad, and have the names of the other graph.

    Padding first is the same: 0 is 0 before it is rounded and after.
    """
    made_by = {name: node for node in graph.node for name in node.output}
    # Where onnxslim lets one pad, it names it after its output.
    convolutions = [node for node in core.node if node.op_type == "Conv"]
    wanted = {node.name.removesuffix("_output_0"): node for node in convolutions}
    padding = []
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        original = wanted[node.name.removesuffix("_output_0")]
        node.name = original.name
        if node.input[0] not in made_by:
            continue
        quantise = made_by.get(made_by[node.input[0]].input[0])
        pad = made_by.get(quantise.input[0]) if quantise is not None else None
        if quantise is None or pad is None or pad.op_type != "Pad":
            continue
        quantise.input[0] = pad.input[0]
        padding.append(pad)
        for attribute in list(node.attribute):
            if attribute.name in ("pads", "auto_pad"):
                node.attribute.remove(attribute)
        node.attribute.extend(a for a in original.attribute if a.name == "pads")
    for pad in padding:
        if not any(name in pad.output for node in graph.node for name in node.input):
            graph.node.remove(pad)
    read = {name for node in graph.node for name in node.input}
    for constant in [c for c in graph.initializer if c.name not in read]:
        graph.initializer.remove(constant)
    del graph.value_info[:]  # shapes that were those of padded tensors


def _names_here(
    graph: onnx.GraphProto, layers: Sequence[str], names: Sequence[str]
) -> Sequence[str]:
    """Names of some of a transformer's linear layers, whose attention is written in another way."""
    if not layers:
        return names
    here = [node.name for node in linear_nodes(graph)]
    if len(here) != len(layers):
        raise ValueError(
            f"the model has {len(here)} linear layers as PyTorch writes it for modelopt, and "
            f"{len(layers)} otherwise; choose another method"
        )
    return [here[layers.index(name)] for name in names]


def _leave_in_float(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Let layers read what their quantisers read: weights are in float32 still."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    for node in [node for node in model.graph.node if node.name in names]:
        for place in (0, 1):
            reader, read = node, place
            if made_by[node.input[place]].op_type == "Transpose":  # of a linear layer's weights
                reader, read = made_by[node.input[place]], 0
            back = made_by[reader.input[read]]
            there = made_by[back.input[0]]
            reader.input[read] = there.input[0]
            if place:  # weights have no other readers
                model.graph.node.remove(back)
                model.graph.node.remove(there)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what modelopt prints, and warns of on machines without a GPU."""
    unseen = io.StringIO()
    with (
        contextlib.redirect_stdout(unseen),
        contextlib.redirect_stderr(unseen),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
