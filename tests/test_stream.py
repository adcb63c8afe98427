from __future__ import annotations

import gc
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fetalclip_edge as fe
from fetalclip_edge import capture
from fetalclip_edge.errors import (
    BackendError,
    FrameError,
    InvalidImageTypeError,
    SourceError,
    SourceNotFoundError,
)
from fetalclip_edge.results import Frame, Region, Result, StreamState
from fetalclip_edge.sources import Source

from .live_model import LiveModel

WAIT = 10.0
"""Seconds after which a test gives up on what should come at once."""

IMAGE = np.zeros((8, 8), dtype=np.uint8)

Stub = Any


class StubModel(LiveModel):
    """Answers at once that all is well, and keeps the frames it saw."""

    def __init__(self, before: Callable[[Frame], object] = lambda frame: None) -> None:
        self.frames: list[Frame] = []
        self._before = before

    def analyze_frame(self, frame: Frame) -> Result:
        self.frames.append(frame)
        self._before(frame)
        return super().analyze_frame(frame)


class ScriptedSource(Source):
    """Plays a script: a picture, a frame with its time, or an error, one a read."""

    name = "script"

    def __init__(
        self,
        script: Iterable[object],
        *,
        live: bool = False,
        open_error: Exception | None = None,
        gate: Callable[[int], object] = lambda index: None,
    ) -> None:
        self.live = live
        self.events: list[str] = []
        self.ended = threading.Event()
        self.first_read_ns = 0
        self._script = enumerate(script)
        self._open_error = open_error
        self._gate = gate

    def open(self) -> None:
        self.events.append("open")
        if self._open_error is not None:
            raise self._open_error

    def read(self) -> Frame | None:
        self.first_read_ns = self.first_read_ns or time.monotonic_ns()
        index, item = next(self._script, (0, None))
        if item is None:
            self.ended.set()
            return None
        self._gate(index)
        if isinstance(item, Exception):
            raise item
        pts_s = item if isinstance(item, float) else None
        return Frame(IMAGE, "gray", index, time.monotonic_ns(), self.name, pts_s)

    def close(self) -> None:
        self.events.append("close")


@pytest.fixture
def model() -> Stub:
    return StubModel()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterable[None]:
    yield
    assert capture_threads() == []


def capture_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "fetalclip-edge" in thread.name]


def indexes(results: Iterable[Result]) -> list[int | None]:
    return [result.frame_index for result in results]


# Policies


def test_all_answers_for_every_frame_in_order(model: Stub) -> None:
    source = ScriptedSource([IMAGE] * 50)
    with fe.stream(source, model=model, policy="all") as live:
        results = list(live)
    assert indexes(results) == list(range(50))
    assert {result.dropped for result in results} == {0}
    assert source.events == ["open", "close"]


def test_all_makes_the_source_wait_for_the_consumer() -> None:
    answered: list[int] = []
    lead: list[int] = []
    far_enough = threading.Event()

    def gate(index: int) -> None:
        lead.append(index - len(answered))
        if index == 4:
            far_enough.set()

    def answer(frame: Frame) -> None:
        assert far_enough.wait(WAIT)
        answered.append(frame.index)

    source = ScriptedSource([IMAGE] * 100, gate=gate)
    with fe.stream(source, model=StubModel(answer), policy="all") as live:  # type: ignore[arg-type]
        assert indexes(live) == list(range(100))
    # Four frames wait in the queue; one more may be with the consumer, uncounted as yet.
    assert max(lead) <= 5


def test_latest_never_holds_the_source_up_and_counts_every_drop(model: Stub) -> None:
    source = ScriptedSource([IMAGE] * 10, live=True)
    with fe.stream(source, model=model, policy="latest") as live:
        # The source runs to its end though nobody takes a frame.
        assert source.ended.wait(WAIT)
        results = list(live)
        stats = live.stats()
    assert indexes(results) == [9]
    assert results[0].dropped == 9
    assert (stats.frames, stats.results, stats.dropped) == (10, 1, 9)


