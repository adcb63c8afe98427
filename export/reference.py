"""Frames by which a device judges its runtimes: simulated, so that a bundle may carry them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from export.graph import INPUT, OUTPUT
from fetalclip_edge.demo import DEMO_CLIP
from fetalclip_edge.preprocess import Preprocessor, PreprocessSpec
from fetalclip_edge.sources import open_source

__all__ = ["reference_frames", "reference_tensors"]

_NUMBER = 16
_SEED = 0

_Change = Callable[[NDArray[np.float64], np.random.Generator], NDArray[np.float64]]


def _darker(image: NDArray[np.float64], _: np.random.Generator) -> NDArray[np.float64]:
    return 255 * (image / 255) ** 1.6


def _brighter(image: NDArray[np.float64], _: np.random.Generator) -> NDArray[np.float64]:
    return 255 * (image / 255) ** 0.6


def _speckled(image: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    return image * rng.gamma(8, 1 / 8, image.shape)


def _closer(image: NDArray[np.float64], _: np.random.Generator) -> NDArray[np.float64]:
    height, width = image.shape
    return image[height // 6 : -height // 6, width // 6 : -width // 6]


# As scanners' gain, speckle, depth and left-right switch change a picture. Every other frame of
# the clip stays as it is.
_CHANGES: tuple[_Change, ...] = (
    _darker,
    lambda image, _: image[:, ::-1],
    _brighter,
    _speckled,
    _closer,
    lambda image, rng: _darker(_closer(image, rng), rng),
    lambda image, rng: _speckled(image[:, ::-1], rng),
    lambda image, rng: _brighter(_speckled(image, rng), rng),
)


def reference_frames(spec: PreprocessSpec, clip: Path = DEMO_CLIP) -> NDArray[np.uint8]:
    """Frames all over a clip, every other one changed a little.

    Args:
        spec: of the model; only its geometry counts.
        clip: a recording that may be published.

    Returns:
        uint8 `(16, 1, S, S)`, grey; the same every time.
    """
    with open_source(clip) as source:
        images = [frame.image for frame in source]
    rng = np.random.default_rng(_SEED)
    levels = replace(spec, color="gray", mean=(0.0,), std=(1.0,), dtype="uint8")
    geometry = Preprocessor(levels)
    chosen = np.linspace(0, len(images) - 1, _NUMBER).round().astype(int)
    frames = np.empty((_NUMBER, 1, spec.size, spec.size), np.uint8)
    for place, index in enumerate(chosen):
        grey = images[index] if images[index].ndim == 2 else images[index].mean(axis=2)
        if place % 2:
            grey = _CHANGES[place // 2](grey.astype(np.float64), rng)
        geometry(grey.round().clip(0, 255).astype(np.uint8), out=frames[place : place + 1])
    return frames


def reference_tensors(
    session: ort.InferenceSession, spec: PreprocessSpec
) -> dict[str, NDArray[np.uint8] | NDArray[np.float32]]:
    """What `reference.safetensors` holds.

    Args:
        session: the model in float32, taking grey levels.
        spec: its preprocessing.

    Returns:
        `frames`, uint8 `(16, 1, S, S)`, `embeddings`, float32 `(16, D)`, L2-normalised, and every
        other output of the graph by its name, float32 `(16, ...)`.
    """
    frames = reference_frames(spec)
    names = [output.name for output in session.get_outputs()]
    each = [session.run(names, {INPUT: frames[i : i + 1]}) for i in range(len(frames))]
    outputs = {n: np.concatenate(o) for n, o in zip(names, zip(*each, strict=True), strict=True)}
    return {"frames": frames, "embeddings": outputs.pop(OUTPUT), **outputs}
