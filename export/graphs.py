"""The graphs of one model, in the precisions that a bundle carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.families import CPU, FAMILIES, GPU, Family, write_graphs
from calibration.settings import Settings
from calibration.torch_ptq import Network
from export.graph import export_core, with_grey_levels
from export.parity import check_parity
from export.precisions import to_fp16
from export.source import Source

__all__ = ["Exported", "make_graphs"]

_FP32, _FP16 = "encoder.onnx", "encoder.fp16.onnx"
_PARITY_FRAMES = 16


@dataclass(frozen=True, slots=True)
class Exported:
    """The graphs in a working folder; FP32 is there always, to measure the others by."""

    core: Path
    fp32: Path
    int8: Mapping[Family, Path] = field(default_factory=dict)
    fp16: Path | None = None

    def carried(self, precisions: Sequence[str]) -> dict[str, dict[str, Path]]:
        """Backend -> precision -> graph, of what a bundle of these precisions holds.

        FP16 is for GPUs: their runtimes take precision from the graph. It comes before INT8, which
        no GPU has measured yet.
        """
        graphs: dict[str, dict[str, Path]] = {
            backend: {} for family in FAMILIES for backend in family.backends
        }
        if self.fp16 is not None:
            for backend in GPU.backends:
                graphs[backend]["fp16"] = self.fp16
        for family, path in self.int8.items():
            for backend in family.backends:
                graphs[backend]["int8"] = path
        if "fp32" in precisions:
            for backend in CPU.backends:
                graphs[backend]["fp32"] = self.fp32
        return {backend: graphs_of for backend, graphs_of in graphs.items() if graphs_of}


def make_graphs(
    release: Source,
    frames: NDArray[np.uint8],
    work: Path,
    precisions: Sequence[str],
    settings: Settings,
    network: Network | None = None,
) -> Exported:
    """Export a model in the precisions of a bundle, each compared with PyTorch on a few frames.

    Args:
        release: the trained model.
        frames: calibration set, uint8 `(N, 1, S, S)`.
        work: folder for the graphs.
        precisions: "int8", "fp32" and "fp16".
        settings: how to quantise.
        network: the model in PyTorch, with a decoder of the head for a map besides; None for the
            release's tower alone. What it is rounded to it remembers.

    Raises:
        ParityError: a graph does not give PyTorch's embeddings.
    """
    config = release.config
    network = network or Network(release.tower)
    decoder = network.decoder
    core, fp32, fp16 = (work / name for name in ("core.onnx", _FP32, _FP16))
    export_core(release.tower, core, decoder)
    normalisation = (config.mean, config.std)
    onnx.save(with_grey_levels(onnx.load(core), *normalisation), fp32)
    some = frames[:_PARITY_FRAMES]
    check_parity(release.tower, fp32, some, some, "fp32", decoder)
    int8 = {}
    if "int8" in precisions:
        int8 = write_graphs(core, frames, normalisation, settings, work, network=network)
    if "fp16" in precisions:
        onnx.save(to_fp16(fp32, some), fp16)
        check_parity(release.tower, fp16, some, some, "fp16", decoder)
    return Exported(core, fp32, int8, fp16 if "fp16" in precisions else None)
