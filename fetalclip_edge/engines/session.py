"""One thread's way through an engine: context, stream and memory, made once and used per frame."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.engines.cuda import Cuda, as_array
from fetalclip_edge.errors import BackendError

__all__ = ["Layout", "Session", "Tensor"]

_log = logging.getLogger("fetalclip_edge")


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of an engine.

    Attributes:
        name: of it.
        shape: of what belongs to one frame.
        dtype: of its elements.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def size(self, batch: int) -> int:
        """Bytes of a batch."""
        return batch * int(np.prod(self.shape)) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Layout:
    """What an engine takes and gives.

    Attributes:
        image: the input.
        outputs: all outputs.
        most: the largest batch.
    """

    image: Tensor
    outputs: tuple[Tensor, ...]
    most: int

    @classmethod
    def of(cls, trt: Any, engine: Any) -> Layout:
        """That of a deserialised engine.

        Raises:
            BackendError: it has several inputs, or an output that is not float32.
        """
        inputs: list[Tensor] = []
        outputs: list[Tensor] = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            shape = tuple(engine.get_tensor_shape(name))[1:]
            tensor = Tensor(name, shape, np.dtype(trt.nptype(engine.get_tensor_dtype(name))))
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (inputs if is_input else outputs).append(tensor)
        if len(inputs) != 1:
            raise BackendError(f"the engine has {len(inputs)} inputs, not 1")
        for tensor in outputs:
            if tensor.dtype != np.float32 or min(tensor.shape, default=0) < 1:
                raise BackendError(
                    f"output {tensor.name} is {tensor.dtype} {tensor.shape} for a frame; it must "
                    "be float32 of a known size: export the graph with float32 outputs"
                )
        _smallest, _best, largest = engine.get_tensor_profile_shape(inputs[0].name, 0)
        return cls(inputs[0], tuple(outputs), int(next(iter(largest))))


class Session:
    """An execution context with its stream and memory. For one thread at a time.

    The host's side of every copy is page-locked, so that the GPU fetches and writes it by itself.

    Args:
        cuda: the GPU.
        context: an execution context of this session's own.
        layout: of the engine.
        batch: the largest batch that it will be given.
        record: told the context and the stream, says whether work may be recorded. Then that of a
            whole batch is recorded once as a CUDA graph and replayed; every batch must be of that
            size. Where it cannot be, go on without. None never records.
    """

    def __init__(
        self,
        cuda: Cuda,
        context: Any,
        layout: Layout,
        batch: int,
        *,
        record: Callable[[Any, int], bool] | None,
    ) -> None:
        self._cuda, self._context, self._layout = cuda, context, layout
        self._owned = ExitStack()
        # What it closes knows nothing of this object, which so can end with its thread.
        weakref.finalize(self, self._owned.close)
        self._stream = self._own(cuda.create_stream(), cuda.destroy_stream)
        self._addresses: dict[str, tuple[int, int]] = {}
        self._arrays: dict[str, NDArray[Any]] = {}
        for tensor in (layout.image, *layout.outputs):
            self._prepare(tensor, batch)
        self._shaped = 0
        self._graph: int | None = None
        if record is not None:
            self._graph = self._record(batch, record)

    @property
    def recorded(self) -> bool:
        """Whether batches are replayed from a CUDA graph."""
        return self._graph is not None

    def output_shape(self, name: str) -> tuple[int, ...]:
        """Shape of an output for one frame."""
        return self._arrays[name].shape[1:]

    def run(self, inputs: NDArray[Any], out: Mapping[str, NDArray[np.float32]]) -> None:
        """Run a batch and write its outputs.

        Args:
            inputs: `(N, C, S, S)` of the engine's type, N within the session's batch.
            out: name -> array of the output's shape, for the outputs that are wanted.

        Raises:
            BackendError: the GPU or the runtime failed.
        """
        batch = len(inputs)
        np.copyto(self._arrays[self._layout.image.name][:batch], inputs, casting="no")
        if self._graph is not None:
            self._cuda.launch(self._graph, self._stream)
        else:
            self._shape(batch)
            self._enqueue(batch)
        self._cuda.wait(self._stream)
        for name, array in out.items():
            np.copyto(array, self._arrays[name][:batch])

    def _own(self, handle: int, give_back: Callable[[int], None]) -> int:
        self._owned.callback(give_back, handle)
        return handle

    def _prepare(self, tensor: Tensor, batch: int) -> None:
        size = tensor.size(batch)
        device = self._own(self._cuda.allocate(size), self._cuda.free)
        host = self._own(self._cuda.allocate_pinned(size), self._cuda.free_pinned)
        self._addresses[tensor.name] = (device, host)
        self._arrays[tensor.name] = as_array(host, (batch, *tensor.shape), tensor.dtype)
        if not self._context.set_tensor_address(tensor.name, device):
            raise BackendError(f"TensorRT takes no memory for {tensor.name}")

    def _shape(self, batch: int) -> None:
        if batch == self._shaped:
            return
        image = self._layout.image
        if not self._context.set_input_shape(image.name, (batch, *image.shape)):
            raise BackendError(f"TensorRT takes no batch of {batch}")
        self._shaped = batch

    def _enqueue(self, batch: int) -> None:
        image = self._layout.image
        device, host = self._addresses[image.name]
        self._cuda.upload(device, host, image.size(batch), self._stream)
        if not self._context.execute_async_v3(self._stream):
            raise BackendError("TensorRT could not run the engine")
        for tensor in self._layout.outputs:
            device, host = self._addresses[tensor.name]
            self._cuda.download(host, device, tensor.size(batch), self._stream)

    def _record(self, batch: int, allowed: Callable[[Any, int], bool]) -> int | None:
        self._arrays[self._layout.image.name][:] = 0
        self._shape(batch)
        # The first run does what can happen only once, and must not be recorded.
        self._enqueue(batch)
        self._cuda.wait(self._stream)
        if not allowed(self._context, self._stream):
            _log.info("no CUDA graph, each frame is enqueued anew: the runtime does not allow it")
            return None
        try:
            with self._cuda.capture(self._stream) as recorded:
                self._enqueue(batch)
        except BackendError as error:
            _log.info("no CUDA graph, each frame is enqueued anew: %s", error)
            return None
        return self._own(recorded[0], self._cuda.destroy_graph)
