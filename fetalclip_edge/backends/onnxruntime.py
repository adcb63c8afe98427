"""ONNX Runtime on the CPU: runs everywhere, and is always installed."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.backends.base import Backend
from fetalclip_edge.backends.signature import Signature, blank_frame
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BackendError, BackendUnavailableError

__all__ = ["OnnxRuntimeBackend", "import_runtime"]

_OPT_OUT = "ORT_DISABLE_TELEMETRY"


class OnnxRuntimeBackend(Backend):
    """Runs the bundle's U8S8 graph with ONNX Runtime's CPU kernels.

    Threads that encode at once run side by side, each with as many CPU threads as were asked for.
    """

    name = "onnxruntime"

    def __init__(self, bundle: ModelBundle, *, threads: int, precision: str | None = None) -> None:
        try:
            ort = import_runtime()
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
            # From bytes: they are the ones that were checked.
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


def import_runtime() -> Any:
    """The module `onnxruntime`, imported without its telemetry.

    On import, ONNX Runtime 1.32 writes an identifier and a database into the user's home, and every
    minute or so it sends what it saw to its makers. A device in a clinic does neither unasked. It
    listens to nothing but this variable, which is as it was afterwards.

    Raises:
        ImportError: ONNX Runtime is not installed or does not load.
    """
    if "onnxruntime" in sys.modules or _OPT_OUT in os.environ:
        return importlib.import_module("onnxruntime")  # what it does is already settled
    os.environ[_OPT_OUT] = "1"
    try:
        return importlib.import_module("onnxruntime")
    finally:
        del os.environ[_OPT_OUT]