def test_latest_gives_the_newest_frame_after_a_slow_answer() -> None:
    step = threading.Semaphore(0)
    read = threading.Semaphore(0)

    def gate(index: int) -> None:
        read.release()
        assert step.acquire(timeout=WAIT)

    def answer(frame: Frame) -> None:
        # While frame 0 is answered, frames 1 to 5 come and frame 6 is asked for.
        if frame.index == 0:
            for _ in range(5):
                assert read.acquire(timeout=WAIT)
                step.release()
            assert read.acquire(timeout=WAIT)

    source = ScriptedSource([IMAGE] * 7, live=True, gate=gate)
    with fe.stream(source, model=StubModel(answer)) as live:  # type: ignore[arg-type]
        assert read.acquire(timeout=WAIT)
        step.release()
        first = next(live)
        step.release()
        assert source.ended.wait(WAIT)
        rest = list(live)
        stats = live.stats()
    assert (first.frame_index, first.dropped) == (0, 4)
    assert indexes(rest) == [6]
    assert rest[0].dropped == 5
    assert stats.frames == stats.results + stats.dropped == 7


@pytest.mark.parametrize(("live", "policy"), [(True, "latest"), (False, "all")])
def test_the_source_decides_the_policy_unless_told(live: bool, policy: str, model: Stub) -> None:
    assert fe.stream(ScriptedSource([], live=live), model=model).policy == policy


def test_a_recording_under_latest_plays_at_its_own_speed() -> None:
    # Given twenty frames, ten milliseconds apart, with times that do not start at 0.
    times = [5.0 + index / 100 for index in range(20)]
    model = StubModel()
    source = ScriptedSource(times)
    with fe.stream(source, model=model, policy="latest") as live:  # type: ignore[arg-type]
        results = list(live)
        stats = live.stats()
    # Then no frame comes before its time, and all are answered or counted.
    for frame in model.frames:
        assert frame.pts_s == times[frame.index]
        shown_after_s = (frame.captured_ns - source.first_read_ns) / 1e9
        assert shown_after_s >= frame.pts_s - times[0] - 0.001
    assert sorted(set(indexes(results))) == indexes(results)
    assert results[-1].frame_index == 19
    assert stats.frames == 20 == stats.results + stats.dropped


def test_leaving_a_playing_recording_does_not_wait_for_its_next_frame(model: Stub) -> None:
    with fe.stream(ScriptedSource([0.0, 4.0]), model=model, policy="latest") as live:
        assert next(live).pts_s == 0.0
    assert capture_threads() == []


# The end


@pytest.mark.parametrize("policy", ["latest", "all"])
def test_an_exception_in_the_consumer_stops_everything(policy: Any, model: Stub) -> None:
    source = ScriptedSource([IMAGE] * 1000)
    with pytest.raises(ZeroDivisionError), fe.stream(source, model=model, policy=policy) as live:
        for _ in live:
            raise ZeroDivisionError
    assert capture_threads() == []
    assert source.events == ["open", "close"]


@pytest.mark.parametrize("policy", ["latest", "all"])
def test_break_stops_everything(policy: Any, model: Stub) -> None:
    source = ScriptedSource([IMAGE] * 1000)
    with fe.stream(source, model=model, policy=policy) as live:
        for _ in live:
            break
    assert capture_threads() == []
    assert source.events == ["open", "close"]


def test_a_generator_that_is_closed_stops_everything(model: Stub) -> None:
    source = ScriptedSource([IMAGE] * 1000)

    def labels() -> Iterable[str]:
        with fe.stream(source, model=model) as live:
            for result in live:
                yield result.plane.label

    generator: Any = labels()
    assert next(generator) == "brain"
    generator.close()
    assert capture_threads() == []
    assert source.events == ["open", "close"]


