"""Stands in for `cuda.bindings.runtime`: one GPU, whose memory is the host's, and strict about use.

Work given to a stream is done when somebody waits for it, so that reading too early shows. Copies
must lie within what was allocated, on the right side. Nothing raises but wrong use: the real API
returns errors.
"""

# ruff: noqa: N801, N802, N815  (the names are CUDA's)

from __future__ import annotations

import ctypes
import enum
import itertools
import threading
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

Work = Callable[[], None]


class cudaError_t(enum.Enum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(enum.Enum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.Enum):
    cudaStreamCaptureModeThreadLocal = 1


OK = cudaError_t.cudaSuccess


class Properties:
    name = b"Fake GPU"
    major, minor = 8, 7


class FakeCuda(ModuleType):
    """The module. What tests look at begins with an underscore."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaStreamNonBlocking = 1

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self._numbers = itertools.count(1000)
        self._lock = threading.RLock()
        self._device: dict[int, ctypes.Array[Any]] = {}
        self._pinned: dict[int, ctypes.Array[Any]] = {}
        self._streams: dict[int, list[Work]] = {}
        self._captures: dict[int, list[Work]] = {}
        self._graphs: dict[int, list[Work]] = {}
        self._launchable: dict[int, list[Work]] = {}
        self._faults: dict[str, cudaError_t] = {}
        self._calls: Counter[str] = Counter()

    def _fault(self, name: str) -> cudaError_t:
        self._calls[name] += 1
        return self._faults.get(name, OK)

    def _held(self) -> int:
        return len(self._device) + len(self._pinned) + len(self._streams) + len(self._launchable)

    def _enqueue(self, stream: int, work: Work) -> None:
        captured = self._captures.get(stream)
        (self._streams[stream] if captured is None else captured).append(work)

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        status = self._fault("cudaGetDeviceCount")
        return (status, 1) if status is OK else (status, None)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        return self._fault("cudaGetDeviceProperties"), Properties()

    def cudaDriverGetVersion(self) -> tuple[Any, ...]:
        return self._fault("cudaDriverGetVersion"), 12060

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        return self._allocate("cudaMalloc", self._device, size)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        return self._allocate("cudaHostAlloc", self._pinned, size)

    def _allocate(
        self, name: str, where: dict[int, ctypes.Array[Any]], size: int
    ) -> tuple[Any, ...]:
        assert not self._captures, "memory is allocated while work is recorded"
        status = self._fault(name)
        if status is not OK:
            return status, None
        memory = (ctypes.c_ubyte * size)(*([0xAB] * size))
        with self._lock:
            where[ctypes.addressof(memory)] = memory
        return OK, ctypes.addressof(memory)

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        del self._device[address]
        return (self._fault("cudaFree"),)

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:
        del self._pinned[address]
        return (self._fault("cudaFreeHost"),)

    def cudaMemcpyAsync(
        self, dst: int, src: int, count: int, kind: cudaMemcpyKind, stream: int
    ) -> tuple[Any, ...]:
        up = kind is cudaMemcpyKind.cudaMemcpyHostToDevice
        inside(self._device if up else self._pinned, dst, count)
        inside(self._pinned if up else self._device, src, count)
        status = self._fault("cudaMemcpyAsync")
        if status is OK:
            self._enqueue(stream, lambda: ctypes.memmove(dst, src, count) and None)
        return (status,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == self.cudaStreamNonBlocking
        stream = next(self._numbers)
        self._streams[stream] = []
        return self._fault("cudaStreamCreateWithFlags"), stream

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        assert not self._streams.pop(stream), "a stream is given back with work in it"
        return (self._fault("cudaStreamDestroy"),)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        assert stream not in self._captures, "waiting for work that is only recorded"
        work, self._streams[stream] = self._streams[stream], []
        for one in work:
            one()
        return (self._fault("cudaStreamSynchronize"),)

    def cudaStreamBeginCapture(self, stream: int, mode: cudaStreamCaptureMode) -> tuple[Any, ...]:
        assert mode is cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        assert not self._streams[stream]
        status = self._fault("cudaStreamBeginCapture")
        if status is OK:
            self._captures[stream] = []
        return (status,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        work, status = self._captures.pop(stream), self._fault("cudaStreamEndCapture")
        if status is not OK:
            return status, None
        graph = next(self._numbers)
        self._graphs[graph] = work
        return OK, graph

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:
        status = self._fault("cudaGraphInstantiate")
        if status is not OK:
            return status, None
        launchable = next(self._numbers)
        self._launchable[launchable] = list(self._graphs[graph])
        return OK, launchable

    def cudaGraphDestroy(self, graph: int) -> tuple[Any, ...]:
        del self._graphs[graph]
        return (self._fault("cudaGraphDestroy"),)

    def cudaGraphLaunch(self, launchable: int, stream: int) -> tuple[Any, ...]:
        self._streams[stream].extend(self._launchable[launchable])
        return (self._fault("cudaGraphLaunch"),)

    def cudaGraphExecDestroy(self, launchable: int) -> tuple[Any, ...]:
        del self._launchable[launchable]
        return (self._fault("cudaGraphExecDestroy"),)


def inside(memory: dict[int, ctypes.Array[Any]], address: int, size: int) -> None:
    """Refuse what does not lie within one of the allocations."""
    for start, block in list(memory.items()):
        if start <= address and address + size <= start + len(block):
            return
    raise AssertionError(f"{size} bytes at {address:#x} were not allocated there")
