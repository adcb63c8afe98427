"""Graphs to engines, the same way for TensorRT 10.3 to 11 and for TensorRT-RTX.

The network is strongly typed: precision lives in the graph alone (INT8 as Q/DQ, FP16 as types), as
the flags that once chose it are gone from TensorRT 11 and TensorRT-RTX.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fetalclip_edge.errors import BackendError

__all__ = ["MAX_BATCH", "Log", "Phases", "Progress", "compile_engine", "make_log"]

MAX_BATCH = 8
"""The largest batch that engines take."""

Progress = Callable[[str, float], object]
"""Told what is being done, and how much of the whole is behind us, 0 to 1."""

_WORKSPACE_BYTES = 1 << 30
"""Of scratch memory while compiling. A Jetson shares its memory with the camera and the screen."""

_log = logging.getLogger("fetalclip_edge")


@dataclass(slots=True)
class Log:
    """What TensorRT had to say.

    Attributes:
        sink: the object to hand to TensorRT.
        errors: the last few of its errors.
    """

    sink: Any = None
    errors: deque[str] = field(default_factory=lambda: deque(maxlen=3))

    def why(self) -> str:
        """The errors in one line."""
        return "; ".join(self.errors) or "it does not say why"


def make_log(trt: Any) -> Log:
    """A logger for TensorRT that keeps errors and prints nothing."""
    log = Log()

    class Sink(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            text = " ".join(message.split())
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                log.errors.append(text)
            _log.debug("TensorRT: %s", text)

    log.sink = Sink()
    return log


class Phases:
    """How far a compilation is, from the nested phases that TensorRT reports."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._steps: dict[str, list[int]] = {}
        self._parents: dict[str, str | None] = {}
        self._best = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins, within the present step of its parent."""
        self._steps[name] = [0, max(steps, 1)]
        self._parents[name] = parent
        self._tell(name)

    def step(self, name: str, index: int) -> None:
        """A step, counted from 0, is done."""
        if name in self._steps:
            self._steps[name][0] = index + 1
            self._tell(name)

    def finish(self, name: str) -> None:
        """The phase is over."""
        self._steps.pop(name, None)
        self._parents.pop(name, None)

    def _tell(self, name: str) -> None:
        share, phase = 0.0, name
        for _ in range(len(self._steps)):
            done, steps = self._steps[phase]
            share = min(1.0, (done + share) / steps)
            parent = self._parents[phase]
            if parent is None or parent not in self._steps:
                break
            phase = parent
        # A phase may be repeated; nobody wants to see the bar go back.
        self._best = max(self._best, share)
        self._progress(name, self._best)


def compile_engine(
    trt: Any,
    graph: bytes | Path,
    name: str,
    *,
    progress: Progress | None = None,
    configure: Callable[[Any], None] | None = None,
) -> bytes:
    """Compile an ONNX graph with one input whose first dimension is the batch.

    Batches of 1 to `MAX_BATCH` are allowed, and it is made fastest for 1, a live frame.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        graph: the graph, or its file, which may keep weights in files beside it.
        name: what to call the graph in errors.
        progress: told how far it is.
        configure: sets more of the builder's configuration.

    Returns:
        The serialised engine.

    Raises:
        BackendError: the graph cannot be parsed or compiled; the message says what TensorRT says.
    """
    log = make_log(trt)
    builder = trt.Builder(log.sink)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, graph, name, log)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE_BYTES)
    config.add_optimization_profile(_profile(builder, network, name))
    if progress is not None:
        config.progress_monitor = _monitor(trt, progress)
    if configure is not None:
        configure(config)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise BackendError(f"TensorRT cannot compile {name}: {log.why()}")
    if progress is not None:
        progress("compiled", 1.0)
    return bytes(engine)


def _parse(trt: Any, network: Any, graph: bytes | Path, name: str, log: Log) -> None:
    parser = trt.OnnxParser(network, log.sink)
    whole = isinstance(graph, bytes)
    if not (parser.parse(graph) if whole else parser.parse_from_file(str(graph))):
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        said = "; ".join(" ".join(error.desc().split()) for error in found)
        raise BackendError(f"TensorRT cannot parse {name}: {said or log.why()}")


def _profile(builder: Any, network: Any, name: str) -> Any:
    if network.num_inputs != 1:
        raise BackendError(f"{name} has {network.num_inputs} inputs; engines are made for one")
    tensor = network.get_input(0)
    shape = tuple(tensor.shape)
    if len(shape) < 2 or min(shape[1:]) < 1 or shape[0] > 0:
        raise BackendError(f"{name} takes {shape}; only the first dimension may, and must, be free")
    profile = builder.create_optimization_profile()
    one, most = (1, *shape[1:]), (MAX_BATCH, *shape[1:])
    profile.set_shape(tensor.name, one, one, most)
    return profile


def _monitor(trt: Any, progress: Progress) -> Any:
    phases = Phases(progress)

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step)
            return True

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()
