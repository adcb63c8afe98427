"""A live source that is slow, lost and found again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import fetalclip_edge as fe
from fetalclip_edge.backoff import Backoff
from fetalclip_edge.errors import SourceError
from fetalclip_edge.mailbox import Silence
from fetalclip_edge.results import Frame, PlaneScores, Result, StreamState
from fetalclip_edge.silence import answer_to_silence
from fetalclip_edge.sources import (
    CameraSource,
    CsiSource,
    GStreamerSource,
    OpenIGTLinkSource,
    Source,
    VideoSource,
)
from fetalclip_edge.stream import StateChange

from .live_model import LiveModel

WAIT = 10.0
IMAGE = np.zeros((8, 8), dtype=np.uint8)
SOON = Backoff(0.01, 0.02)


class Device(Source):
    """A live device that plays one list of events each time it is opened.

    An event is a number of frames, an error to raise, or an `Event` to wait for.
    """

    name = "device"
    live = True

    def __init__(self, sessions: list[list[Any]]) -> None:
        self._sessions = sessions
        self._events: Iterable[Any] = iter(())
        self._index = -1
        self.closed = threading.Event()
        self.opened: list[Device] = []

    def renew(self) -> Device:
        again = Device(self._sessions)
        again.opened = self.opened
        return again

    def open(self) -> None:
        self.opened.append(self)
        session = self._sessions.pop(0)
        if isinstance(session[0], SourceError):
            raise session[0]
        self._events = iter([e for item in session for e in _spread(item)])

    def read(self) -> Frame | None:
        event = next(iter(self._events), None)
        if isinstance(event, threading.Event):
            assert event.wait(WAIT)
            event = next(iter(self._events), None)
        if isinstance(event, Exception):
            raise event
        if event is None:
            return None
        self._index += 1
        return Frame(IMAGE, "gray", self._index, time.monotonic_ns(), self.name)

    def close(self) -> None:
        self.closed.set()


def _spread(item: Any) -> list[Any]:
    return ["frame"] * item if isinstance(item, int) else [item]


def run(
    sessions: list[list[Any]], **options: Any
) -> tuple[list[Result], fe.StreamStats, list[StateChange], Device]:
    changes: list[StateChange] = []
    device = Device(sessions)
    stream = fe.stream(
        device,
        model=LiveModel(),  # type: ignore[arg-type]
        policy="all",
        **{"reconnect": SOON, "max_staleness": 5.0, "on_state": changes.append, **options},
    )
    with stream as live:
        results = list(live)
    return results, live.stats(), changes, device


def test_a_lost_source_is_opened_again_and_the_results_say_so() -> None:
    # Given a device that breaks off, is away twice, and comes back
    results, stats, changes, device = run(
        [[3, SourceError("unplugged")], [SourceError("away")], [SourceError("away")], [2]]
    )
    live = [r for r in results if r.state == StreamState.LIVE]
    silent = [r for r in results if r.state == StreamState.NO_SIGNAL]
    # Then frames count on, and tell how often the source was lost before
    assert [(r.frame_index, r.epoch) for r in live] == [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1)]
    assert (stats.frames, stats.reconnects) == (5, 1)
    # And what lies between says why there is no answer, and gives none
    assert silent
    assert {r.reason for r in silent} <= {
        "looking for the source again: unplugged",
        "looking for the source again: away",
    }
    for result in silent:
        assert (result.plane.label, result.frame_index, result.brain_plane) == ("other", None, None)
        assert result.plane.scores == pytest.approx(dict.fromkeys(result.plane.scores, 1 / 6))
        assert result.embedding.shape == (0,)
    # And each change of state was told once
    told = [(c.previous and str(c.previous), str(c.result.state)) for c in changes]
    assert told == [(None, "live"), ("live", "no_signal"), ("no_signal", "live")]
    # And no opened source was left open
    assert len(device.opened) == 4
    assert all(each.closed.is_set() for each in device.opened)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ("{}: broke off: timed out", "broke off: timed out"),
        ("3 frames in a row unreadable: {}: frame 7 is damaged", "frame 7 is damaged"),
        ("cannot reach {}", "cannot reach the source"),
    ],
)
def test_the_reason_for_silence_does_not_name_the_source(error: str, cause: str) -> None:
    # Given an address with a patient's name in it, as its own errors begin with it
    name = "rtsp://***@10.0.0.7/ward3/Doe_Jane"
    lost = Silence(SourceError(error.format(name)))
    # When
    silent = answer_to_silence(lost, name, 1.0)
    # Then
    assert silent.source == name
    assert silent.reason is not None
    assert silent.reason.startswith("looking for the source again: ")
    assert silent.reason.endswith(cause)
    assert "Doe" not in silent.reason


def test_a_short_name_is_not_taken_out_of_other_words() -> None:
    lost = Silence(SourceError("0: no picture came for 0 or 10 s"))
    silent = answer_to_silence(lost, "0", 1.0)
    assert silent.reason == ("looking for the source again: no picture came for the source or 10 s")


def test_a_source_that_gives_nothing_is_stale_until_it_gives_something() -> None:
    go_on = threading.Event()
    device = Device([[1, go_on, 1]])
    with fe.stream(device, model=LiveModel(), max_staleness=0.4) as live:  # type: ignore[arg-type]
        states = [next(live).state, next(live).state]
        again = next(live)
        go_on.set()
        while (result := next(live)).state == StreamState.STALE:
            pass
    assert states == [StreamState.LIVE, StreamState.STALE]
    assert again.state == StreamState.STALE
    assert again.reason == "no new picture for 0.4 s"
    assert (result.state, result.frame_index) == (StreamState.LIVE, 1)


def test_a_picture_that_grew_old_while_the_consumer_was_away_is_not_answered() -> None:
    # Given a device that hangs after its third picture, a second ago, and a late consumer
    go_on, hung = threading.Event(), threading.Event()

    class Hanging(Device):
        def read(self) -> Frame | None:
            if self._index == 2:
                hung.set()
            frame = super().read()
            early = frame is not None and frame.index < 3
            return replace(frame, captured_ns=frame.captured_ns - 10**9) if early else frame

    device = Hanging([[3, go_on, 1]])
    with fe.stream(device, model=LiveModel(), max_staleness=0.4) as live:  # type: ignore[arg-type]
        assert hung.wait(WAIT)
        late = next(live)
        go_on.set()
        while (again := next(live)).state == StreamState.STALE:
            pass
    # Then it is told that nothing new has come, and counted
    assert (late.state, late.frame_index, late.dropped) == (StreamState.STALE, None, 3)
    assert late.embedding.size == 0
    assert (again.state, again.frame_index) == (StreamState.LIVE, 3)


def test_a_recording_is_never_stale() -> None:
    go_on = threading.Event()
    device = Device([[1, go_on, 1]])
    device.live = False
    with fe.stream(device, model=LiveModel(), max_staleness=0.05) as live:  # type: ignore[arg-type]
        assert next(live).state == StreamState.LIVE
        threading.Timer(0.2, go_on.set).start()
        assert [r.state for r in live] == [StreamState.LIVE]


@pytest.mark.parametrize("reason", ["told so", "not live", "not renewable"])
def test_without_reconnecting_the_error_ends_the_stream(reason: str) -> None:
    class Once(Device):
        renew = Source.renew  # type: ignore[assignment]

    device = (Once if reason == "not renewable" else Device)([[2, SourceError("unplugged")], [2]])
    device.live = reason != "not live"
    reconnect = None if reason == "told so" else SOON
    results = []
    with pytest.raises(SourceError, match="unplugged"):
        with fe.stream(device, model=LiveModel(), policy="all", reconnect=reconnect) as live:  # type: ignore[arg-type]
            results.extend(live)
    assert [r.frame_index for r in results] == [0, 1]


def test_the_first_opening_is_tried_once() -> None:
    device = Device([[SourceError("away")], [1]])
    with pytest.raises(SourceError, match="away"):
        with fe.stream(device, model=LiveModel(), reconnect=SOON):  # type: ignore[arg-type]
            pass
    assert len(device.opened) == 1


def test_closing_while_a_source_is_looked_for_ends_at_once() -> None:
    device = Device([[1, SourceError("unplugged")], *([[SourceError("away")]] * 5)])
    slow = Backoff(60, 60)
    with fe.stream(device, model=LiveModel(), reconnect=slow, max_staleness=5) as live:  # type: ignore[arg-type]
        states = [next(live).state, next(live).state]
    assert states == [StreamState.LIVE, StreamState.NO_SIGNAL]
    assert len(device.opened) == 1
    assert not any("fetalclip-edge" in thread.name for thread in threading.enumerate())


def test_another_error_than_the_sources_ends_the_stream() -> None:
    with pytest.raises(ZeroDivisionError):
        run([[1, ZeroDivisionError()], [1]])


def test_an_answer_is_not_averaged_with_those_before_the_break() -> None:
    class Moody(LiveModel):
        def analyze_frame(self, frame: Frame) -> Result:
            brain = 1.0 if frame.epoch == 0 else 0.0
            scores = {"brain": brain, "femur": 1 - brain, "other": 0.0}
            answer = super().analyze_frame(frame)
            return replace(answer, plane=PlaneScores("x", 1, scores), domain_distance=0.5)

    device = Device([[3, SourceError("unplugged")], [1]])
    with fe.stream(device, model=Moody(), policy="all", reconnect=SOON) as live:  # type: ignore[arg-type]
        results = [r for r in live if r.state == StreamState.LIVE]
    assert [r.plane.scores["brain"] for r in results] == [1, 1, 1, 0]


def test_what_on_state_raises_ends_the_stream() -> None:
    def refuse(change: StateChange) -> None:
        raise LookupError("no screen")

    with pytest.raises(LookupError, match="no screen"):
        run([[5]], on_state=refuse)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_staleness": 0.0}, ValueError),
        ({"max_staleness": float("inf")}, ValueError),
        ({"reconnect": 3}, TypeError),
        ({"on_state": "print"}, TypeError),
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, Any], error: type[Exception]) -> None:
    [name] = options
    with pytest.raises(error, match=name):
        fe.stream(IMAGE, model=LiveModel(), **options)  # type: ignore[arg-type]


def test_waits_double_up_to_the_longest() -> None:
    waits = Backoff(0.5, 3).waits()
    assert [next(waits) for _ in range(5)] == [0.5, 1, 2, 3, 3]


@pytest.mark.parametrize("values", [(0, 1), (2, 1), (1, float("inf")), (float("nan"), 1)])
def test_a_back_off_needs_a_first_and_a_longest_wait(values: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="back-off"):
        Backoff(*values)


@pytest.mark.parametrize(
    "make",
    [
        lambda: VideoSource("rtsp://user:secret@host/stream", read_timeout_s=1.5),
        lambda: CameraSource(3),
        lambda: GStreamerSource("videotestsrc ! appsink"),
        lambda: CsiSource(1, read_timeout_s=1.5),
        lambda: OpenIGTLinkSource("igtl://host/device", read_timeout_s=1.5),
    ],
    ids=["url", "camera", "pipeline", "csi", "igtl"],
)
def test_a_device_is_renewed_as_it_was(make: Callable[[], Source]) -> None:
    source = make()
    again = source.renew()
    assert again is not None
    assert again is not source
    assert (type(again), again.name, again.live) == (type(source), source.name, True)
    unlike = ("_handle",)
    assert {k: v for k, v in vars(again).items() if k not in unlike} == {
        k: v for k, v in vars(source).items() if k not in unlike
    }


def test_a_file_is_not_renewed() -> None:
    assert VideoSource("clip.mp4").renew() is None