def test_ctrl_c_during_an_answer_stops_everything() -> None:
    def interrupt(frame: Frame) -> None:
        signal.raise_signal(signal.SIGINT)

    source = ScriptedSource([IMAGE] * 1000)
    live = fe.stream(source, model=StubModel(interrupt))  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt), live:
        next(live)
    assert capture_threads() == []
    assert source.events == ["open", "close"]


def test_ctrl_c_while_waiting_for_a_frame_stops_everything(model: Stub) -> None:
    main = threading.main_thread().ident
    assert main is not None
    go_on = threading.Event()
    reading = threading.Event()

    def gate(index: int) -> None:
        reading.set()
        assert go_on.wait(WAIT)

    def interrupt() -> None:
        assert reading.wait(WAIT)
        time.sleep(0.05)  # most probably the main thread waits by now; if not, no harm
        signal.pthread_kill(main, signal.SIGINT)
        go_on.set()

    source = ScriptedSource([IMAGE] * 1000, live=True, gate=gate)
    helper = threading.Thread(target=interrupt)
    helper.start()
    with pytest.raises(KeyboardInterrupt), fe.stream(source, model=model) as live:
        while True:
            next(live)
    helper.join()
    assert capture_threads() == []
    assert source.events == ["open", "close"]


def test_close_from_another_thread_ends_a_waiting_consumer(model: Stub) -> None:
    go_on = threading.Event()
    source = ScriptedSource([IMAGE] * 3, live=True, gate=lambda index: go_on.wait(WAIT))
    taken: list[Result | None] = []
    with fe.stream(source, model=model) as live:
        consumer = threading.Thread(target=lambda: taken.append(next(live, None)))
        consumer.start()
        closer = threading.Thread(target=live.close)
        closer.start()
        go_on.set()
        consumer.join(WAIT)
        closer.join(WAIT)
        assert next(live, None) is None
    assert len(taken) == 1
    assert source.events == ["open", "close"]


def test_a_stream_that_is_dropped_lets_go_of_its_source(model: Stub) -> None:
    source = ScriptedSource([IMAGE] * 1000)
    live = fe.stream(source, model=model)
    assert next(live).frame_index == 0
    del live
    gc.collect()
    assert capture_threads() == []
    assert source.events == ["open", "close"]


def test_iterating_without_with_ends_by_itself(model: Stub) -> None:
    source = ScriptedSource([IMAGE] * 5)
    live = fe.stream(source, model=model)
    assert source.events == []
    assert indexes(live) == [0, 1, 2, 3, 4]
    assert source.events == ["open", "close"]
    assert list(live) == []
    assert capture_threads() == []


def test_closing_twice_or_before_the_start_is_harmless(model: Stub) -> None:
    source = ScriptedSource([IMAGE] * 5)
    live = fe.stream(source, model=model)
    live.close()
    live.close()
    assert list(live) == []
    assert source.events == []
    assert live.stats().seconds == 0


def test_a_source_with_nothing_but_bad_frames_can_be_left(model: Stub) -> None:
    bad = threading.Event()

    def gate(index: int) -> None:
        if index == 3:
            bad.set()

    def script() -> Iterable[object]:
        while True:
            yield FrameError("torn")

    source = ScriptedSource(script(), live=True, gate=gate)
    with fe.stream(source, model=model) as live:
        assert bad.wait(WAIT)
    assert capture_threads() == []
    assert live.stats().unreadable >= 3
    assert source.events == ["open", "close"]


def test_a_read_that_hangs_is_ended_by_closing_the_source(
    model: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "_JOIN_SECONDS", 0.05)
    monkeypatch.setattr(capture, "_LAST_JOIN_SECONDS", WAIT)
    closed = threading.Event()

    class Hanging(ScriptedSource):
        def close(self) -> None:
            super().close()
            closed.set()

    source = Hanging([IMAGE], gate=lambda index: closed.wait(3 * WAIT))
    with fe.stream(source, model=model):
        pass
    assert capture_threads() == []
    assert source.events[:2] == ["open", "close"]


