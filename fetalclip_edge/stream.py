"""Live results from a source: capture in a thread of its own, answers in the consumer's."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, get_args

from fetalclip_edge.capture import Capture
from fetalclip_edge.freeze import FreezeDetector
from fetalclip_edge.latency import Latency, LatencyRecorder
from fetalclip_edge.mailbox import Mailbox, Policy
from fetalclip_edge.model import Model, check_pixel_size, check_region, load
from fetalclip_edge.results import Frame, Region, Result, StreamState
from fetalclip_edge.smoothing import DEFAULT_SPAN_S, Smoother
from fetalclip_edge.sources import Source, open_source

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Stream", "StreamStats", "stream"]

_LONGEST_SMOOTHING_S = 10.0


@dataclass(frozen=True, slots=True)
class StreamStats:
    """What a stream has done so far.

    Attributes:
        frames: frames read from the source.
        results: results delivered.
        dropped: frames dropped because a newer one came before they were taken.
        unreadable: frames that the source could not read.
        seconds: time since the first frame was asked for.
        results_per_second: results delivered per second.
        latency_ms: stage -> percentiles in milliseconds, over the results delivered.
    """

    frames: int
    results: int
    dropped: int
    unreadable: int
    seconds: float
    results_per_second: float
    latency_ms: dict[str, Latency]


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
        region: Region | None = None,
        pixel_size_mm: float | None = None,
        smoothing_s: float = DEFAULT_SPAN_S,
    ) -> None:
        self.source, self.model, self.policy = source, model, policy
        self._region, self._pixel_size_mm = region, pixel_size_mm
        self._mailbox = Mailbox(policy)
        self._capture = Capture(source, self._mailbox, play=policy == "latest" and not source.live)
        # For a stream that is dropped without `close`.
        self._stop = weakref.finalize(self, self._capture.stop)
        self._recorder = LatencyRecorder()
        self._freeze = FreezeDetector(live=source.live)
        self._smoother: Smoother | None = None
        if smoothing_s > 0 and not source.still_pictures:
            self._smoother = Smoother(live=source.live, span_s=smoothing_s)
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
        """The result of the next frame.

        Raises:
            StopIteration: the source has ended, or the stream was closed.
            SourceError: the source cannot be opened, or broke.
            InvalidImageError: the region does not fit the frame.
        """
        self._start()
        try:
            frame = self._mailbox.take()
            result = None if frame is None else self._answer(frame)
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

    def _answer(self, frame: Frame) -> Result:
        taken_ns = time.monotonic_ns()
        if self._region is not None:
            frame = replace(frame, region=self._region)
        if self._pixel_size_mm is not None:
            frame = replace(frame, pixel_size_mm=self._pixel_size_mm)
        result = self.model.analyze_frame(frame)
        answered_ns = time.monotonic_ns()
        if self._smoother is not None:
            result = self._smoother.update(result, frame)
        still = not self.source.still_pictures and self._freeze.update(frame)
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
        self._results += 1
        return replace(result, state=state, timing=timing, dropped=self._mailbox.dropped)


def stream(
    source: object,
    *,
    model: Model | None = None,
    policy: Policy | None = None,
    region: Region | tuple[int, int, int, int] | None = None,
    pixel_size_mm: float | None = None,
    smoothing_s: float = DEFAULT_SPAN_S,
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

    Raises:
        SourceNotFoundError: the source does not exist.
        SourceError, InvalidImageTypeError: it is nothing that can be streamed.
        ValueError: `policy`, `region`, `pixel_size_mm` or `smoothing_s` is out of range.
        TypeError: `model` is no model.

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
    check_pixel_size(pixel_size_mm)
    if not 0 <= smoothing_s <= _LONGEST_SMOOTHING_S:
        raise ValueError(
            f"smoothing_s must be 0 to {_LONGEST_SMOOTHING_S:.0f} seconds, not {smoothing_s!r}"
        )
    if model is not None and not callable(getattr(model, "analyze_frame", None)):
        raise TypeError(f"model must come from fetalclip_edge.load, not be {model!r}")
    checked_region = check_region(region)
    opened = open_source(source)
    return Stream(
        opened,
        load() if model is None else model,
        policy or ("latest" if opened.live else "all"),
        checked_region,
        pixel_size_mm,
        smoothing_s,
    )
