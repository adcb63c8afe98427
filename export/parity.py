"""Whether a graph gives what PyTorch gives, on real frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from export.graph import INPUT, OUTPUT, Tower, core_module
from fetalclip_edge.cosines import row_cosines
from training.models.decoder import HeadDecoder

__all__ = ["BATCHES", "LEAST_COSINE", "Parity", "ParityError", "check_parity"]

LEAST_COSINE: Mapping[str, float] = {"fp32": 0.9999, "fp16": 0.999}
"""Precision -> the mean cosine with PyTorch's that each output of a graph must reach."""

BATCHES = (1, 8)
"""Frames at once: the graph must give the same of both."""


class ParityError(RuntimeError):
    """The graph does not give what PyTorch gives."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How near a graph's outputs are to those of PyTorch.

    Attributes:
        frames: how many were compared, at each batch size.
        cosine_mean: of the embeddings, over frames and batch sizes.
        cosine_min: the smallest.
        largest_difference: of any number of any embedding.
        others: another output of the graph -> mean cosine.
    """

    frames: int
    cosine_mean: float
    cosine_min: float
    largest_difference: float
    others: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def check_parity(
    tower: Tower,
    path: Path,
    frames: NDArray[np.uint8],
    inputs: NDArray[np.generic],
    precision: str,
    decoder: HeadDecoder | None = None,
) -> Parity:
    """Compare a graph in ONNX Runtime with the tower in PyTorch, at batches of 1 and 8.

    Args:
        tower: the model, called with grey levels.
        path: of the graph.
        frames: real ones, uint8 `(N, 1, S, S)`.
        inputs: the same as the graph takes them.
        precision: "fp32" or "fp16", which decides how near is near enough.
        decoder: of the head, where the graph gives a map of it.

    Raises:
        ParityError: an output differs, or is not finite.
    """
    wanted = _wanted(tower, frames, decoder)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if precision == "fp16":
        # As it is written: fusions of the CPU's, for whom it is not, fail on float16 (1.32).
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ParityError(
            f"ONNX Runtime {ort.__version__} cannot load the {precision} graph: {error}"
        ) from error
    found = [_run(session, inputs, batch) for batch in BATCHES]
    cosines = {
        name: np.concatenate([row_cosines(each[name], wanted[name]) for each in found])
        for name in wanted
    }
    others = {name: float(each.mean()) for name, each in cosines.items() if name != OUTPUT}
    parity = Parity(
        len(frames),
        float(cosines[OUTPUT].mean()),
        float(cosines[OUTPUT].min()),
        float(max(np.abs(each[OUTPUT] - wanted[OUTPUT]).max() for each in found)),
        others,
    )
    least = LEAST_COSINE[precision]
    if not parity.cosine_mean >= least:  # also when it is not a number
        raise ParityError(
            f"the {precision} graph does not give PyTorch's embeddings: mean cosine "
            f"{parity.cosine_mean:.6f} over {len(frames)} frames (at least {least}), smallest "
            f"{parity.cosine_min:.6f}, largest difference {parity.largest_difference:.2g}"
        )
    for name, cosine in others.items():
        if not cosine >= least:
            raise ParityError(
                f"the {precision} graph does not give PyTorch's {name}: mean cosine {cosine:.6f} "
                f"over {len(frames)} frames (at least {least})"
            )
    return parity


def _wanted(
    tower: Tower, frames: NDArray[np.uint8], decoder: HeadDecoder | None
) -> dict[str, NDArray[np.float64]]:
    """All outputs of PyTorch; the embedding as the tower itself makes it of grey levels."""
    module, names = core_module(tower, decoder)
    zero, unit = 255 * tower.config.mean, 255 * tower.config.std
    rows: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    with torch.inference_mode():
        for part in torch.from_numpy(frames).split(max(BATCHES)):
            outputs = {OUTPUT: tower(part.float())}
            if len(names) > 1:
                made = module.eval()((part.float() - zero) / unit)
                outputs = dict(zip(names, made, strict=True)) | outputs
            for name, values in outputs.items():
                rows[name].append(values.numpy())
    return {name: np.concatenate(each).astype(np.float64) for name, each in rows.items()}


def _run(
    session: ort.InferenceSession, inputs: NDArray[np.generic], batch: int
) -> dict[str, NDArray[np.float64]]:
    names = [output.name for output in session.get_outputs()]
    rows: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    for start in range(0, len(inputs), batch):
        outputs = dict(
            zip(names, session.run(names, {INPUT: inputs[start : start + batch]}), strict=True)
        )
        for name, values in outputs.items():
            if not np.isfinite(values).all():
                raise ParityError(f"the graph's output {name} is not finite on a real frame")
            rows[name].append(values.astype(np.float64))
    return {name: np.concatenate(each) for name, each in rows.items()}
