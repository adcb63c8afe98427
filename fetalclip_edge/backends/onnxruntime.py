"""ONNX Runtime on the CPU: runs everywhere, and is always installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.backends.base import Backend
from fetalclip_edge.backends.signature import Signature, blank_frame
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BackendError, BackendUnavailableError

__all__ = ["OnnxRuntimeBackend"]


class OnnxRuntimeBackend(Backend):
    """Runs the bundle's U8S8 graph with ONNX Runtime's CPU kernels.

    Threads that encode at once run side by side, each with as many CPU threads as were asked for.
    """

    name = "onnxruntime"

    def __init__(self, bundle: ModelBundle, *, threads: int, precision: str | None = None) -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise BackendUnavailableError(
                f"ONNX Runtime is not installed or does not load ({error}): pip install onnxruntime"
            ) from error
        self.precision = bundle.precision(self.name, precision)
        graph = bundle.graph(self.name, self.precision)
        path = bundle.folder / bundle.graphs[self.name][self.precision]
        self.version = ort.__version__
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
            self._input = self._session.get_inputs()[0].name
            self._outputs = [output.name for output in self._session.get_outputs()]
            first = self._run(blank_frame(bundle))
        except Exception as error:
            raise BackendError(f"ONNX Runtime {self.version} cannot run {path}: {error}") from error
        self.signature = Signature.of(bundle, path, first)

    def encode(
        self, inputs: NDArray[Any], out: Mapping[str, NDArray[np.float32]] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Run the graph on a batch `(N, C, S, S)`."""
        self.signature.check(inputs, out)
        try:
            if out is None:
                return self._run(inputs)
            self._run_into(inputs, out)
        except Exception as error:
            raise BackendError(f"ONNX Runtime {self.version} failed: {error}") from error
        return dict(out)

    def _run(self, inputs: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        values = self._session.run(self._outputs, {self._input: inputs})
        return dict(zip(self._outputs, values, strict=True))

    def _run_into(self, inputs: NDArray[Any], out: Mapping[str, NDArray[np.float32]]) -> None:
        # Made anew each time: next to a frame's inference that is nothing, and one for each thread
        # would have to be kept.
        binding = self._session.io_binding()
        binding.bind_cpu_input(self._input, np.ascontiguousarray(inputs))
        for name, array in out.items():
            binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        self._session.run_with_iobinding(binding)
