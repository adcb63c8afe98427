"""INT8 as TensorRT, TensorRT-RTX and OpenVINO want it: symmetric Q/DQ, by NVIDIA's modelopt."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from calibration.bias_correction import correct_biases
from calibration.equalisation import equalise
from export.graph import export_core, with_grey_levels
from training.models import ImageTower

from timm.layers import Conv2dSame  # isort: skip

__all__ = ["METHODS", "UnsupportedModelError", "folded", "quantise_tower", "write_qdq"]

METHODS = ("max", "mse", "entropy", "smoothquant")
"""How modelopt finds the ranges of activations."""

_BATCH = 8
_EQUALISED_ON, _CORRECTED_ON = 128, 32
_LARGEST = 127


class UnsupportedModelError(ValueError):
    """The model has nothing that INT8 could speed up, or not what can be exported."""


def folded(tower: ImageTower, frames: NDArray[np.float32]) -> ImageTower:
    """A copy without batch normalisation, whose residual streams have channels of equal range.

    Args:
        tower: in evaluation mode.
        frames: normalised calibration frames, float32 `(N, 1, S, S)`.

    Raises:
        UnsupportedModelError: the tower has no convolution or linear layer besides the projection.
    """
    copied = copy.deepcopy(tower).eval().requires_grad_(False)
    for module in list(copied.modules()):
        _fold_children(module)
    _pad_outside(copied, frames.shape[-1])
    convolutions = [m for m in copied.modules() if isinstance(m, nn.Conv2d)]
    linear = [m for m in copied.modules() if isinstance(m, nn.Linear)]
    if len(convolutions) + len(linear) < 2:
        raise UnsupportedModelError(
            f"{tower.config.backbone} has no convolution or linear layer to quantise"
        )
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "core.onnx"
        export_core(copied, path)
        core = onnx.load(path)
    equal = equalise(core, frames[:_EQUALISED_ON])
    _take_weights(convolutions, core, equal)
    return copied


def _fold_children(module: nn.Module) -> None:
    before: tuple[str, nn.Conv2d] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d):
            before = (name, child)
        elif isinstance(child, nn.BatchNorm2d) and before is not None:
            setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
            setattr(module, name, getattr(child, "act", nn.Identity()))
            before = None


def _pad_outside(tower: ImageTower, size: int) -> None:
    """Plain convolutions in place of timm's that pad by themselves, which modelopt passes over."""
    found: dict[str, tuple[int, int]] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda _, inputs, name=name: found.update({name: tuple(inputs[0].shape[-2:])})
        )
        for name, module in tower.named_modules()
        if isinstance(module, Conv2dSame)
    ]
    with torch.inference_mode():
        tower.embed_and_characterise(torch.zeros(1, 1, size, size))
    for hook in hooks:
        hook.remove()
    for name, shape in found.items():
        parent, _, last = name.rpartition(".")
        old = tower.get_submodule(name)
        plain = nn.Conv2d(
            old.in_channels,
            old.out_channels,
            old.kernel_size,
            old.stride,
            dilation=old.dilation,
            groups=old.groups,
        )
        plain.weight, plain.bias = old.weight, old.bias
        pads: list[int] = []  # as torch wants them: of the last dimension first
        for d in (1, 0):
            reach = (old.kernel_size[d] - 1) * old.dilation[d] + 1
            total = max((-(-shape[d] // old.stride[d]) - 1) * old.stride[d] + reach - shape[d], 0)
            pads += [total // 2, total - total // 2]
        padded = nn.Sequential(nn.ZeroPad2d(tuple(pads)), plain)
        setattr(tower.get_submodule(parent), last, padded.requires_grad_(False))


def _take_weights(
    convolutions: Sequence[nn.Conv2d], core: onnx.ModelProto, equal: onnx.ModelProto
) -> None:
    """Weights of the equalised graph, for the convolutions whose weights the plain one has."""
    plain = {c.name: numpy_helper.to_array(c) for c in core.graph.initializer}
    changed = {c.name: numpy_helper.to_array(c) for c in equal.graph.initializer}
    waiting = list(convolutions)
    for node in core.graph.node:
        if node.op_type != "Conv" or np.array_equal(plain[node.input[1]], changed[node.input[1]]):
            continue
        weights = plain[node.input[1]]
        found = next(
            m
            for m in waiting
            if m.weight.shape == weights.shape
            and np.allclose(m.weight.numpy(), weights, rtol=1e-4, atol=1e-5)
        )
        waiting.remove(found)
        found.weight.copy_(torch.from_numpy(changed[node.input[1]].copy()))
        if found.bias is not None and len(node.input) > 2:
            found.bias.copy_(torch.from_numpy(changed[node.input[2]].copy()))


def quantise_tower(
    tower: ImageTower,
    frames: NDArray[np.float32],
    method: str = "max",
    in_float: Sequence[str] = (),
) -> ImageTower:
    """Give a folded tower modelopt's quantisers, with ranges from real frames.

    The projection stays in float: hardly any of the work, and an embedding in 8 bits would jump
    from frame to frame.

    Args:
        tower: made by `folded`; it is not changed.
        frames: normalised calibration frames, float32 `(N, 1, S, S)`.
        method: one of `METHODS`.
        in_float: names of modules that stay in float.

    Raises:
        ValueError: the method is unknown, or a name is of no module.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    known = {name for name, _ in tower.named_modules()}
    if unknown := sorted(set(in_float) - known):
        raise ValueError(f"the model has no layer {', '.join(unknown)}")
    # It takes half a minute to import, and the rest of the calibration does without it.
    with _quiet():
        import modelopt.torch.quantization as mtq

        config: dict[str, Any] = copy.deepcopy(
            mtq.INT8_SMOOTHQUANT_CFG if method == "smoothquant" else mtq.INT8_DEFAULT_CFG
        )
        config["quant_cfg"] += [
            {"quantizer_name": f"{name}.*", "enable": False} for name in ("projection", *in_float)
        ]
        if method == "mse":
            config["algorithm"] = {"method": "mse"}
        if method == "entropy":
            for entry in config["quant_cfg"]:
                if entry["quantizer_name"] == "*input_quantizer":
                    entry["cfg"] = {**entry["cfg"], "calibrator": "histogram"}

        def show_frames(model: nn.Module) -> None:
            with torch.inference_mode():
                for start in range(0, len(frames), _BATCH):
                    model.embed_and_characterise(  # type: ignore[operator]
                        torch.from_numpy(frames[start : start + _BATCH])
                    )

        quantised: ImageTower = mtq.quantize(copy.deepcopy(tower), config, show_frames)
    return quantised


def write_qdq(
    quantised: ImageTower, tower: ImageTower, frames: NDArray[np.float32], path: Path
) -> onnx.ModelProto:
    """Export a tower with quantisers: uint8 grey in, INT8 weights as they are stored.

    Weights and biases are then fitted to what the graph sees, as for ONNX Runtime.

    Args:
        quantised: made by `quantise_tower` of `tower`.
        tower: made by `folded`.
        frames: normalised calibration frames, float32 `(N, 1, S, S)`.
        path: where to write the graph.

    Returns:
        The graph of `tower` in float32, whose convolutions have the same names.
    """
    with _quiet(), tempfile.TemporaryDirectory() as work:
        core, plain = Path(work) / "core.onnx", Path(work) / "plain.onnx"
        export_core(quantised, core)
        export_core(tower, plain)
        model, reference = onnx.load(core), onnx.load(plain)
    _pad_inside(model)
    _store_integers(model)
    _name_alike(model, reference)
    correct_biases(model, reference, frames[:_CORRECTED_ON], limit=_LARGEST)
    config = quantised.config
    onnx.save(with_grey_levels(model, config.mean, config.std), path)
    return reference


def _name_alike(model: onnx.ModelProto, reference: onnx.ModelProto) -> None:
    """Call the convolutions of the reference as those of the model: slimming renames some."""
    names, others = (
        [node for node in m.graph.node if node.op_type == "Conv"] for m in (model, reference)
    )
    for node, other in zip(names, others, strict=True):
        other.name = node.name


def _pad_inside(model: onnx.ModelProto) -> None:
    """Let convolutions pad by themselves: zeros are zeros, quantised or not."""
    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    values = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "Conv"]:
        chain = [node]
        while chain[-1].input[0] in made_by and len(chain) < 4:
            chain.append(made_by[chain[-1].input[0]])
        kinds = [n.op_type for n in chain]
        if kinds != ["Conv", "DequantizeLinear", "QuantizeLinear", "Pad"]:
            continue
        pad = chain[-1]
        amounts = [int(v) for v in values[pad.input[1]]]  # of N, C, H, W before, then after
        own = next((a for a in node.attribute if a.name == "pads"), None)
        if own is not None:
            node.attribute.remove(own)
        before = list(own.ints) if own is not None else [0] * 4
        more = amounts[2:4] + amounts[6:8]
        total = [b + m for b, m in zip(before, more, strict=True)]
        node.attribute.append(onnx.helper.make_attribute("pads", total))
        chain[2].input[0] = pad.input[0]
        if not any(pad.output[0] in n.input for n in graph.node):
            graph.node.remove(pad)


def _store_integers(model: onnx.ModelProto) -> None:
    """Quantise constants now, so that the file holds a byte a weight, not four and a recipe."""
    graph = model.graph
    constants = {c.name: c for c in graph.initializer}
    values = {name: numpy_helper.to_array(c) for name, c in constants.items()}
    for node in list(graph.node):
        if node.op_type == "Constant":
            values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    for node in list(graph.node):
        if node.op_type != "QuantizeLinear" or node.input[0] not in constants:
            continue
        weights, scale, zero = (values[name] for name in node.input)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        shape = [1] * weights.ndim
        if scale.size > 1:
            shape[axis] = -1
        steps = np.round(weights / scale.reshape(shape))
        integers = np.clip(steps, -_LARGEST, _LARGEST).astype(zero.dtype)
        constants[node.input[0]].CopyFrom(numpy_helper.from_array(integers, node.output[0]))
        graph.node.remove(node)
    onnx.checker.check_model(model)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings and the prints of modelopt; its errors are raised all the same."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
