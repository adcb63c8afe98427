"""The two families of runtimes, and the INT8 graph that each gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.onnxruntime_int8 import quantise
from calibration.settings import Settings
from calibration.symmetric_int8 import quantise_symmetric
from calibration.torch_ptq import Network

__all__ = ["CPU", "FAMILIES", "GPU", "Family", "write_graphs"]


@dataclass(frozen=True, slots=True)
class Family:
    """Runtimes that share an INT8 graph.

    Attributes:
        title: for people.
        file: name of the graph in a bundle.
        backends: that run it.
        on_integers: whether ONNX Runtime's integer kernels may run it on every processor. If not,
            it is judged as it is written, each number rounded as a GPU would.
    """

    title: str
    file: str
    backends: tuple[str, ...]
    on_integers: bool


CPU = Family("ONNX Runtime and OpenVINO", "encoder.cpu.onnx", ("onnxruntime", "openvino"), True)
"""U8S8 with weights of seven bits: OpenVINO, too, cuts sums off on processors without VNNI, and is
faster on it than on the other."""

GPU = Family("TensorRT and TensorRT-RTX", "encoder.int8.onnx", ("tensorrt", "tensorrt_rtx"), False)
"""Symmetric, with weights of eight bits, the rest in float16."""

FAMILIES = (CPU, GPU)


def write_graphs(
    core: Path,
    frames: NDArray[np.uint8],
    normalisation: tuple[float, float],
    settings: Settings,
    folder: Path,
    in_float: Sequence[str] = (),
    families: Sequence[Family] = FAMILIES,
    network: Network | None = None,
) -> dict[Family, Path]:
    """Quantise a float32 core for families of runtimes.

    Args:
        core: graph written by `export.graph.export_core`.
        frames: calibration set, uint8 `(N, 1, S, S)`.
        normalisation: mean and deviation, in units of 0 to 1.
        settings: how.
        folder: for the graphs.
        in_float: layers that stay in float besides those of the settings.
        families: whose graphs are wanted.
        network: the same model in PyTorch, for the methods that need it.

    Raises:
        ValueError: the graph has nothing to quantise, or no such layers.
        RuntimeError: modelopt is not installed.
    """
    apart = [*settings.in_float, *in_float]
    paths = {family: folder / family.file for family in families}
    if CPU in paths:
        quantise(core, frames, *normalisation, paths[CPU], apart)
    if GPU in paths:
        quantise_symmetric(
            *(core, frames, *normalisation, paths[GPU], settings.method, apart),
            network=network,
            epochs=settings.distill_epochs,
        )
    return paths
