"""Take the mean error of quantisation out of a graph's biases (Nagel et al., arXiv 1906.04721).

Most of an ultrasound frame is black. Rounding is the same at every black pixel, so its error does
not average out: it moves whole channels, and what follows amplifies that. The mean error of every
convolution on real frames, its input's and its weights' together, goes into its bias instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = ["correct_biases"]

Floats = NDArray[np.float32]


def correct_biases(quantised: onnx.ModelProto, core: onnx.ModelProto, frames: Floats) -> None:
    """Correct the biases of a Q/DQ graph in place, one convolution after another.

    Args:
        quantised: graph that ONNX Runtime's `quantize_static` made of `core`, whose convolutions
            have the same names and read `DequantizeLinear`.
        core: in float32.
        frames: its input on the calibration set, float32 `(N, 1, S, S)`.
    """
    wanted = {node.name: node for node in core.graph.node if node.op_type == "Conv"}
    read = [node.input[0] for node in wanted.values()]
    means = dict(zip(wanted, _input_means(core, read, frames), strict=True))
    plain = {c.name: numpy_helper.to_array(c) for c in core.graph.initializer}
    constants = {c.name: c for c in quantised.graph.initializer}
    made_by = {name: node for node in quantised.graph.node for name in node.output}
    for node in quantised.graph.node:
        if node.op_type != "Conv" or node.input[1] not in made_by:
            continue  # a convolution that was left in float32 reads its weights themselves
        [found] = _input_means(quantised, [node.input[0]], frames)
        weights = _dequantised(made_by[node.input[1]], constants)
        original = plain[wanted[node.name].input[1]]
        error = _mean_output(weights, found) - _mean_output(original, means[node.name])
        bias = made_by[node.input[2]]
        scale = numpy_helper.to_array(constants[bias.input[1]]).astype(np.float64)
        value = constants[bias.input[0]]
        steps = np.round(numpy_helper.to_array(value) - error / scale)
        corrected = np.clip(steps, -(2**31), 2**31 - 1).astype(np.int32)
        value.CopyFrom(numpy_helper.from_array(corrected, value.name))


def _input_means(
    model: onnx.ModelProto, names: Sequence[str], frames: Floats
) -> list[NDArray[np.float64]]:
    """The mean of each channel of some tensors over all frames and pixels."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    [image] = watched.graph.input
    inside = [name for name in dict.fromkeys(names) if name != image.name]
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in inside)
    sums = {image.name: frames.mean(axis=(0, 2, 3), dtype=np.float64) * len(frames)}
    if inside:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        session = ort.InferenceSession(
            watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for frame in frames:
            values = session.run(inside, {image.name: frame[None]})
            for name, value in zip(inside, values, strict=True):
                mean = value.mean(axis=(0, 2, 3), dtype=np.float64)
                sums[name] = sums.get(name, np.zeros_like(mean)) + mean
    return [sums[name] / len(frames) for name in names]


def _mean_output(weights: NDArray[np.floating], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of a convolution without its bias, where its input is everywhere at its mean."""
    summed = weights.astype(np.float64).sum(axis=(2, 3))
    depthwise = summed.shape[1] == 1
    product: NDArray[np.float64] = summed[:, 0] * means if depthwise else summed @ means
    return product


def _dequantised(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]
) -> NDArray[np.float64]:
    """The weights that a `DequantizeLinear` along the output channels gives."""
    integers, scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input)
    shape = (-1, 1, 1, 1)
    whole = integers.astype(np.float64) - zero.astype(np.float64).reshape(shape)
    product: NDArray[np.float64] = whole * scale.astype(np.float64).reshape(shape)
    return product
