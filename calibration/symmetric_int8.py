"""INT8 for TensorRT and TensorRT-RTX: symmetric Q/DQ around the convolutions, the rest in float16.

Activations and weights are int8 with a zero point of 0, the only one that TensorRT knows; weights
have one scale a channel, and eight bits, for no kernel of these runtimes adds products in 16. What
a convolution writes is not rounded before its activation has cut it off, nor before it is added to
a residual stream, so that a compiler can fuse all of it. Scales, biases and what is between
convolutions are float16: strongly typed, TensorRT would compute them in float32 otherwise.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

from calibration.bias_correction import fit_convolutions
from calibration.equalisation import equalise
from calibration.linear_layers import is_transformer
from calibration.modelopt_process import place_with_modelopt
from calibration.static import (
    CORE_INPUT,
    CORRECTED_ON,
    EQUALISED_ON,
    FrameReader,
    UnsupportedGraphError,
    demand_layers,
    left_in_float32,
    normalised,
    quiet,
)
from calibration.torch_ptq import TORCH_METHODS, Network, place_in_torch
from export.graph import with_grey_levels
from export.precisions import to_fp16

__all__ = [
    "METHODS",
    "Placed",
    "method_for",
    "place_quantisers",
    "quantise_symmetric",
    "write_symmetric",
]

METHODS = ("onnxruntime", "modelopt-max", "modelopt-entropy", *TORCH_METHODS)
"""How ranges are found: by ONNX Runtime, or by NVIDIA's modelopt, of the graph or in PyTorch."""

_LARGEST = 127
_ROUNDING = ("QuantizeLinear", "DequantizeLinear")
_SMALLEST_SCALE = 2.0**-17
"""Below it float16 has fewer than seven bits left. What lies there are channels that batch
normalisation has switched off, without a weight above a thousandth."""
_CAST_ON = 16
"""So many frames tell what float16 could not hold."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A graph whose quantisers have their ranges, its weights each rounded to its nearest step.

    Attributes:
        model: Q/DQ graph from normalised float32.
        core: the same in float32, with convolutions of the same names.
        learned: whether weights have learned to be rounded, and stay as they are.
    """

    model: onnx.ModelProto
    core: onnx.ModelProto
    learned: bool = False


def quantise_symmetric(
    core: Path,
    frames: NDArray[np.uint8],
    mean: float,
    std: float,
    out: Path,
    method: str | None = None,
    in_float: Sequence[str] = (),
    network: Network | None = None,
    epochs: int = 0,
) -> None:
    """Write the symmetric Q/DQ graph of a float32 core, its weights fitted to real frames.

    What is not in INT8 is in float16, but for what `export.precisions.to_fp16` leaves in float32.

    Args:
        core: graph written by `export.graph.export_core`.
        frames: calibration set, uint8 `(N, 1, S, S)`, as the preprocessing makes them.
        mean: grey level, in units of 0 to 1, that becomes zero.
        std: grey levels, in units of 0 to 1, that become one.
        out: where to write.
        method: one of `METHODS`; None for the one that `method_for` chooses.
        in_float: names of layers that stay in float.
        network: the same model in PyTorch; methods that begin with "torch" need it.
        epochs: of learning to be rounded, for these methods.

    Raises:
        ValueError: the method is unknown or not for this graph, or there is nothing to quantise.
        RuntimeError: modelopt is not installed.
    """
    given = normalised(frames, mean, std)
    placed = place_quantisers(
        onnx.load(core), given, 255 * std, method, in_float, network=network, epochs=epochs
    )
    write_symmetric(placed, given, mean, std, out)
    onnx.save(to_fp16(out, frames[:_CAST_ON]), out)


def place_quantisers(
    core: onnx.ModelProto,
    frames: NDArray[np.float32],
    unit: float,
    method: str | None = None,
    in_float: Sequence[str] = (),
    *,
    network: Network | None = None,
    epochs: int = 0,
) -> Placed:
    """Equalise a float32 core and give its convolutions quantisers.

    Methods of PyTorch give them to linear layers, too, and leave channels as they are.

    Args:
        core: graph written by `export.graph.export_core`.
        frames: calibration set, normalised, float32 `(N, 1, S, S)`.
        unit: grey levels that become one.
        method: one of `METHODS`; None for the one that `method_for` chooses.
        in_float: names of layers that stay in float.
        network: the same model in PyTorch; methods that begin with "torch" need it.
        epochs: of learning to be rounded, for these methods.

    Raises:
        ValueError: the method is unknown or not for this graph, or there is nothing to quantise.
        RuntimeError: modelopt is not installed.
    """
    method = method_for(core.graph, method)
    layers = demand_layers(core.graph, in_float)
    if method in TORCH_METHODS:
        if network is None:
            raise ValueError(f"{method} needs the model in PyTorch, not its graph alone")
        names = layers if is_transformer(core.graph) else ()
        model, plain, learned = place_in_torch(network, frames, method, epochs, in_float, names)
        return Placed(_finished(model, frames, unit), plain, learned)
    if epochs:
        raise ValueError(f"learning to be rounded needs one of {', '.join(TORCH_METHODS)}")
    equal = equalise(core, frames[:EQUALISED_ON])
    apart = [*left_in_float32(equal.graph), *in_float]
    with tempfile.TemporaryDirectory() as work:
        path, out = Path(work) / "core.onnx", Path(work) / "placed.onnx"
        onnx.save(equal, path)
        if method == "onnxruntime":
            _with_onnxruntime(path, frames, apart, out)
        else:
            place_with_modelopt(path, frames, apart, method.partition("-")[2], out)
        model = _finished(onnx.load(out), frames, unit)
    _round_again(model, equal)
    return Placed(model, equal)