def test_a_read_that_never_returns_is_left_with_a_warning(
    model: Stub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(capture, "_JOIN_SECONDS", 0.01)
    monkeypatch.setattr(capture, "_LAST_JOIN_SECONDS", 0.01)
    go_on = threading.Event()
    source = ScriptedSource([IMAGE], gate=lambda index: go_on.wait(WAIT))
    with caplog.at_level(logging.WARNING, "fetalclip_edge"), fe.stream(source, model=model):
        pass
    assert "script did not return" in caplog.text
    (thread,) = capture_threads()
    assert thread.daemon
    go_on.set()
    thread.join(WAIT)


# Errors


@pytest.mark.parametrize("policy", ["latest", "all"])
def test_a_source_that_breaks_is_told_after_its_frames(policy: Any, model: Stub) -> None:
    source = ScriptedSource([IMAGE, IMAGE, SourceError("unplugged"), IMAGE])
    seen: list[Result] = []
    with pytest.raises(SourceError, match="unplugged"):
        with fe.stream(source, model=model, policy=policy) as live:
            seen.extend(live)
    stats = live.stats()
    assert model.frames[-1].index == 1
    assert stats.frames == 2 == stats.results + stats.dropped
    assert source.events == ["open", "close"]
    assert next(live, None) is None


def test_an_unreadable_frame_is_counted_and_the_stream_goes_on(model: Stub) -> None:
    torn = FrameError("frame 1 is torn")
    source = ScriptedSource([IMAGE, torn, IMAGE, torn, torn, IMAGE])
    with fe.stream(source, model=model, policy="all") as live:
        assert indexes(live) == [0, 2, 5]
    stats = live.stats()
    assert (stats.frames, stats.results, stats.unreadable, stats.dropped) == (3, 3, 3, 0)


def test_a_source_that_gives_nothing_but_bad_frames_is_broken(model: Stub) -> None:
    most = capture._MOST_UNREADABLE
    torn = FrameError("torn")
    enough = [torn] * (most - 1) + [IMAGE] + [torn] * (most - 1) + [IMAGE]
    with fe.stream(ScriptedSource(enough), model=model) as live:
        assert len(list(live)) == 2
    too_many = ScriptedSource([IMAGE] + [torn] * most + [IMAGE])
    with fe.stream(too_many, model=model) as live:
        assert next(live).frame_index == 0
        with pytest.raises(SourceError, match="in a row"):
            next(live)
    assert too_many.events == ["open", "close"]


@pytest.mark.parametrize("error", [SourceNotFoundError("no camera"), ValueError("odd")])
def test_what_goes_wrong_at_opening_is_raised_on_entering(error: Exception, model: Stub) -> None:
    source = ScriptedSource([IMAGE], open_error=error)
    with pytest.raises(type(error), match=str(error)):
        fe.stream(source, model=model).__enter__()
    assert capture_threads() == []
    assert source.events == ["open", "close"]


def test_what_goes_wrong_at_opening_is_raised_by_the_first_next(model: Stub) -> None:
    source = ScriptedSource([IMAGE], open_error=SourceError("busy"))
    live = fe.stream(source, model=model)
    with pytest.raises(SourceError, match="busy"):
        next(live)
    assert source.events == ["open", "close"]


def test_a_failing_model_stops_everything() -> None:
    def fail(frame: Frame) -> None:
        raise BackendError("out of memory")

    source = ScriptedSource([IMAGE] * 1000)
    live = fe.stream(source, model=StubModel(fail))  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="out of memory"):
        next(live)
    assert capture_threads() == []
    assert source.events == ["open", "close"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"policy": "newest"}, "policy"),
        ({"pixel_size_mm": 0.0}, "pixel_size_mm"),
        ({"pixel_size_mm": float("nan")}, "pixel_size_mm"),
        ({"smoothing_s": -0.1}, "smoothing_s"),
        ({"smoothing_s": float("nan")}, "smoothing_s"),
    ],
)
def test_an_option_out_of_range_is_named(options: Any, named: str, model: Stub) -> None:
    with pytest.raises(ValueError, match=named):
        fe.stream(IMAGE, model=model, **options)


