"""How a stream works, what it has done, and when its state changed: plain data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from fetalclip_edge.backoff import Backoff
from fetalclip_edge.geometry import RegionChoice
from fetalclip_edge.latency import Latency
from fetalclip_edge.model import check_pixel_size
from fetalclip_edge.results import Frame, Result, StreamState
from fetalclip_edge.sinks.base import SinkStats
from fetalclip_edge.smoothing import DEFAULT_SPAN_S

__all__ = ["Answer", "StateChange", "StreamOptions", "StreamStats"]

_LONGEST_SMOOTHING_S = 10.0
_SHORTEST_STALENESS_S, _LONGEST_STALENESS_S = 0.05, 60.0


@dataclass(frozen=True, slots=True)
class StreamStats:
    """What a stream has done so far.

    Attributes:
        frames: frames read from the source.
        results: results delivered.
        dropped: frames dropped because a newer one came before they were taken.
        unreadable: frames that the source could not read.
        reconnects: how often the source was lost and opened again.
        seconds: time since the first frame was asked for.
        results_per_second: results delivered per second.
        latency_ms: stage -> percentiles in milliseconds, over the results delivered.
        deadline_ms: what counts as late, from capture to result; None where nothing does.
        deadline_misses: results that were late.
        sinks: name -> what each of the stream's sinks has written and lost.
    """

    frames: int
    results: int
    dropped: int
    unreadable: int
    reconnects: int
    seconds: float
    results_per_second: float
    latency_ms: dict[str, Latency]
    deadline_ms: float | None = None
    deadline_misses: int = 0
    sinks: dict[str, SinkStats] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StateChange:
    """A stream's state has changed.

    Attributes:
        previous: the state before, or None at the beginning.
        result: the first result in the new state.
    """

    previous: StreamState | None
    result: Result


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How a stream works; see `fetalclip_edge.stream`.

    Raises:
        ValueError: a value is out of range.
        TypeError: one is of a wrong type.
    """

    region: RegionChoice = None
    pixel_size_mm: float | None = None
    smoothing_s: float = DEFAULT_SPAN_S
    max_staleness: float = 1.0
    reconnect: Backoff | None = Backoff()  # noqa: RUF009 - frozen
    on_state: Callable[[StateChange], object] | None = None
    deadline_ms: float | None = None

    def __post_init__(self) -> None:
        check_pixel_size(self.pixel_size_mm)
        for name, low, high in (
            ("smoothing_s", 0.0, _LONGEST_SMOOTHING_S),
            ("max_staleness", _SHORTEST_STALENESS_S, _LONGEST_STALENESS_S),
        ):
            if not low <= (value := getattr(self, name)) <= high:
                raise ValueError(f"{name} must be {low:g} to {high:g} seconds, not {value!r}")
        if self.deadline_ms is not None and not 0 < self.deadline_ms < math.inf:
            raise ValueError(
                f"deadline_ms must be a positive number of milliseconds, not {self.deadline_ms!r}"
            )
        if not isinstance(self.reconnect, Backoff | None):
            raise TypeError(f"reconnect must be a Backoff or None, not {self.reconnect!r}")
        if not (self.on_state is None or callable(self.on_state)):
            raise TypeError(f"on_state must be callable, not {self.on_state!r}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says of a frame, and when the frame was taken and answered.

    Attributes:
        frame: with the region and the pixel size that hold for it.
        taken_ns, answered_ns: of `time.monotonic_ns()`.
        result: the answer, or why there is none.
        changed: whether the frame is of another layout than the one before.
        misfit: whether nobody asked the model, since the region does not hold for the frame.
    """

    frame: Frame
    taken_ns: int
    result: Result
    answered_ns: int
    changed: bool
    misfit: bool
