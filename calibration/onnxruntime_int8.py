"""INT8 for ONNX Runtime's CPU kernels: uint8 activations, int8 weights, ranges from real frames."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from calibration.bias_correction import fit_convolutions
from calibration.equalisation import equalise
from export.graph import OUTPUT, ancestors, dequantised_input, with_grey_levels

__all__ = ["quantise"]

_CORE_INPUT = "normalised"
_HEAD = ("GlobalAveragePool", "Flatten", "MatMul", "Gemm")
"""Left in float32: hardly any of the work, and an embedding in 8 bits would jump from frame to
frame (one grey level of one pixel moved its cosine three times as far)."""


_EQUALISED_ON = 128
"""So many frames of the calibration set give the ranges of channels."""

_CORRECTED_ON = 32
"""So many give the mean errors."""


class _Frames(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, frames: NDArray[np.float32]) -> None:
        self._batches: Iterator[dict[str, NDArray[np.float32]]] = (
            {_CORE_INPUT: frame[None]} for frame in frames
        )

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._batches, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that onnxruntime gives, through the root logger, to slim the graph."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _left_in_float32(graph: onnx.GraphProto) -> list[str]:
    """Names of the head's nodes, and of those that work for the domain features alone."""
    embeds = ancestors(graph, OUTPUT)
    return [node.name for node in graph.node if node.op_type in _HEAD or node.name not in embeds]


def quantise(core: Path, frames: NDArray[np.uint8], mean: float, std: float, out: Path) -> None:
    """Write the U8S8 graph of a float32 core.

    Pooling, projection and what the domain alone needs stay in float32. Where the mean is a whole
    grey level, the normalisation is the quantisation of the input, and the frame's bytes go into
    the first convolution as they are.

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
    """
    zero, unit = 255 * mean, 255 * std
    exact = abs(zero - round(zero)) < 1e-6 and 0 <= round(zero) <= 255
    overrides = {
        _CORE_INPUT: [
            {"scale": np.array(1 / unit, np.float32), "zero_point": np.array(round(zero), np.uint8)}
        ]
    }
    normalised = (frames.astype(np.float32) - np.float32(zero)) / np.float32(unit)
    equal = equalise(onnx.load(core), normalised[:_EQUALISED_ON])
    with _quiet(), tempfile.TemporaryDirectory() as work:
        onnx.save(equal, Path(work) / "core.onnx")
        quantize_static(
            str(Path(work) / "core.onnx"),
            str(out),
            _Frames(normalised),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=_left_in_float32(equal.graph),
            extra_options={"TensorQuantOverrides": overrides} if exact else {},
        )
    quantised = onnx.load(out)
    fit_convolutions(quantised, equal, normalised[:_CORRECTED_ON])
    model = dequantised_input(quantised) if exact else with_grey_levels(quantised, mean, std)
    onnx.save(model, out)