def test_a_source_that_does_not_exist_is_refused_before_anything_starts(model: Stub) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4"):
        fe.stream("nowhere.mp4", model=model)
    with pytest.raises(InvalidImageTypeError):
        fe.stream(None, model=model)


# What a result and the stats say


def test_region_and_pixel_size_reach_every_frame(model: Stub) -> None:
    images = np.zeros((2, 20, 30), dtype=np.uint8)
    with fe.stream(images, model=model, region=(1, 2, 10, 12), pixel_size_mm=0.2) as live:
        assert len(list(live)) == 2
    assert {frame.region for frame in model.frames} == {Region(1, 2, 10, 12)}
    assert {frame.pixel_size_mm for frame in model.frames} == {0.2}


def test_without_options_frames_keep_what_their_source_says(model: Stub) -> None:
    with fe.stream(np.zeros((2, 20, 30), dtype=np.uint8), model=model) as live:
        assert len(list(live)) == 2
    assert {(frame.region, frame.pixel_size_mm) for frame in model.frames} == {(None, None)}


def test_a_result_tells_when_and_how_long() -> None:
    with fe.stream(ScriptedSource([0.5, 0.75]), model=StubModel(), policy="all") as live:  # type: ignore[arg-type]
        results = list(live)
    assert [result.pts_s for result in results] == [0.5, 0.75]
    assert [result.source for result in results] == ["script", "script"]
    for timing in (result.timing for result in results):
        stages = (timing.grab_ms, timing.queue_ms, timing.capture_to_result_ms)
        assert all(stage is not None and stage >= 0 for stage in stages)
        assert timing.capture_to_result_ms >= timing.queue_ms  # type: ignore[operator]
        assert timing.preprocess_ms == 1.0


def test_stats_before_during_and_after(model: Stub) -> None:
    live = fe.stream(ScriptedSource([IMAGE] * 4), model=model)
    before = live.stats()
    assert (before.frames, before.results, before.seconds, before.latency_ms) == (0, 0, 0.0, {})
    next(live)
    assert live.stats().results == 1
    list(live)
    after = live.stats()
    assert (after.frames, after.results, after.dropped, after.unreadable) == (4, 4, 0, 0)
    assert after.results_per_second == pytest.approx(4 / after.seconds)
    assert after.latency_ms["inference"].p50 == 2.0
    assert set(after.latency_ms) == {
        *("grab", "queue", "preprocess", "inference", "interpret", "capture_to_result")
    }
    assert live.stats() == after


def test_stats_may_be_asked_from_another_thread(model: Stub) -> None:
    done = threading.Event()
    failures: list[BaseException] = []
    live = fe.stream(ScriptedSource([IMAGE] * 2000), model=model, policy="all")

    def watch() -> None:
        try:
            while not done.is_set():
                live.stats()
        except BaseException as error:
            failures.append(error)

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert len(list(live)) == 2000
    done.set()
    watcher.join()
    assert failures == []


# Freezing, on the shipped clip


def test_the_clip_is_live_and_then_frozen(clip_images: list[NDArray[np.uint8]]) -> None:
    from fetalclip_edge.demo import DEMO_CLIP

    with fe.stream(DEMO_CLIP, model=StubModel()) as live:  # type: ignore[arg-type]
        states = [str(result.state) for result in live]
    assert len(states) == len(clip_images) == 300
    assert set(states[:269]) == {"live"}
    assert set(states[271:]) == {"frozen"}


class StillSource(ScriptedSource):
    """One picture, a tenth of a second apart by the clock, without times of its own."""

    def read(self) -> Frame | None:
        frame = super().read()
        return None if frame is None else replace(frame, captured_ns=frame.index * 100_000_000)


