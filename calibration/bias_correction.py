"""Fit a quantised graph's weights and biases to what it really sees (Nagel et al., 1906.04721).

Most of an ultrasound frame is black. Rounding is the same at every black pixel, so its error does
not average out: it moves whole channels, and what follows amplifies that. The mean error of every
convolution on real frames, its input's and its weights' together, goes into its bias instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calibration.rounding import patches, round_weights
from calibration.watching import tensors_of

__all__ = ["fit_convolutions"]

Floats = NDArray[np.float32]
_KEPT = 8
"""Tensors that are kept for those after them; a residual stream reaches back three layers."""


def fit_convolutions(
    quantised: onnx.ModelProto, core: onnx.ModelProto, frames: Floats, largest: int
) -> None:
    """Fit weights and biases of a Q/DQ graph in place, one convolution after another.

    Each sees what those before it, already fitted, make of the frames. Weights are rounded so that
    their errors cancel on that (`calibration.rounding`), and the mean error that is left goes into
    the bias. Those of depthwise convolutions stay as they are.

    Args:
        quantised: graph that ONNX Runtime's `quantize_static` or modelopt made of `core`, whose
            convolutions have the same names and read `DequantizeLinear`.
        core: in float32.
        frames: its input on the calibration set, float32 `(N, 1, S, S)`.
        largest: integer that a weight of any but a depthwise convolution becomes.
    """
    wanted = {node.name: node for node in core.graph.node if node.op_type == "Conv"}
    read = [node.input[0] for node in wanted.values()]
    means = dict(zip(wanted, _input_means(core, read, frames), strict=True))
    plain = {c.name: numpy_helper.to_array(c) for c in core.graph.initializer}
    constants = {c.name: c for c in quantised.graph.initializer}
    made_by = {name: node for node in quantised.graph.node for name in node.output}
    known = {quantised.graph.input[0].name: frames}
    for node in quantised.graph.node:
        if node.op_type != "Conv" or node.input[1] not in made_by:
            continue  # a convolution that was left in float32 reads its weights themselves
        original = plain[wanted[node.name].input[1]].astype(np.float64)
        maker, bias = made_by[node.input[1]], made_by.get(node.input[2])
        found, covariance = _input_moments(quantised, node, original, known)
        if covariance is not None:
            _round_to(maker, original, covariance, largest, constants)
        weights = _dequantised(maker, constants)
        error = _mean_output(weights, found) - _mean_output(original, means[node.name])
        if bias is None:
            value = constants[node.input[2]]
            put = (numpy_helper.to_array(value) - error).astype(np.float32)
        else:
            scale = numpy_helper.to_array(constants[bias.input[1]]).astype(np.float64)
            value = constants[bias.input[0]]
            steps = np.round(numpy_helper.to_array(value) - error / scale)
            put = np.clip(steps, -(2**31), 2**31 - 1).astype(np.int32)
        value.CopyFrom(numpy_helper.from_array(put, value.name))


def _round_to(
    maker: onnx.NodeProto,
    original: NDArray[np.float64],
    covariance: NDArray[np.float64],
    largest: int,
    constants: dict[str, onnx.TensorProto],
) -> None:
    flat = original.reshape(len(original), -1)
    scale = numpy_helper.to_array(constants[maker.input[1]]).astype(np.float64)
    integers = round_weights(flat, np.broadcast_to(scale, len(flat)), covariance, largest)
    _put(constants, maker.input[0], integers.reshape(original.shape))


def _put(constants: dict[str, onnx.TensorProto], name: str, values: NDArray[Any]) -> None:
    constants[name].CopyFrom(numpy_helper.from_array(values, name))


def _input_moments(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    weights: NDArray[np.float64],
    known: dict[str, Floats],
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Mean of each channel of a convolution's input, and the covariance of what its windows see.

    The latter is None for a grouped convolution.

    Args:
        model: the graph, fitted as far as this convolution.
        node: the convolution.
        weights: its weights.
        known: tensors of all frames, by name; the convolution's input is added.
    """
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    grouped = attributes.get("group", 1) > 1
    kernel = (weights.shape[2], weights.shape[3])
    pads, strides = attributes.get("pads", [0] * 4), attributes.get("strides", [1, 1])
    channels = weights.shape[1] * (attributes.get("group", 1))
    total, size = np.zeros(channels), channels * kernel[0] * kernel[1]
    first, second, count = np.zeros(size), np.zeros((size, size) if not grouped else (0, 0)), 0
    name = node.input[0]
    if name not in known:
        rows = [value for [value] in tensors_of(model, [name], known)]
        for old in list(known)[1:-_KEPT]:
            del known[old]
        known[name] = np.concatenate(rows)
    for value in known[name]:
        total += value.mean(axis=(1, 2), dtype=np.float64)
        if not grouped:
            seen = patches(value, kernel, list(pads), list(strides))
            first += seen.sum(axis=1, dtype=np.float64)
            second += seen @ seen.T
            count += seen.shape[1]
    total /= len(known[name])
    if grouped:
        return total, None
    mean = first / count
    return total, second / count - np.outer(mean, mean)


def _input_means(
    model: onnx.ModelProto, names: Sequence[str], frames: Floats
) -> list[NDArray[np.float64]]:
    """The mean of each channel of some tensors over all frames and pixels."""
    [image] = model.graph.input
    inside = [name for name in dict.fromkeys(names) if name != image.name]
    sums = {image.name: frames.mean(axis=(0, 2, 3), dtype=np.float64) * len(frames)}
    for values in tensors_of(model, inside, {image.name: frames}) if inside else ():
        for name, value in zip(inside, values, strict=True):
            mean = value.mean(axis=(0, 2, 3), dtype=np.float64)
            sums[name] = sums.get(name, np.zeros_like(mean)) + mean
    return [sums[name] / len(frames) for name in names]


def _mean_output(weights: NDArray[np.floating], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of a convolution without its bias, where its input is everywhere at its mean."""
    summed = weights.astype(np.float64).sum(axis=(2, 3))
    groups = len(means) // summed.shape[1]
    if groups == 1:
        product: NDArray[np.float64] = summed @ means
        return product
    # Each output reads the channels of its group; one channel may have several outputs.
    read = np.repeat(means.reshape(groups, -1), len(summed) // groups, axis=0)
    return np.asarray((summed * read).sum(axis=1))


def _dequantised(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]
) -> NDArray[np.float64]:
    """The weights that a `DequantizeLinear` along the output channels gives."""
    integers, scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input)
    shape = (-1, 1, 1, 1)
    whole = integers.astype(np.float64) - zero.astype(np.float64).reshape(shape)
    product: NDArray[np.float64] = whole * scale.astype(np.float64).reshape(shape)
    return product
