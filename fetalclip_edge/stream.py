"""Live results from a source: capture in a thread of its own, answers in the consumer's."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, get_args

from fetalclip_edge.backoff import Backoff
from fetalclip_edge.capture import Capture
from fetalclip_edge.exam import RunningAge
from fetalclip_edge.freeze import FreezeDetector
from fetalclip_edge.latency import Latency, LatencyRecorder
from fetalclip_edge.mailbox import Mailbox, Policy, Silence
from fetalclip_edge.model import Model, check_pixel_size, check_region, load
from fetalclip_edge.results import Frame, Region, Result, StreamState
from fetalclip_edge.silence import answer_to_silence
from fetalclip_edge.smoothing import DEFAULT_SPAN_S, Smoother
from fetalclip_edge.sources import Source, open_source

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["StateChange", "Stream", "StreamOptions", "StreamStats", "stream"]

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
    """

    frames: int
    results: int
    dropped: int
    unreadable: int
    reconnects: int
    seconds: float
    results_per_second: float
    latency_ms: dict[str, Latency]


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

    region: Region | None = None
    pixel_size_mm: float | None = None
    smoothing_s: float = DEFAULT_SPAN_S
    max_staleness: float = 1.0
    reconnect: Backoff | None = Backoff()  # noqa: RUF009 - frozen
    on_state: Callable[[StateChange], object] | None = None

    def __post_init__(self) -> None:
        check_pixel_size(self.pixel_size_mm)
        for name, low, high in (
            ("smoothing_s", 0.0, _LONGEST_SMOOTHING_S),
            ("max_staleness", _SHORTEST_STALENESS_S, _LONGEST_STALENESS_S),
        ):
            if not low <= (value := getattr(self, name)) <= high:
                raise ValueError(f"{name} must be {low:g} to {high:g} seconds, not {value!r}")
        if not isinstance(self.reconnect, Backoff | None):
            raise TypeError(f"reconnect must be a Backoff or None, not {self.reconnect!r}")
        if not (self.on_state is None or callable(self.on_state)):
            raise TypeError(f"on_state must be callable, not {self.on_state!r}")


class Stream:
    """Results of a source, one by one. Made by `fetalclip_edge.stream`.

    A context manager and an iterator. Entering the `with` block opens the source; leaving it, for
    whatever reason, stops the capture thread and lets go of the device. Without a `with` block
    the first `next()` opens the source, and the end of the source, or `close()`, ends it.

    Attributes:
        source: where the frames come from.
        model: what answers.
        policy: "latest" or "all".
    """

    def __init__(
        self,
        source: Source,
        model: Model,
        policy: Policy,
        options: StreamOptions = StreamOptions(),
    ) -> None:
        self.source, self.model, self.policy = source, model, policy
        self._options = options
        self._mailbox = Mailbox(policy)
        self._capture = Capture(
            source,
            self._mailbox,
            play=policy == "latest" and not source.live,
            backoff=options.reconnect,
        )
        # For a stream that is dropped without `close`.
        self._stop = weakref.finalize(self, self._capture.stop)
        self._recorder = LatencyRecorder()
        self._begin_epoch(0)
        self._state: StreamState | None = None
        self._results = 0
        self._started_ns: int | None = None
        self._ended_ns: int | None = None

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        """The result of the next frame, or word that none comes.

        When a live source gives nothing for `max_staleness` seconds, a result without answers says
        so, and again after as long: `stale` while the source is only slow, `no_signal` once it is
        lost.

        Raises:
            StopIteration: the source has ended, or the stream was closed.
            SourceError: the source cannot be opened, or broke and cannot be opened again.
            InvalidImageError: the region does not fit the frame.
        """
        self._start()
        try:
            taken = self._mailbox.take(self._options.max_staleness if self.source.live else None)
            result = None if taken is None else self._deliver(taken)
        except BaseException:
            self.close()
            raise
        if result is None:
            self.close()
            raise StopIteration
        return result

    def close(self) -> None:
        """Stop the capture thread and let go of the source. Safe to call twice."""
        if self._started_ns is not None and self._ended_ns is None:
            self._ended_ns = time.monotonic_ns()
        # Not by the finalizer, whose second call returns at once: whoever closes waits for the
        # thread, also while another is closing.
        self._stop.detach()
        self._capture.stop()

    def stats(self) -> StreamStats:
        """Counts and latencies so far; also after the end."""
        captured = self._capture.captured
        seconds = 0.0
        if self._started_ns is not None:
            seconds = ((self._ended_ns or time.monotonic_ns()) - self._started_ns) / 1e9
        return StreamStats(
            frames=captured.frames,
            results=self._results,
            dropped=self._mailbox.dropped,
            unreadable=captured.unreadable,
            reconnects=captured.reconnects,
            seconds=seconds,
            results_per_second=self._results / seconds if seconds else 0.0,
            latency_ms=self._recorder.summary(),
        )

    def _start(self) -> None:
        if self._started_ns is None and self._stop.alive:
            self._started_ns = time.monotonic_ns()
            try:
                self._capture.start()
            except BaseException:
                self.close()
                raise

    def _begin_epoch(self, epoch: int) -> None:
        """Forget what was seen: after a break the probe may show anything."""
        self._epoch = epoch
        self._freeze = FreezeDetector(live=self.source.live)
        self._smoother: Smoother | None = None
        if self._options.smoothing_s > 0 and not self.source.still_pictures:
            self._smoother = Smoother(live=self.source.live, span_s=self._options.smoothing_s)
        self._age: RunningAge | None = None

    def _deliver(self, taken: Frame | Silence) -> Result:
        if isinstance(taken, Silence):
            self._begin_epoch(self._epoch)
            silent = answer_to_silence(taken, self.source.name, self._options.max_staleness)
            result = replace(silent, dropped=self._mailbox.dropped, epoch=self._epoch)
        else:
            if taken.epoch != self._epoch:
                self._begin_epoch(taken.epoch)
            result = self._answer(taken)
        self._results += 1
        previous, self._state = self._state, result.state
        if previous != result.state and self._options.on_state is not None:
            self._options.on_state(StateChange(previous, result))
        return result

    def _answer(self, frame: Frame) -> Result:
        taken_ns = time.monotonic_ns()
        region, pixel_size_mm = self._options.region, self._options.pixel_size_mm
        if region is not None:
            frame = replace(frame, region=region)
        if pixel_size_mm is not None:
            frame = replace(frame, pixel_size_mm=pixel_size_mm)
        result = self.model.analyze_frame(frame)
        answered_ns = time.monotonic_ns()
        if self._smoother is not None:
            result = self._smoother.update(result, frame)
        still = not self.source.still_pictures and self._freeze.update(frame)
        if result.head is not None and not self.source.still_pictures:
            if self._age is None:
                self._age = RunningAge(live=self.source.live, chart=self.model.chart)
            result = self._age.update(result, frame, still=still)
        state = StreamState.FROZEN if still and result.state == StreamState.LIVE else result.state
        done_ns = time.monotonic_ns()
        timing = replace(
            result.timing,
            interpret_ms=result.timing.interpret_ms + (done_ns - answered_ns) / 1e6,
            grab_ms=frame.grab_ms,
            queue_ms=(taken_ns - frame.captured_ns) / 1e6,
            capture_to_result_ms=(done_ns - frame.captured_ns) / 1e6,
        )
        self._recorder.add(timing)
        return replace(
            result,
            state=state,
            timing=timing,
            dropped=self._mailbox.dropped,
            epoch=self._epoch,
        )


