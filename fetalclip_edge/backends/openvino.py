"""OpenVINO on the CPU."""

from __future__ import annotations

import functools
import importlib
import sys
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.backends.base import Backend
from fetalclip_edge.backends.signature import Signature, blank_frame
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BackendError, BackendUnavailableError

__all__ = ["OpenVINOBackend", "cpu_options", "import_runtime"]

_TELEMETRY = "openvino_telemetry"


class OpenVINOBackend(Backend):
    """Runs the bundle's graph with OpenVINO's CPU plugin.

    Threads that encode at once take turns at the graph, so that they use as many CPU threads in
    all as were asked for; a model for each stream makes them run side by side.

    The graph is compiled for single frames, which come faster that way, and again for batches of
    any size when the first of those comes.
    """

    name = "openvino"

    def __init__(self, bundle: ModelBundle, *, threads: int, precision: str | None = None) -> None:
        try:
            self._runtime = import_runtime()
        except ImportError as error:
            raise BackendUnavailableError(
                f"OpenVINO is not installed or does not load ({error}): "
                'pip install "fetalclip-edge[openvino]"'
            ) from error
        self.precision = bundle.precision(self.name, precision)
        graph = bundle.graph(self.name, self.precision)
        path = bundle.folder / bundle.graphs[self.name][self.precision]
        self.version = self._runtime.__version__.partition("-")[0]
        self.device = "cpu"
        self._options = cpu_options(threads)
        blank = blank_frame(bundle)
        try:
            self._core = _core(self._runtime)
            self._model = self._core.read_model(graph)
            single = self._model.clone()
            single.reshape(blank.shape)
            self._single = self._compile(single)
            first = self._single.worker().run_once(blank)
        except Exception as error:
            raise BackendError(
                f"OpenVINO {self.version} cannot run {path}: {_one_line(error)}"
            ) from error
        self.signature = Signature.of(bundle, path, first)
        self._batches: _Graph | None = None
        self._compiling = threading.Lock()

    def encode(
        self, inputs: NDArray[Any], out: Mapping[str, NDArray[np.float32]] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Run the graph on a batch `(N, C, S, S)`."""
        self.signature.check(inputs, out)
        shapes = {n: (len(inputs), *shape) for n, shape in self.signature.outputs.items()}
        try:
            worker = (self._single if len(inputs) == 1 else self._for_batches()).worker()
            if out is None:
                wanted = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
            else:
                wanted = dict(out)
            written = {n: wanted[n] if n in wanted else worker.spare(n, shapes[n]) for n in shapes}
            # OpenVINO takes read-only arrays for a mistake; those it gets as a copy.
            worker.run(np.require(inputs, requirements=["C", "W"]), written)
        except Exception as error:
            raise BackendError(f"OpenVINO {self.version} failed: {_one_line(error)}") from error
        return wanted

    def _compile(self, model: Any) -> _Graph:
        compiled = self._core.compile_model(model, "CPU", self._options)
        return _Graph(compiled, self._runtime.Tensor)

    def _for_batches(self) -> _Graph:
        with self._compiling:
            if self._batches is None:
                self._batches = self._compile(self._model)
            return self._batches


class _Graph:
    """A compiled graph, and a worker for each thread that runs it."""

    def __init__(self, compiled: Any, tensor: Any) -> None:
        self._compiled, self._tensor = compiled, tensor
        self._outputs = {output.get_any_name(): output for output in compiled.outputs}
        self._workers = threading.local()

    def worker(self) -> _Worker:
        """That of the calling thread."""
        worker: _Worker | None = getattr(self._workers, "worker", None)
        if worker is None:
            worker = _Worker(self._compiled.create_infer_request(), self._tensor, self._outputs)
            self._workers.worker = worker
        return worker


class _Worker:
    """One thread's infer request, which reads and writes the arrays that it is given in place."""

    def __init__(self, request: Any, tensor: Any, outputs: Mapping[str, Any]) -> None:
        self._request, self._tensor, self._outputs = request, tensor, outputs
        self._spare: dict[str, NDArray[np.float32]] = {}
        self._bound: tuple[object, ...] = ()

    def spare(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """An array for an output that nobody asked for, used again while the batch is as large."""
        if name not in self._spare or self._spare[name].shape != shape:
            self._spare[name] = np.empty(shape, np.float32)
        return self._spare[name]

    def run(self, inputs: NDArray[Any], outputs: Mapping[str, NDArray[np.float32]]) -> None:
        """Run on C-contiguous arrays; `outputs` must hold one of the right shape for each."""
        self._request.set_input_tensor(self._tensor(inputs, shared_memory=True))
        for name, array in outputs.items():
            tensor = self._tensor(array, shared_memory=True)
            self._request.set_tensor(self._outputs[name], tensor)
        # The request keeps their addresses until the next run, and so they must live as long.
        self._bound = (inputs, *outputs.values())
        self._request.infer(share_outputs=True)

    def run_once(self, inputs: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        """Run on a C-contiguous array and give copies of all outputs, whatever their shapes."""
        self._request.set_input_tensor(self._tensor(inputs))
        self._request.infer(share_outputs=True)
        return {n: self._request.get_tensor(o).data.copy() for n, o in self._outputs.items()}


def cpu_options(threads: int) -> dict[str, Any]:
    """How OpenVINO compiles a graph for one stream on the CPU."""
    return {
        "INFERENCE_NUM_THREADS": threads,
        # One stream computes in the calling thread; more would hand each frame to another.
        "NUM_STREAMS": 1,
        # Pinned threads of two programs would share one core and leave the others idle.
        "ENABLE_CPU_PINNING": False,
        # Otherwise float32 becomes BF16, unasked, on processors that have it.
        "INFERENCE_PRECISION_HINT": "f32",
    }


def import_runtime() -> Any:
    """The module `openvino`, imported without its telemetry.

    On import, OpenVINO 2026 writes an identifier into the user's home and sends a message to an
    analytics server, unless telemetry is refused or not installed. A device in a clinic does
    neither unasked.

    Raises:
        ImportError: OpenVINO is not installed or does not load.
    """
    if "openvino" in sys.modules or _TELEMETRY in sys.modules:
        return importlib.import_module("openvino")  # what it does is already settled
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # as if it were not installed
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[_TELEMETRY]


@functools.cache
def _core(runtime: Any) -> Any:
    """OpenVINO's devices, once for the whole program and until its end.

    Its CPU device gives the thread that first compiles a stack for signals, and when it goes, the
    stack that was there before. Two that go in the order in which they came leave a stack that is
    gone, and the next Ctrl-C is a segmentation fault (OpenVINO 2026.4).
    """
    return runtime.Core()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
