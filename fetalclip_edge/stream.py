"""Live results from a source: capture in a thread of its own, answers in the consumer's."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, get_args

from fetalclip_edge.aio import Helper, HelperEndedError, apart
from fetalclip_edge.backoff import Backoff
from fetalclip_edge.capture import Capture
from fetalclip_edge.film import Film
from fetalclip_edge.geometry import Geometry, RegionChoice, check_choice
from fetalclip_edge.latency import LatencyRecorder
from fetalclip_edge.mailbox import Mailbox, Policy, Silence
from fetalclip_edge.model import Model, load
from fetalclip_edge.results import Frame, Result, StreamState
from fetalclip_edge.silence import answer_to_silence, no_answer
from fetalclip_edge.sinks.base import Sink, Sinks
from fetalclip_edge.smoothing import DEFAULT_SPAN_S
from fetalclip_edge.sources import Source, open_source
from fetalclip_edge.stream_data import Answer, StateChange, StreamOptions, StreamStats

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["StateChange", "Stream", "StreamOptions", "StreamStats", "stream"]

_JOIN_SECONDS = 5.0
"""For an answer that an event loop has asked for and no longer wants."""


class Stream:
    """Results of a source, one by one. Made by `fetalclip_edge.stream`.

    A context manager and an iterator. Entering the `with` block opens the source; leaving it, for
    whatever reason, stops the capture thread and lets go of the device. Without a `with` block
    the first `next()` opens the source, and the end of the source, or `close()`, ends it.

    In an event loop, `async with` and `async for` do the same; waiting and answering then happen
    in one thread of the stream's own, which is also the one that calls `on_state`.

    Attributes:
        source: where the frames come from.
        model: what answers.
        policy: "latest" or "all".
        frame: the picture of the result given last; None where none came, and after the end.
    """

    def __init__(
        self,
        source: Source,
        model: Model,
        policy: Policy,
        options: StreamOptions = StreamOptions(),  # noqa: B008 - frozen
        sinks: Iterable[Sink] = (),
    ) -> None:
        self.source, self.model, self.policy = source, model, policy
        self._options = options
        self._mailbox = Mailbox(policy)
        played = policy == "latest" and not source.live
        self._capture = Capture(source, self._mailbox, play=played, backoff=options.reconnect)
        # A model of the user's own may have no turns.
        self._turns = getattr(model, "turns", None) or nullcontext()
        self._sinks = Sinks(sinks)
        self._helper: Helper[Result | None] = Helper(f"fetalclip-edge async {source.name}")
        # For a stream that is dropped without `close`.
        self._stop = weakref.finalize(self, _let_go, self._capture, self._helper, self._sinks)
        self._recorder = LatencyRecorder()
        self._geometry = Geometry(
            options.region, options.pixel_size_mm, film=not source.still_pictures
        )
        self._film = Film(source, model, options.smoothing_s)
        self._epoch = 0
        self._exam_ended = False
        self._state: StreamState | None = None
        self.frame: Frame | None = None
        # A recording that is read as fast as it is answered has no frame time to keep to.
        self._by_the_clock = source.live or played
        self._results = self._misses = 0
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

    async def __aenter__(self) -> Self:
        try:
            await apart(self._start)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> AsyncIterator[Result]:
        return self

    async def __anext__(self) -> Result:
        """As `__next__`, without holding the event loop up.

        Cancelling loses nothing: the result that was waited for is then the next one's.

        Raises:
            StopAsyncIteration: the source has ended, or the stream was closed.
            RuntimeError: another task is waiting for a result of this stream.
        """
        try:
            result = await self._helper.call(lambda: next(self, None))
        except HelperEndedError:
            result = None
        if result is None:
            raise StopAsyncIteration
        return result

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
            self._mailbox.wait(self._options.max_staleness if self.source.live else None)
            with self._turns:
                # Taken in turn and not before: the frame that waits meanwhile is the newest. It
                # is old where the source has hung while the consumer was away.
                taken = self._mailbox.take(0, self._oldest_ns())
                answer = self._analyze(taken) if isinstance(taken, Frame) else taken
            result = None if answer is None else self._deliver(answer)
        except BaseException:
            self.close()
            raise
        if result is None:
            self.close()
            raise StopIteration
        return result

    def close(self) -> None:
        """Stop the capture thread, let go of the source, close the sinks. Safe to call twice."""
        if self._started_ns is not None and self._ended_ns is None:
            self._ended_ns = time.monotonic_ns()
        # Not by the finalizer, whose second call returns at once: whoever closes waits for the
        # thread, also while another is closing.
        self._stop.detach()
        _let_go(self._capture, self._helper, self._sinks)
        self.frame = None

    async def aclose(self) -> None:
        """As `close`, without holding the event loop up."""
        self._mailbox.close()  # at once, so that nothing is waited for
        await apart(self.close)

    def new_exam(self) -> None:
        """Say that another patient comes: results from now on are of her alone.

        Age, averages and the score of the heart begin anew. Nobody having said so, the age does
        after a minute without a head. May be called from any thread.
        """
        # Done by the thread that asks for results, which may be in the middle of one.
        self._exam_ended = True

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
            deadline_ms=self._deadline_ms,
            deadline_misses=self._misses,
            sinks=self._sinks.stats(),
        )

    def _oldest_ns(self) -> int | None:
        """When a picture was taken, at the earliest, that is answered for; None where all are."""
        if self.policy == "all" or not self.source.live:
            return None
        return time.monotonic_ns() - round(self._options.max_staleness * 1e9)

    @property
    def _deadline_ms(self) -> float | None:
        if self._options.deadline_ms is not None:
            return self._options.deadline_ms
        rate = self.source.frame_rate
        if not self._by_the_clock or rate is None or not 0 < rate < math.inf:
            return None
        return 1000 / rate

    def _start(self) -> None:
        if self._started_ns is None and self._stop.alive:
            self._started_ns = time.monotonic_ns()
            try:
                self._capture.start()
                self._sinks.start(self.model, self.source)
            except BaseException:
                self.close()
                raise

    def _deliver(self, answer: Answer | Silence) -> Result:
        if self._exam_ended:
            self._exam_ended = False
            self._film.begin_exam()
        if isinstance(answer, Silence):
            self._film.begin()
            silent = answer_to_silence(answer, self.source.name, self._options.max_staleness)
            result = replace(silent, dropped=self._mailbox.dropped, epoch=self._epoch)
            frame = None
        else:
            if answer.frame.epoch != self._epoch or answer.changed:
                self._epoch = answer.frame.epoch
                self._film.begin()
            result = self._interpret(answer)
            # With no region that fits, nobody knows what else is on the screen: a name, perhaps.
            frame = None if answer.misfit else answer.frame
        self.frame = frame
        self._results += 1
        self._sinks.offer(result, frame)
        previous, self._state = self._state, result.state
        if previous != result.state and self._options.on_state is not None:
            self._options.on_state(StateChange(previous, result))
        return result

    def _analyze(self, frame: Frame) -> Answer:
        taken_ns = time.monotonic_ns()
        frame, misfit = self._geometry.fit(frame)
        if misfit is None:
            result = self.model.analyze_frame(frame)
        else:
            nothing = no_answer(StreamState.NO_SIGNAL, misfit, frame.source)
            result = replace(nothing, frame_index=frame.index, pts_s=frame.pts_s)
        return Answer(
            frame, taken_ns, result, time.monotonic_ns(), self._geometry.changed, misfit is not None
        )

    def _interpret(self, answer: Answer) -> Result:
        frame, result = answer.frame, answer.result
        if answer.misfit:
            return replace(result, dropped=self._mailbox.dropped, epoch=self._epoch)
        result = self._film.update(result, frame)
        done_ns = time.monotonic_ns()
        whole_ms = (done_ns - frame.captured_ns) / 1e6
        timing = replace(
            result.timing,
            interpret_ms=result.timing.interpret_ms + (done_ns - answer.answered_ns) / 1e6,
            grab_ms=frame.grab_ms,
            queue_ms=(answer.taken_ns - frame.captured_ns) / 1e6,
            capture_to_result_ms=whole_ms,
        )
        self._recorder.add(timing)
        if (deadline_ms := self._deadline_ms) is not None:
            self._misses += whole_ms > deadline_ms
        return replace(
            result,
            timing=timing,
            dropped=self._mailbox.dropped,
            epoch=self._epoch,
        )


def _let_go(capture: Capture, helper: Helper[Result | None], sinks: Sinks) -> None:
    # The sinks last: what the source still gave is then on its way to them.
    helper.end()
    try:
        capture.stop()
        helper.join(_JOIN_SECONDS)
    finally:
        sinks.close()


def stream(
    source: object,
    *,
    model: Model | None = None,
    policy: Policy | None = None,
    region: RegionChoice | tuple[int, int, int, int] = None,
    pixel_size_mm: float | None = None,
    smoothing_s: float = DEFAULT_SPAN_S,
    max_staleness: float = 1.0,
    reconnect: Backoff | None = Backoff(),  # noqa: B008 - frozen
    on_state: Callable[[StateChange], object] | None = None,
    deadline_ms: float | None = None,
    sinks: Iterable[Sink] = (),
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
            what the source says (DICOM knows), or else the whole frame. A `RegionProfile` says it
            for one scanner's screen, with what else is to be blanked. "auto" finds it where the
            source does not say it: from several frames of a film, again when the layout changes,
            and picture by picture otherwise. What is around it is blanked, and cut off where the
            ultrasound takes less than four fifths of the frame.
        pixel_size_mm: millimetres per pixel of the frames, which holds for one depth and zoom; None
            takes what the source says. It and `region` hold while a film's pictures have the size
            of the first: others are not measured, and with a `region` not answered for
            (`no_signal`). With "auto" the pixel size is not used while the ultrasound lies
            elsewhere on the screen than at first.
        smoothing_s: answers are averaged over about so many seconds, 0 to 10, of a device's film
            or of a recording that has times; 0 answers for every frame alone. Pictures of a folder
            and arrays have no times and are answered one by one.
        max_staleness: seconds, 0.05 to 60, after which a live source that gives nothing is `stale`,
            and under `latest` a picture that nobody took is no longer answered for.
        reconnect: how long to wait before a live source that was lost (a URL, a camera, a
            pipeline, or a source of your own with `renew`) is opened again; it is looked for until
            the stream is closed, and results say `no_signal` meanwhile. None ends the stream with
            the error.
        on_state: called with a `StateChange` at the beginning and whenever the state changes, by
            the thread that asks for results and before it gets the one in question. What it raises
            ends the stream.
        deadline_ms: results that come later than so many milliseconds after the capture of their
            frame are counted in `stats().deadline_misses`. None takes one frame time of a live
            source, or of a recording played as one, where it says its rate.
        sinks: get every result with its picture, each in a thread of its own. One that is slow or
            fails never slows or stops the stream; what it lost is counted in `stats().sinks`.
            They are closed with the stream.

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
        region=check_choice(region),
        pixel_size_mm=pixel_size_mm,
        smoothing_s=smoothing_s,
        max_staleness=max_staleness,
        reconnect=reconnect,
        on_state=on_state,
        deadline_ms=deadline_ms,
    )
    if model is not None and not callable(getattr(model, "analyze_frame", None)):
        raise TypeError(f"model must come from fetalclip_edge.load, not be {model!r}")
    opened = open_source(source)
    return Stream(
        opened,
        load() if model is None else model,
        policy or ("latest" if opened.live else "all"),
        options,
        sinks,
    )
