"""The few calls of CUDA's runtime that engines need, through NVIDIA's cuda-bindings."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.errors import BackendError, BackendUnavailableError

__all__ = ["Cuda", "Gpu", "as_array"]

_DRIVER = Path("/proc/driver/nvidia/version")
_INSTALL = (
    'pip install "cuda-bindings>=12.8,<13" where nvidia-smi or JetPack 6 says CUDA 12, '
    '"cuda-bindings>=13,<14" where it says CUDA 13'
)


@dataclass(frozen=True, slots=True)
class Gpu:
    """Which GPU, and what drives it.

    Attributes:
        name: as the driver calls it.
        capability: compute capability, such as "8.7".
        driver: version of the CUDA that the driver knows, and of the driver where it can be found.
    """

    name: str
    capability: str
    driver: str


class Cuda:
    """The first GPU of this machine.

    Attributes:
        gpu: which it is.

    Raises:
        BackendUnavailableError: the bindings are not installed, or there is no GPU or driver.
    """

    gpu: Gpu

    def __init__(self) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise BackendUnavailableError(
                f"cuda-bindings is not installed or does not load ({error}): {_INSTALL}"
            ) from error
        self._cudart: Any = runtime
        status, count = self._cudart.cudaGetDeviceCount()
        if status != self._cudart.cudaError_t.cudaSuccess or count < 1:
            reason = "no device" if count == 0 else status.name
            raise BackendUnavailableError(
                f"there is no NVIDIA GPU that CUDA can use ({reason}): this backend needs one, "
                "with its driver"
            )
        self.gpu = self._describe()

    def _describe(self) -> Gpu:
        properties = self._check(self._cudart.cudaGetDeviceProperties(0))
        name = properties.name
        return Gpu(
            name=name.decode(errors="replace") if isinstance(name, bytes) else str(name),
            capability=f"{properties.major}.{properties.minor}",
            driver=_driver(self._check(self._cudart.cudaDriverGetVersion())),
        )

    def allocate(self, size: int) -> int:
        """Address of `size` bytes on the GPU."""
        return int(self._check(self._cudart.cudaMalloc(size)))

    def free(self, address: int) -> None:
        """Give back memory of `allocate`. Never fails: it may be the end of the program."""
        self._cudart.cudaFree(address)

    def allocate_pinned(self, size: int) -> int:
        """Address of `size` bytes of page-locked memory on the host."""
        return int(self._check(self._cudart.cudaHostAlloc(size, 0)))

    def free_pinned(self, address: int) -> None:
        """Give back memory of `allocate_pinned`."""
        self._cudart.cudaFreeHost(address)

    def create_stream(self) -> int:
        """A stream, which does not wait for others."""
        flags = self._cudart.cudaStreamNonBlocking
        return int(self._check(self._cudart.cudaStreamCreateWithFlags(flags)))

    def destroy_stream(self, stream: int) -> None:
        """Give back a stream."""
        self._cudart.cudaStreamDestroy(stream)

    def upload(self, device: int, host: int, size: int, stream: int) -> None:
        """Copy to the GPU, when the stream comes to it."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._check(self._cudart.cudaMemcpyAsync(device, host, size, kind, stream))

    def download(self, host: int, device: int, size: int, stream: int) -> None:
        """Copy from the GPU, when the stream comes to it."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._check(self._cudart.cudaMemcpyAsync(host, device, size, kind, stream))

    def wait(self, stream: int) -> None:
        """Until all work of the stream is done. Other Python threads go on meanwhile."""
        self._check(self._cudart.cudaStreamSynchronize(stream))

    @contextmanager
    def capture(self, stream: int) -> Iterator[list[int]]:
        """Record the work that is given to a stream in place of doing it.

        Yields:
            A list, which holds the graph's handle for `launch` after the block.
        """
        mode = self._cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._check(self._cudart.cudaStreamBeginCapture(stream, mode))
        recorded: list[int] = []
        try:
            yield recorded
        except BaseException:
            self._cudart.cudaStreamEndCapture(stream)  # or the stream would be of no more use
            raise
        graph = self._check(self._cudart.cudaStreamEndCapture(stream))
        try:
            recorded.append(int(self._check(self._cudart.cudaGraphInstantiate(graph, 0))))
        finally:
            self._cudart.cudaGraphDestroy(graph)

    def launch(self, graph: int, stream: int) -> None:
        """Do what was recorded."""
        self._check(self._cudart.cudaGraphLaunch(graph, stream))

    def destroy_graph(self, graph: int) -> None:
        """Give back what `capture` made."""
        self._cudart.cudaGraphExecDestroy(graph)

    def _check(self, answer: tuple[Any, ...]) -> Any:
        status, *values = answer
        if status != self._cudart.cudaError_t.cudaSuccess:
            raise BackendError(f"the GPU failed: {status.name}")
        return values[0] if values else None


def as_array(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Memory of the host as an array, valid until the memory is freed."""
    size = int(np.prod(shape)) * dtype.itemsize
    memory = (ctypes.c_ubyte * size).from_address(address)
    return np.ndarray(shape, dtype, buffer=memoryview(memory))


def _driver(cuda: int) -> str:
    text = f"CUDA {cuda // 1000}.{cuda % 1000 // 10}"
    try:
        found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", _DRIVER.read_text(encoding="utf-8"))
    except OSError:
        found = None
    return f"{text}, driver {found[0]}" if found else text
