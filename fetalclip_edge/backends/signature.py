"""What a loaded graph takes and gives, so that every backend refuses the same things."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BackendError

__all__ = ["Signature", "blank_frame"]


@dataclass(frozen=True, slots=True)
class Signature:
    """Shapes and types on both sides of a graph.

    Runtimes are handed bare addresses, and would read and write past arrays that do not fit.

    Attributes:
        frame: shape of one frame, `(C, S, S)`.
        dtype: of the frames.
        outputs: name -> shape of what one frame gives.
    """

    frame: tuple[int, ...]
    dtype: np.dtype[Any]
    outputs: dict[str, tuple[int, ...]]

    @classmethod
    def of(
        cls, bundle: ModelBundle, path: Path, outputs: Mapping[str, NDArray[np.float32]]
    ) -> Signature:
        """That of a graph which gave `outputs` for `blank_frame(bundle)`.

        Args:
            bundle: whose manifest the outputs must fit.
            path: of the graph, to name it.
            outputs: all that the graph gives.

        Raises:
            BackendError: there is no embedding, it has another length than the manifest says, or
                it is not L2-normalised.
        """
        if "embedding" not in outputs:
            raise BackendError(f"{path} has no output named embedding, only {list(outputs)}")
        embedding = outputs["embedding"]
        if embedding.shape != (1, bundle.embedding_dim):
            raise BackendError(
                f"{path} gives an embedding of shape {embedding.shape}, and the manifest says "
                f"embedding_dim {bundle.embedding_dim}"
            )
        if not abs(float(np.linalg.norm(embedding)) - 1) < 0.01:
            raise BackendError(f"{path} gives an embedding that is not L2-normalised")
        spec = bundle.preprocess
        return cls(
            frame=(spec.channels, spec.size, spec.size),
            dtype=np.dtype(spec.dtype),
            outputs={name: value.shape[1:] for name, value in outputs.items()},
        )

    def check(
        self, inputs: NDArray[Any], out: Mapping[str, NDArray[np.float32]] | None = None
    ) -> None:
        """Refuse what the graph does not take, and arrays that its outputs do not fit into.

        Raises:
            BackendError: the message says what does not fit, and what would.
        """
        wanted = f"{self.dtype} (N, {', '.join(map(str, self.frame))}), N at least 1"
        if not isinstance(inputs, np.ndarray):
            raise BackendError(f"the graph takes {wanted}, not {type(inputs).__qualname__}")
        fits = inputs.ndim == 1 + len(self.frame) and inputs.shape[1:] == self.frame
        if not fits or len(inputs) == 0 or inputs.dtype != self.dtype:
            raise BackendError(f"the graph takes {wanted}, not {inputs.dtype} {inputs.shape}")
        for name, array in (out or {}).items():
            if name not in self.outputs:
                known = ", ".join(self.outputs)
                raise BackendError(f"the graph has no output {name!r}; it has: {known}")
            shape = (len(inputs), *self.outputs[name])
            if not isinstance(array, np.ndarray):
                found = type(array).__qualname__
                raise BackendError(f"out[{name!r}] must be float32 {shape}, not {found}")
            if array.dtype != np.float32 or array.shape != shape:
                found = f"{array.dtype} {array.shape}"
                raise BackendError(f"out[{name!r}] must be float32 {shape}, not {found}")
            if not (array.flags.c_contiguous and array.flags.writeable):
                raise BackendError(f"out[{name!r}] must be C-contiguous and writeable")


def blank_frame(bundle: ModelBundle) -> NDArray[Any]:
    """A batch of one black frame, to run a graph with before the first."""
    spec = bundle.preprocess
    return np.zeros((1, spec.channels, spec.size, spec.size), dtype=spec.dtype)