def test_a_camera_that_stands_still_is_frozen() -> None:
    # "all", so that every frame is looked at, as if the consumer always kept up.
    source = StillSource([IMAGE] * 10, live=True)
    with fe.stream(source, model=StubModel(), policy="all") as live:  # type: ignore[arg-type]
        states = [str(result.state) for result in live]
    assert states == ["live"] * 5 + ["frozen"] * 5


def test_pictures_of_a_folder_are_never_frozen() -> None:
    source = StillSource([IMAGE] * 10, live=False)
    source.still_pictures = True
    with fe.stream(source, model=StubModel(), policy="all") as live:  # type: ignore[arg-type]
        assert {result.state for result in live} == {StreamState.LIVE}


def test_a_picture_the_model_does_not_know_is_not_called_frozen() -> None:
    class Doubting(StubModel):
        def analyze_frame(self, frame: Frame) -> Result:
            answer = super().analyze_frame(frame)
            return replace(answer, state=StreamState.OUT_OF_DOMAIN, reason="unlike")

    source = ScriptedSource([0.0, 1.0, 2.0])
    with fe.stream(source, model=Doubting()) as live:  # type: ignore[arg-type]
        assert {result.state for result in live} == {StreamState.OUT_OF_DOMAIN}


# Faults of sources


def test_a_generator_that_stands_still_is_frozen() -> None:
    # Given a device behind a generator, which shows one picture for a second
    def device() -> Iterable[NDArray[np.uint8]]:
        for _ in range(12):
            yield IMAGE
            time.sleep(0.1)

    with fe.stream(device(), model=StubModel()) as live:  # type: ignore[arg-type]
        states = [str(result.state) for result in live]
    assert (states[0], states[-1]) == ("live", "frozen")


def test_a_jump_in_the_times_of_a_recording_is_not_waited_for(model: Stub) -> None:
    # Given presentation times that wrap around, as those of MPEG transport streams do
    source = ScriptedSource([0.0, 95_443.7, 95_443.8, 0.1])
    with fe.stream(source, model=model, policy="latest") as live:
        last = list(live)[-1]
    assert last.frame_index == 3


def test_closing_while_the_stream_starts_leaves_nothing(model: Stub) -> None:
    for _ in range(20):
        live = fe.stream(ScriptedSource([IMAGE] * 50), model=model)
        errors: list[BaseException] = []

        def consume(live: fe.Stream = live, errors: list[BaseException] = errors) -> None:
            try:
                list(live)
            except BaseException as error:
                errors.append(error)

        reader = threading.Thread(target=consume)
        reader.start()
        live.close()
        reader.join()
        assert errors == []
        assert capture_threads() == []


def test_a_source_of_bare_arrays_is_told_what_to_return(model: Stub) -> None:
    class Careless(ScriptedSource):
        def read(self) -> Any:
            return IMAGE

    with pytest.raises(SourceError, match="must return a fetalclip_edge.Frame"):
        list(fe.stream(Careless([]), model=model))


def test_a_source_that_fails_to_close_is_a_warning(
    model: Stub, caplog: pytest.LogCaptureFixture
) -> None:
    class Sticky(ScriptedSource):
        def close(self) -> None:
            raise OSError("device busy")

    assert indexes(fe.stream(Sticky([IMAGE]), model=model)) == [0]
    assert "device busy" in caplog.text


@pytest.mark.parametrize("region", [(0, 0, 4), (0, 0, 0, 0), (-1, 0, 8, 8), (0, 0, 8.5, 8), "abcd"])
def test_a_region_that_cannot_be_is_refused_before_anything_opens(region: Any, model: Stub) -> None:
    source = ScriptedSource([IMAGE])
    with pytest.raises(ValueError, match="region must"):
        fe.stream(source, model=model, region=region)
    assert source.events == []


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(TypeError, match="model must come from fetalclip_edge.load"):
        fe.stream([IMAGE], model="student")  # type: ignore[arg-type]
