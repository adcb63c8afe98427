"""Fit the weights of a transformer's linear layers, once rounded, to what they really read."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from calibration.linear_int8 import LARGEST, Smoothed
from calibration.linear_layers import LinearLayer
from calibration.rounding import round_weights
from calibration.watching import tensors_of

__all__ = ["fit_linear_layers", "stretches"]

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


def fit_linear_layers(plain: Smoothed, names: Collection[str], frames: Floats) -> None:
    """Round weights in place so that their errors cancel, and put what is left into the biases.

    As `calibration.bias_correction` does for convolutions, but on what layers read in float32.
    Weights stay float32: whole steps of what `calibration.linear_int8.in_u8s8` makes of them.

    Args:
        plain: the transformer; its model changes.
        names: of the layers that will be INT8.
        frames: its input on the calibration set, float32 `(N, 1, S, S)`.
    """
    image = plain.model.graph.input[0].name
    constants = {c.name: c for c in plain.model.graph.initializer}
    known = {image: frames}
    parts = stretches(plain.layers)
    for part, after in zip(parts, [*parts[1:], None], strict=True):
        stream = [] if after is None or after[0].norm is None else [after[0].norm.input[0]]
        covariances, values = _covariances(plain, part, stream, known)
        for layer in part:
            if layer.name in names:
                _round(plain, layer, covariances[layer.given], constants)
        known = {image: frames, **dict(zip(stream, values, strict=True))}


def stretches(layers: Sequence[LinearLayer]) -> list[list[LinearLayer]]:
    """Layers in turn, parted where one reads a residual stream through a layer norm."""
    found: list[list[LinearLayer]] = []
    for layer in layers:
        if layer.norm is not None or not found:
            found.append([])
        found[-1].append(layer)
    return found


def _covariances(
    plain: Smoothed, layers: Sequence[LinearLayer], stream: Sequence[str], known: dict[str, Floats]
) -> tuple[dict[str, Doubles], list[Floats]]:
    """Of what each layer reads, `(K, K)` by that tensor's name; and a tensor of all frames."""
    names = list(dict.fromkeys(layer.given for layer in layers))
    first: dict[str, Doubles] = {}
    second: dict[str, Doubles] = {}
    count: dict[str, int] = {}
    kept = []
    for values in tensors_of(plain.model, [*names, *stream], known):
        for name, value in zip(names, values[: len(names)], strict=True):
            rows = value.reshape(-1, value.shape[-1])
            first[name] = first.get(name, 0) + rows.sum(axis=0, dtype=np.float64)
            count[name] = count.get(name, 0) + len(rows)
            second[name] = second.get(name, 0) + (rows.T @ rows).astype(np.float64)
        kept.append(values[len(names) :])
    for name in names:
        mean = first[name] / count[name]
        second[name] /= count[name]
        second[name] -= np.outer(mean, mean)
    return second, [np.concatenate(each) for each in zip(*kept, strict=True)]


def _round(
    plain: Smoothed,
    layer: LinearLayer,
    covariance: Doubles,
    constants: dict[str, TensorProto],
) -> None:
    weights = numpy_helper.to_array(constants[layer.weights])
    scale = plain.scales[layer.name]
    flat = weights.T.astype(np.float64)
    steps = round_weights(flat, scale.astype(np.float64), covariance, LARGEST).T
    rounded = steps * scale
    error = plain.ranges[layer.given].mean @ (rounded - weights)
    bias = numpy_helper.to_array(constants[layer.bias]) - error
    for name, values in ((layer.weights, rounded), (layer.bias, bias)):
        constants[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
