"""Even out the channels that a linear layer reads, without changing what the graph computes.

A few channels of a transformer are ten or a hundred times as large as the others, and all share one
step of 8 bits. Part of their size moves into the layer's weights, of which every output has steps
of its own (SmoothQuant: Xiao et al. 2023, arXiv 2211.10438): out of the weight and bias of the
layer norm that makes them, or, where nothing such does and they are very uneven, by a product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from calibration.linear_layers import LinearLayer
from calibration.watching import tensors_of

__all__ = ["ChannelRanges", "channel_ranges", "smooth"]

Floats = NDArray[np.float32]
_SHARE = 0.5
"""How much of a channel's size moves, as an exponent; SmoothQuant's own."""
_SMALLEST = 1e-5
_UNEVEN = 8
"""So many times as large as the median channel the largest must be for a product of its own, which
takes time on the device."""


@dataclass(frozen=True, slots=True)
class ChannelRanges:
    """What the channels of a tensor are on real frames, each `(K,)`."""

    least: Floats
    most: Floats
    mean: Floats

    def divided(self, factors: Floats) -> ChannelRanges:
        """Of the tensor whose channels are divided by positive factors `(K,)`."""
        return ChannelRanges(self.least / factors, self.most / factors, self.mean / factors)


def channel_ranges(
    model: onnx.ModelProto, names: Sequence[str], frames: Floats
) -> dict[str, ChannelRanges]:
    """Ranges of the last axis of some tensors, over all frames.

    Args:
        model: in float32.
        names: of the tensors.
        frames: its input on the calibration set, float32 `(N, 1, S, S)`.
    """
    unique = list(dict.fromkeys(names))
    least: dict[str, Floats] = {}
    most: dict[str, Floats] = {}
    total: dict[str, NDArray[np.float64]] = {}
    for values in tensors_of(model, unique, {model.graph.input[0].name: frames}):
        for name, value in zip(unique, values, strict=True):
            rows = value.reshape(-1, value.shape[-1])
            low, high = rows.min(axis=0), rows.max(axis=0)
            least[name] = np.minimum(least.get(name, low), low)
            most[name] = np.maximum(most.get(name, high), high)
            total[name] = total.get(name, 0) + rows.mean(axis=0, dtype=np.float64)
    return {
        name: ChannelRanges(least[name], most[name], (total[name] / len(frames)).astype(np.float32))
        for name in unique
    }


def smooth(
    model: onnx.ModelProto, layers: Sequence[LinearLayer], ranges: Mapping[str, ChannelRanges]
) -> dict[str, ChannelRanges]:
    """Even out, in place, what layers read.

    Args:
        model: made by `calibration.linear_layers.apart`.
        layers: of it.
        ranges: name of a tensor that a layer reads -> its channels' ranges.

    Returns:
        The ranges of what layers read then.
    """
    constants = {c.name: c for c in model.graph.initializer}
    found = dict(ranges)
    for layer in layers:
        here = ranges[layer.given]
        largest = np.maximum(-here.least, here.most)
        if layer.norm is None and largest.max() <= _UNEVEN * np.median(largest):
            continue
        weights = numpy_helper.to_array(constants[layer.weights])
        factors = _factors(largest, np.abs(weights).max(axis=1))
        scaled = {layer.weights: weights * factors[:, None]}
        if layer.norm is None:
            _divide(model.graph, layer, factors)
        else:
            for name in layer.norm.input[1:]:
                scaled[name] = numpy_helper.to_array(constants[name]) / factors
        found[layer.given] = here.divided(factors)
        for name, values in scaled.items():
            constants[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    return found


def _divide(graph: onnx.GraphProto, layer: LinearLayer, factors: Floats) -> None:
    """Put the division of a layer's input before it, as a product."""
    name, read = f"{layer.name} factors", f"{layer.name} evened out"
    graph.initializer.append(numpy_helper.from_array(1 / factors, name))
    [place] = [i for i, node in enumerate(graph.node) if node.name == layer.name]
    product = helper.make_node("Mul", [layer.given, name], [read], f"{layer.name} even out")
    graph.node[place].input[0] = read
    graph.node.insert(place, product)


def _factors(given: Floats, weights: Floats) -> Floats:
    """What channels are divided by; their largest magnitudes `(K,)`, and those of their weights."""
    given, weights = np.maximum(given, _SMALLEST), np.maximum(weights, _SMALLEST)
    factors: Floats = (given**_SHARE / weights ** (1 - _SHARE)).astype(np.float32)
    return factors
