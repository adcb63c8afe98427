"""Live streams from real servers that are paused, killed, started again, slow, or send rubbish.

Levels of grey tell which picture an answer is for; see faulty/server.py.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import numpy as np
import pytest

import fetalclip_edge as fe
from fetalclip_edge.results import Frame, Result, StreamState
from fetalclip_edge.sources import OpenIGTLinkSource, Source, VideoSource

from .live_model import LiveModel

SERVER = Path(__file__).parent / "faulty" / "server.py"
ADDRESSES = {
    "mjpeg": "http://ada:lovelace@127.0.0.1:{}/live",
    "rtsp": "rtsp://ada:lovelace@127.0.0.1:{}/live",
    "igtl": "igtl://127.0.0.1:{}/Image",
}
FIRST, SECOND = 60, 200
SOON = fe.Backoff(0.1, 0.2)
WAIT = 60.0
"""Seconds after which a test gives up, on the busiest machine."""


class SeeingModel(LiveModel):
    """Answers with the level and the size of the picture it was given."""

    def analyze_frame(self, frame: Frame) -> Result:
        height, width = frame.image.shape[:2]
        seen = np.array([frame.image.mean(), height, width], dtype=np.float32)
        return replace(super().analyze_frame(frame), embedding=seen)


def level(result: Result) -> float:
    return float(result.embedding[0])


class Server:
    """The server as a process that may be killed and started again at the same port."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.start(FIRST)

    def start(self, level: int) -> None:
        command = [sys.executable, str(SERVER), self.kind, str(self.port), str(level)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._pipe(self.process.stdout).readline() == "ready\n"

    def tell(self, trick: str, level: int) -> None:
        print(trick, level, file=self._pipe(self.process.stdin), flush=True)

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._pipe(self.process.stdin).close()
        self._pipe(self.process.stdout).close()

    def connect(self, read_timeout_s: float = 20.0) -> Live:
        address = ADDRESSES[self.kind].format(self.port)
        kind = OpenIGTLinkSource if self.kind == "igtl" else VideoSource
        return Live(kind(address, read_timeout_s=read_timeout_s))

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


@dataclass
class Live:
    """A stream of a source, with what is true of every answer of every stream checked."""

    source: Source
    levels: list[int] = field(default_factory=lambda: [FIRST])
    attempts: list[float] = field(default_factory=list)
    last_index: int = -1

    @contextmanager
    def stream(self) -> Iterator[Live]:
        opening = type(self.source).open

        def open_and_tell(source: Source) -> None:
            self.attempts.append(time.monotonic())
            opening(source)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(self.source), "open", open_and_tell)
            with fe.stream(
                self.source,
                model=SeeingModel(),  # type: ignore[arg-type]
                max_staleness=0.2,
                reconnect=SOON,
            ) as self.results:
                yield self

    def until(self, state: StreamState, level_: int | None = None) -> Result:
        """The first result in that state, of a picture of that level."""
        deadline = time.monotonic() + WAIT
        for result in self.results:
            if result.state == StreamState.LIVE:
                # Each picture once, and none of them damaged
                assert result.frame_index is not None
                assert result.frame_index > self.last_index
                self.last_index = result.frame_index
                assert min(abs(level(result) - each) for each in self.levels) < 8
            else:
                assert result.embedding.size == 0
                assert result.frame_index is None
            if result.state == state and (level_ is None or abs(level(result) - level_) < 8):
                return result
            assert time.monotonic() < deadline, f"still {result.state}, not {state}"
        raise AssertionError("the stream ended")

    def attempts_since(self, moment: float) -> int:
        return sum(attempt > moment for attempt in self.attempts)


def held() -> tuple[int, int]:
    """Open files, and threads of the system."""
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))  # noqa: PTH208


@pytest.fixture(params=ADDRESSES)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(request.param)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def warmed() -> set[str]:
    """Kinds of which a stream was read: libraries start threads and open files once, and keep
    them."""
    return set()


@pytest.fixture(autouse=True)
def nothing_is_left(server: Server, warmed: set[str]) -> Iterator[None]:
    if server.kind not in warmed:
        with server.connect().stream() as live:
            live.until(StreamState.LIVE)
        warmed.add(server.kind)
    files, threads = held()
    yield
    deadline = time.monotonic() + WAIT
    # A thread of the system ends a moment after it is joined.
    while held()[1] > threads and time.monotonic() < deadline:
        time.sleep(0.02)
    assert held()[0] == files
    assert held()[1] <= threads
    assert not [each.name for each in threading.enumerate() if "fetalclip-edge" in each.name]


def test_a_server_that_is_killed_is_no_signal_until_it_is_back(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with server.connect().stream() as live:
        assert live.until(StreamState.LIVE).epoch == 0
        server.kill()
        lost = live.until(StreamState.NO_SIGNAL)
        assert "looking for the source again" in str(lost.reason)
        # When it is back
        live.levels = [SECOND]
        server.start(SECOND)
        ready = time.monotonic()
        # Then nothing of before is answered, and it did not take more than two attempts
        assert live.until(StreamState.LIVE).epoch == 1
        assert live.attempts_since(ready) <= 2
    assert live.results.stats().reconnects == 1
    assert "lovelace" not in caplog.text + str(lost)


def test_a_server_that_stops_sending_is_stale_and_live_again_when_it_goes_on(
    server: Server,
) -> None:
    with server.connect().stream() as live:
        live.until(StreamState.LIVE)
        server.send(signal.SIGSTOP)
        live.until(StreamState.STALE)
        server.send(signal.SIGCONT)
        assert live.until(StreamState.LIVE).epoch == 0


def test_a_server_that_hangs_for_longer_is_lost_and_looked_for(server: Server) -> None:
    with server.connect(read_timeout_s=0.5).stream() as live:
        live.until(StreamState.LIVE)
        server.send(signal.SIGSTOP)
        lost = live.until(StreamState.NO_SIGNAL)
        assert "no picture came for 0.5 s" in str(lost.reason)
        server.send(signal.SIGCONT)
        goes_on = time.monotonic()
        assert live.until(StreamState.LIVE).epoch >= 1
        assert live.attempts_since(goes_on) <= 2


def test_a_slow_server_is_live_and_stale_in_turns_and_not_lost(server: Server) -> None:
    with server.connect().stream() as live:
        live.until(StreamState.LIVE)
        live.levels.append(SECOND)
        server.tell("slow", SECOND)
        for state in (StreamState.LIVE, StreamState.STALE, StreamState.LIVE):
            assert live.until(state, SECOND if state == StreamState.LIVE else None).epoch == 0


def test_another_resolution_is_answered_in_the_same_epoch(server: Server) -> None:
    with server.connect().stream() as live:
        assert live.until(StreamState.LIVE).embedding[1:].tolist() == [48, 64]
        live.levels.append(SECOND)
        server.tell("resize", SECOND)
        changed = live.until(StreamState.LIVE, SECOND)
    assert changed.embedding[1:].tolist() == [64, 96]
    assert changed.epoch == 0


@pytest.mark.parametrize("trick", ["garbage", "truncate"])
def test_rubbish_gives_no_answer_and_is_got_over(server: Server, trick: str) -> None:
    with server.connect(read_timeout_s=1.0).stream() as live:
        live.until(StreamState.LIVE)
        for level_ in (SECOND, 100):
            live.levels.append(level_)
            server.tell(trick, level_)
            live.until(StreamState.LIVE, level_)
        told = time.monotonic()
        # The picture after the rubbish, too
        server.tell("calm", FIRST)
        live.until(StreamState.LIVE, FIRST)
        assert live.attempts_since(told) <= 2
