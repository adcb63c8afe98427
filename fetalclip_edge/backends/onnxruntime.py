"""ONNX Runtime on the CPU: runs everywhere, and the default."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.backends.base import Backend
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BackendError, BackendUnavailableError

__all__ = ["OnnxRuntimeBackend"]


class OnnxRuntimeBackend(Backend):
    """Runs the bundle's U8S8 graph with ONNX Runtime's CPU kernels."""

    name = "onnxruntime"

    def __init__(self, bundle: ModelBundle, *, threads: int) -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise BackendUnavailableError(
                f"ONNX Runtime is not installed or does not load ({error}): pip install onnxruntime"
            ) from error
        graph = bundle.graph(self.name)
        path = bundle.folder / bundle.graphs[self.name]
        self.version = ort.__version__
        self.precision = bundle.precisions[self.name]
        self.device = "cpu"
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning threads would take the battery and the other cores between two frames.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            # From bytes: they are the ones that were checked, and can refer to no other file.
            self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise BackendError(
                f"ONNX Runtime {self.version} cannot load {path}: {error}"
            ) from error
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]
        if "embedding" not in self._outputs:
            raise BackendError(f"{path} has no output named embedding, only {self._outputs}")
        spec = bundle.preprocess
        blank = np.zeros((1, spec.channels, spec.size, spec.size), dtype=spec.dtype)
        embedding = self.encode(blank)["embedding"]
        shape = embedding.shape
        if shape != (1, bundle.embedding_dim):
            raise BackendError(
                f"{path} gives an embedding of shape {shape}, and the manifest says "
                f"embedding_dim {bundle.embedding_dim}"
            )
        if not abs(float(np.linalg.norm(embedding)) - 1) < 0.01:
            raise BackendError(f"{path} gives an embedding that is not L2-normalised")

    def encode(self, inputs: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        """Run the graph on a batch `(N, C, S, S)`."""
        try:
            values = self._session.run(self._outputs, {self._input: inputs})
        except Exception as error:
            raise BackendError(f"ONNX Runtime {self.version} failed: {error}") from error
        return dict(zip(self._outputs, values, strict=True))