def stream(
    source: object,
    *,
    model: Model | None = None,
    policy: Policy | None = None,
    region: Region | tuple[int, int, int, int] | None = None,
    pixel_size_mm: float | None = None,
    smoothing_s: float = DEFAULT_SPAN_S,
    max_staleness: float = 1.0,
    reconnect: Backoff | None = Backoff(),  # noqa: B008 - frozen
    on_state: Callable[[StateChange], object] | None = None,
) -> Stream:
    """Stream results from a camera, a recording or anything else that gives frames.

    Args:
        source: a camera (`0`, `/dev/video0`), a GStreamer pipeline, a video, image or DICOM file,
            a folder or glob of images, a URL, arrays, an iterable of arrays, an object with a
            `read()` method, or a `Source`. Arrays are uint8 `(H, W)` or `(H, W, 3)` RGB.
        model: from `fetalclip_edge.load`, or None for the bundle that the package ships.
        policy: `latest` answers for the newest frame and counts those it had to drop; a recording
            is then played at its own speed. `all` answers for every frame and makes the
            source wait. None chooses `latest` for live sources and `all` for others.
        region: `(x, y, width, height)` of the ultrasound picture within every frame; None takes
            what the source says (DICOM knows), or else the whole frame.
        pixel_size_mm: millimetres per pixel of the frames; None takes what the source says.
        smoothing_s: answers are averaged over about so many seconds, 0 to 10, of a device's film
            or of a recording that has times; 0 answers for every frame alone. Pictures of a folder
            and arrays have no times and are answered one by one.
        max_staleness: seconds, 0.05 to 60, after which a live source that gives nothing is `stale`.
        reconnect: how long to wait before a live source that was lost (a URL, a camera, a
            pipeline, or a source of your own with `renew`) is opened again; it is looked for until
            the stream is closed, and results say `no_signal` meanwhile. None ends the stream with
            the error.
        on_state: called with a `StateChange` at the beginning and whenever the state changes, by
            the thread that asks for results and before it gets the one in question. What it raises
            ends the stream.

    Raises:
        SourceNotFoundError: the source does not exist.
        SourceError, InvalidImageTypeError: it is nothing that can be streamed.
        ValueError: an option is out of range.
        TypeError: `model` is no model, or an option of a wrong type.

    Example:
        >>> import fetalclip_edge as fe
        >>> from fetalclip_edge.demo import DEMO_CLIP
        >>> with fe.stream(DEMO_CLIP) as live:
        ...     states = [str(result.state) for result in live]
        >>> live.stats().dropped
        0
    """
    if policy is not None and policy not in get_args(Policy):
        raise ValueError(f"policy must be one of {', '.join(get_args(Policy))}, not {policy!r}")
    options = StreamOptions(
        check_region(region), pixel_size_mm, smoothing_s, max_staleness, reconnect, on_state
    )
    if model is not None and not callable(getattr(model, "analyze_frame", None)):
        raise TypeError(f"model must come from fetalclip_edge.load, not be {model!r}")
    opened = open_source(source)
    return Stream(
        opened,
        load() if model is None else model,
        policy or ("latest" if opened.live else "all"),
        options,
    )
