"""Whether a graph gives the embeddings that PyTorch gives, on real frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from export.graph import INPUT, OUTPUT, Tower

__all__ = ["BATCHES", "LEAST_COSINE", "Parity", "ParityError", "check_parity"]

LEAST_COSINE: Mapping[str, float] = {"fp32": 0.9999, "fp16": 0.999}
"""Precision -> the mean cosine of a graph's embeddings with PyTorch's that it must reach."""

BATCHES = (1, 8)
"""Frames at once: the graph must give the same of both."""


class ParityError(RuntimeError):
    """The graph does not give what PyTorch gives."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How near a graph's embeddings are to those of PyTorch.

    Attributes:
        frames: how many were compared, at each batch size.
        cosine_mean: of the embeddings, over frames and batch sizes.
        cosine_min: the smallest.
        largest_difference: of any number of any embedding.
    """

    frames: int
    cosine_mean: float
    cosine_min: float
    largest_difference: float

    def to_dict(self) -> dict[str, float]:
        """As plain values."""
        return asdict(self)


def check_parity(
    tower: Tower,
    path: Path,
    frames: NDArray[np.uint8],
    inputs: NDArray[np.generic],
    precision: str,
) -> Parity:
    """Compare a graph in ONNX Runtime with the tower in PyTorch, at batches of 1 and 8.

    Args:
        tower: the model, called with grey levels.
        path: of the graph.
        frames: real ones, uint8 `(N, 1, S, S)`.
        inputs: the same as the graph takes them.
        precision: "fp32" or "fp16", which decides how near is near enough.

    Raises:
        ParityError: the embeddings differ, or an output is not finite.
    """
    with torch.inference_mode():
        parts = torch.from_numpy(frames).split(max(BATCHES))
        wanted = np.concatenate([tower(part.float()).numpy() for part in parts])
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
    found = [_embed(session, inputs, batch) for batch in BATCHES]
    cosines = np.concatenate([_cosines(each, wanted) for each in found])
    parity = Parity(
        len(frames),
        float(cosines.mean()),
        float(cosines.min()),
        float(max(np.abs(each - wanted).max() for each in found)),
    )
    least = LEAST_COSINE[precision]
    if not parity.cosine_mean >= least:  # also when it is not a number
        raise ParityError(
            f"the {precision} graph does not give PyTorch's embeddings: mean cosine "
            f"{parity.cosine_mean:.6f} over {len(frames)} frames (at least {least}), smallest "
            f"{parity.cosine_min:.6f}, largest difference {parity.largest_difference:.2g}"
        )
    return parity


def _embed(
    session: ort.InferenceSession, inputs: NDArray[np.generic], batch: int
) -> NDArray[np.float64]:
    names = [output.name for output in session.get_outputs()]
    rows = []
    for start in range(0, len(inputs), batch):
        outputs = dict(
            zip(names, session.run(names, {INPUT: inputs[start : start + batch]}), strict=True)
        )
        for name, values in outputs.items():
            if not np.isfinite(values).all():
                raise ParityError(f"the graph's output {name} is not finite on a real frame")
        rows.append(outputs[OUTPUT].astype(np.float64))
    return np.concatenate(rows)


def _cosines(found: NDArray[np.float64], wanted: NDArray[np.float32]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted.astype(np.float64), axis=1)
    cosines: NDArray[np.float64] = (found * wanted).sum(axis=1) / lengths
    return cosines