def method_for(graph: onnx.GraphProto, method: str | None = None) -> str:
    """How the ranges of a graph are found.

    Args:
        graph: written by `export.graph.export_core`.
        method: one of `METHODS` that is asked for; None chooses SmoothQuant in PyTorch for a
            transformer, ONNX Runtime for others.

    Raises:
        ValueError: there is no such method, or it would leave a transformer as it is.
    """
    transformer = is_transformer(graph)
    if method is None:
        return "torch-smoothquant" if transformer else "onnxruntime"
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    if transformer and method not in TORCH_METHODS:
        raise UnsupportedGraphError(
            f"a ViT is linear layers, which {method} leaves in float32; choose --method "
            f"{', '.join(TORCH_METHODS)}"
        )
    return method


def _finished(model: onnx.ModelProto, frames: NDArray[np.float32], unit: float) -> onnx.ModelProto:
    _keep_grey_levels(model, frames, unit)
    _scales_in_float16(model)
    _store_integers(model)
    return model


def write_symmetric(
    placed: Placed, frames: NDArray[np.float32], mean: float, std: float, out: Path
) -> None:
    """Fit weights and biases to what they see, and write the graph that takes uint8, in float32.

    Args:
        placed: made by `place_quantisers`; its model is changed.
        frames: calibration set, normalised, float32 `(N, 1, S, S)`.
        mean: grey level, in units of 0 to 1, that becomes zero.
        std: grey levels, in units of 0 to 1, that become one.
        out: where to write.
    """
    if not placed.learned:
        fit_convolutions(placed.model, placed.core, frames[:CORRECTED_ON], _LARGEST)
    onnx.save(with_grey_levels(placed.model, mean, std), out)


def _with_onnxruntime(
    core: Path, frames: NDArray[np.float32], apart: Sequence[str], out: Path
) -> None:
    with quiet():
        quantize_static(
            str(core),
            str(out),
            FrameReader(frames),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=list(apart),
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,  # TensorRT takes no int32
                "OpTypesToExcludeOutputQuantization": ["Conv"],
            },
        )


def _store_integers(model: onnx.ModelProto) -> None:
    """Quantise constants now: modelopt's files hold four bytes a weight, and how to make one."""
    graph = model.graph
    constants = {c.name: c for c in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "QuantizeLinear"]:
        if node.input[0] not in constants:
            continue
        weights, scale = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
        constants[node.input[0]].CopyFrom(_integers(weights, scale, node.output[0]))
        graph.node.remove(node)
    onnx.checker.check_model(model)


def _keep_grey_levels(model: onnx.ModelProto, frames: NDArray[np.float32], unit: float) -> None:
    """Give the input steps of one grey level where that reaches as far as the frames do.

    Where the mean is a whole grey level, all of them are then integers; from the mean of 127 pure
    white is one step too far, and becomes the level before it.
    """
    if np.abs(frames).max() * unit > _LARGEST + 1.001:
        return
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] == CORE_INPUT:
            [scale] = [c for c in model.graph.initializer if c.name == node.input[1]]
            one = np.asarray(1 / unit, np.float32)
            scale.CopyFrom(numpy_helper.from_array(one, scale.name))


def _scales_in_float16(model: onnx.ModelProto) -> None:
    """Make scales numbers that float16 has."""
    constants = {c.name: c for c in model.graph.initializer}
    for name in {node.input[1] for node in model.graph.node if node.op_type in _ROUNDING}:
        scale = np.maximum(numpy_helper.to_array(constants[name]), _SMALLEST_SCALE)
        half = scale.astype(np.float16).astype(np.float32)
        constants[name].CopyFrom(numpy_helper.from_array(half, name))


def _round_again(model: onnx.ModelProto, core: onnx.ModelProto) -> None:
    """Round weights of convolutions to steps whose size has changed since they were."""
    constants = {c.name: c for c in model.graph.initializer}
    plain = {c.name: c for c in core.graph.initializer}
    wanted = {node.name: node for node in core.graph.node}
    made_by = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        maker = made_by.get(node.input[1]) if node.op_type == "Conv" else None
        if maker is None:
            continue
        weights = numpy_helper.to_array(plain[wanted[node.name].input[1]])
        scale = numpy_helper.to_array(constants[maker.input[1]])
        constants[maker.input[0]].CopyFrom(_integers(weights, scale, maker.input[0]))


def _integers(
    weights: NDArray[np.float32], scale: NDArray[np.float32], name: str
) -> onnx.TensorProto:
    steps = np.round(weights / scale.reshape(-1, *[1] * (weights.ndim - 1)))
    return numpy_helper.from_array(np.clip(steps, -_LARGEST, _LARGEST).astype(np.int8), name)
