"""INT8 for ONNX Runtime's CPU kernels: uint8 activations, int8 weights, ranges from real frames."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

from calibration.bias_correction import fit_convolutions
from calibration.equalisation import equalise
from calibration.linear_int8 import in_u8s8, smoothed
from calibration.linear_layers import is_transformer
from calibration.linear_rounding import fit_linear_layers
from calibration.static import (
    CORE_INPUT,
    CORRECTED_ON,
    EQUALISED_ON,
    FrameReader,
    demand_layers,
    left_in_float32,
    normalised,
    quiet,
)
from export.graph import dequantised_input, with_grey_levels

__all__ = ["quantise"]

_LARGEST = 64


def quantise(
    core: Path,
    frames: NDArray[np.uint8],
    mean: float,
    std: float,
    out: Path,
    in_float: Sequence[str] = (),
) -> None:
    """Write the U8S8 graph of a float32 core.

    Of a transformer `calibration.linear_int8` makes it, of other graphs what follows. Pooling,
    projection and what the domain alone needs stay in float32. Where the mean is a whole grey
    level, the normalisation is the quantisation of the input, and the frame's bytes go into the
    first convolution as they are.

    Weights have seven bits. Processors without VNNI (AVX2 alone) add two products of uint8 and int8
    in 16 bits, where eight bits overflow and are cut off without a word; seven do not. Channels of
    residual streams are brought to one range first, and the mean error that is left goes into the
    biases.

    Args:
        core: graph written by `export.graph.export_core`.
        frames: calibration set, uint8 `(N, 1, S, S)`, as the preprocessing makes them.
        mean: grey level, in units of 0 to 1, that becomes zero.
        std: grey levels, in units of 0 to 1, that become one.
        out: where to write.
        in_float: names of layers that stay in float32.

    Raises:
        UnsupportedGraphError: the graph has nothing to quantise, or no such layer.
    """
    zero, unit = 255 * mean, 255 * std
    exact = abs(zero - round(zero)) < 1e-6 and 0 <= round(zero) <= 255
    overrides = {
        CORE_INPUT: [
            {"scale": np.array(1 / unit, np.float32), "zero_point": np.array(round(zero), np.uint8)}
        ]
    }
    plain, given = onnx.load(core), normalised(frames, mean, std)
    layers = demand_layers(plain.graph, in_float)
    if is_transformer(plain.graph):
        chosen = [name for name in layers if name not in in_float]
        even = smoothed(plain, given)
        fit_linear_layers(even, chosen, given[:CORRECTED_ON])
        onnx.save(with_grey_levels(in_u8s8(even, chosen), mean, std), out)
        return
    equal = equalise(plain, given[:EQUALISED_ON])
    with quiet(), tempfile.TemporaryDirectory() as work:
        onnx.save(equal, Path(work) / "core.onnx")
        quantize_static(
            str(Path(work) / "core.onnx"),
            str(out),
            FrameReader(given),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=[*left_in_float32(equal.graph), *in_float],
            extra_options={"TensorQuantOverrides": overrides} if exact else {},
        )
    quantised = onnx.load(out)
    fit_convolutions(quantised, equal, given[:CORRECTED_ON], _LARGEST)
    rounded = any(
        node.input[0] == CORE_INPUT
        for node in quantised.graph.node
        if node.op_type == "QuantizeLinear"
    )
    model = (
        dequantised_input(quantised)
        if exact and rounded
        else with_grey_levels(quantised, mean, std)
    )
    onnx.save(model, out)
