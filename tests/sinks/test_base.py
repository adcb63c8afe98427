"""Sinks of a stream: each in its own thread, and none able to slow or stop the stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

import fetalclip_edge as fe
from fetalclip_edge.results import Frame, Result
from fetalclip_edge.sinks import base
from fetalclip_edge.sinks.base import SinkStats

from ..live_model import LiveModel

WAIT = 10.0
IMAGES = np.arange(20 * 8 * 8, dtype=np.uint8).reshape(20, 8, 8)

Stub = Any


class Kept:
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.items: list[tuple[Result, Frame | None]] = []
        self.threads: set[str] = set()
        self.closed = 0

    def write(self, result: Result, frame: Frame | None) -> None:
        self.items.append((result, frame))
        self.threads.add(threading.current_thread().name)

    def close(self) -> None:
        self.closed += 1
        self.threads.add(threading.current_thread().name)

    @property
    def indexes(self) -> list[int | None]:
        return [result.frame_index for result, _ in self.items]


class Blocked(Kept):
    """Stands still in its first write until it is released."""

    pictures = True

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go_on = threading.Event(), threading.Event()

    def write(self, result: Result, frame: Frame | None) -> None:
        super().write(result, frame)
        self.reached.set()
        assert self.go_on.wait(WAIT)


class Failing(Kept):
    """Fails on odd frames, and on close."""

    def write(self, result: Result, frame: Frame | None) -> None:
        assert result.frame_index is not None
        if result.frame_index % 2:
            raise OSError(f"disk full at {result.frame_index}")
        super().write(result, frame)


@pytest.fixture
def model() -> Stub:
    return LiveModel()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterable[None]:
    yield
    assert [t.name for t in threading.enumerate() if "fetalclip-edge" in t.name] == []


def test_a_sink_gets_every_result_with_its_picture_in_a_thread_of_its_own(model: Stub) -> None:
    sink = Kept()
    with fe.stream(IMAGES[:5], model=model, sinks=[sink]) as live:
        results = list(live)
    assert [result for result, _ in sink.items] == results
    for index, (_, frame) in enumerate(sink.items):
        assert frame is not None
        np.testing.assert_array_equal(frame.image, IMAGES[index])
    assert sink.threads == {"fetalclip-edge sink Kept"}
    assert sink.closed == 1
    assert live.stats().sinks == {"Kept": SinkStats(written=5, lost=0, error=None)}


def test_a_sink_cannot_write_to_the_picture_of_others(model: Stub) -> None:
    class Scribbler(Kept):
        def write(self, result: Result, frame: Frame | None) -> None:
            assert frame is not None
            frame.image[:] = 0

    own = IMAGES.copy()
    with fe.stream(own, model=model, sinks=[Scribbler()]) as live:
        list(live)
    stats = live.stats().sinks["Scribbler"]
    assert (stats.written, stats.lost) == (0, 20)
    assert "read-only" in str(stats.error)
    np.testing.assert_array_equal(own, IMAGES)
    assert own.flags.writeable


def test_a_sink_that_stands_still_holds_nothing_up_and_loses_the_oldest(
    model: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_WAITING_WITH_PICTURE", 3)
    sink, other = Blocked(), Kept()
    with fe.stream(IMAGES, model=model, sinks=[sink, other]) as live:
        first = next(live)
        assert sink.reached.wait(WAIT)
        # The other nineteen are answered though the sink is still with the first.
        rest = list(zip(range(19), live, strict=False))
        assert live.stats().sinks["Blocked"] == SinkStats(0, 16, None)
        sink.go_on.set()
    assert (first.frame_index, len(rest)) == (0, 19)
    assert sink.indexes == [0, 17, 18, 19]
    assert live.stats().sinks["Blocked"] == SinkStats(4, 16, None)
    assert sink.closed == 1


def test_a_sink_that_fails_loses_only_what_it_failed_on(
    model: Stub, caplog: pytest.LogCaptureFixture
) -> None:
    sink, other = Failing(), Kept()
    with fe.stream(IMAGES[:6], model=model, sinks=[sink, other]) as live:
        assert len(list(live)) == 6
    assert sink.indexes == [0, 2, 4]
    assert other.indexes == [0, 1, 2, 3, 4, 5]
    assert live.stats().sinks["Failing"] == SinkStats(3, 3, "OSError: disk full at 5")
    assert sink.closed == 1
    assert "disk full at 1" in caplog.text


def test_the_same_failure_is_warned_of_once(model: Stub, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Kept):
        def write(self, result: Result, frame: Frame | None) -> None:
            raise OSError("disk full")

    with fe.stream(IMAGES[:6], model=model, sinks=[Broken()]) as live:
        assert len(list(live)) == 6
    assert live.stats().sinks["Broken"] == SinkStats(0, 6, "OSError: disk full")
    assert caplog.text.count("disk full") == 1


def test_a_sink_that_fails_to_close_is_told(model: Stub) -> None:
    class Sticky(Kept):
        def close(self) -> None:
            raise OSError("still open")

    with fe.stream(IMAGES[:1], model=model, sinks=[Sticky()]) as live:
        list(live)
    assert live.stats().sinks["Sticky"] == SinkStats(1, 0, "OSError: still open")


def test_a_sink_that_never_ends_is_left_behind(
    model: Stub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(base, "_CLOSE_SECONDS", 0.05)
    sink = Blocked()
    with fe.stream(IMAGES[:4], model=model, sinks=[sink]) as live:
        next(live)
        assert sink.reached.wait(WAIT)
        list(live)
    assert live.stats().sinks["Blocked"] == SinkStats(0, 3, None)
    assert "did not end in time: 3 results lost" in caplog.text
    sink.go_on.set()
    [thread] = [t for t in threading.enumerate() if t.name == "fetalclip-edge sink Blocked"]
    thread.join(WAIT)
    # It still closes itself when it can.
    assert (sink.indexes, sink.closed) == ([0], 1)


def test_a_sink_that_wants_no_pictures_gets_none_and_may_fall_further_behind(model: Stub) -> None:
    class Log(Blocked):
        pictures = False
        name = "log"

    sink = Log()
    images = np.zeros((100, 8, 8), dtype=np.uint8)
    with fe.stream(images, model=model, sinks=[sink]) as live:
        assert len(list(zip(range(100), live, strict=False))) == 100
        sink.go_on.set()
    assert live.stats().sinks == {"log": SinkStats(100, 0, None)}
    assert {frame for _, frame in sink.items} == {None}


def test_no_picture_comes_with_word_that_none_came(model: Stub) -> None:
    class Silent(fe.Source):
        name, live = "silent", True

        def __init__(self) -> None:
            self.ended = threading.Event()

        def open(self) -> None: ...

        def read(self) -> None:
            self.ended.wait(WAIT)

        def close(self) -> None: ...

    source, sink = Silent(), Kept()
    with fe.stream(source, model=model, max_staleness=0.05, sinks=[sink]) as live:
        assert str(next(live).state) == "stale"
        source.ended.set()
    assert [(str(result.state), frame) for result, frame in sink.items] == [("stale", None)]


def test_a_sink_may_ask_for_the_model_and_the_source_before_the_first_result(model: Stub) -> None:
    class Curious(Kept):
        def begin(self, model: object, source: object) -> None:
            assert self.items == []
            self.told = (model, source)

    class Spoiled(Kept):
        def begin(self, model: object, source: object) -> None:
            raise OSError("no room")

    curious, spoiled = Curious(), Spoiled()
    with fe.stream(IMAGES[:2], model=model, sinks=[curious, spoiled]) as live:
        list(live)
    assert curious.told == (model, live.source)
    assert curious.indexes == spoiled.indexes == [0, 1]
    assert live.stats().sinks["Spoiled"] == SinkStats(2, 0, "OSError: no room")


def test_sinks_of_one_kind_are_told_apart(model: Stub) -> None:
    with fe.stream(IMAGES[:1], model=model, sinks=(Kept(), Kept())) as live:
        list(live)
    assert set(live.stats().sinks) == {"Kept", "Kept 2"}


@pytest.mark.parametrize("bad", [[3], [Kept], ["out.jsonl"], [Kept().write]])
def test_what_is_no_sink_is_refused_before_anything_opens(bad: Any, model: Stub) -> None:
    with pytest.raises(TypeError, match=r"sinks must have write\(result, frame\) and close\(\)"):
        fe.stream(IMAGES, model=model, sinks=bad)


def test_sinks_are_closed_also_when_the_stream_never_starts_or_ends_badly(model: Stub) -> None:
    unused, dropped, raised = Kept(), Kept(), Kept()
    fe.stream(IMAGES, model=model, sinks=[unused]).close()
    live = fe.stream(IMAGES, model=model, sinks=[dropped])
    next(live)
    del live
    with pytest.raises(ZeroDivisionError):
        with fe.stream(IMAGES, model=model, sinks=[raised]) as live:
            next(live)
            raise ZeroDivisionError
    assert (unused.closed, dropped.closed, raised.closed) == (1, 1, 1)
    assert (unused.indexes, dropped.indexes, raised.indexes) == ([], [0], [0])


def test_a_sink_may_close_its_stream(model: Stub) -> None:
    class Enough(Kept):
        live: fe.Stream

        def write(self, result: Result, frame: Frame | None) -> None:
            super().write(result, frame)
            self.live.close()

    sink = Enough()
    live = sink.live = fe.stream(
        IMAGES[:8], model=model, sinks=[sink], on_state=lambda change: time.sleep(0.05)
    )
    assert len(list(live)) <= 8
    assert (sink.indexes[0], sink.closed) == (0, 1)
