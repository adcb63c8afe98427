"""A live stream from a real server that is paused, killed and started again."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import fetalclip_edge as fe
from fetalclip_edge.results import Result, StreamState
from fetalclip_edge.sources import VideoSource

from .live_model import LiveModel

SERVER = Path(__file__).with_name("mjpeg_server.py")
WAIT = 60.0
"""Seconds after which a test gives up, on the busiest machine."""


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
        return number


@contextmanager
def server(port: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(SERVER), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def until(live: fe.Stream, state: StreamState) -> Result:
    """The first result in that state."""
    deadline = time.monotonic() + WAIT
    for result in live:
        if result.state == state:
            return result
        assert time.monotonic() < deadline, f"still {result.state}, not {state}"
    raise AssertionError("the stream ended")


def connect(port: int) -> fe.Stream:
    address = f"http://ada:lovelace@127.0.0.1:{port}/live"
    return fe.stream(
        VideoSource(address, read_timeout_s=2.0),
        model=LiveModel(),  # type: ignore[arg-type]
        max_staleness=0.5,
        reconnect=fe.Backoff(0.1, 0.2),
    )


def test_a_server_that_is_killed_is_no_signal_until_it_is_back(port: int) -> None:
    with server(port) as process, connect(port) as live:
        assert until(live, StreamState.LIVE).epoch == 0
        process.send_signal(signal.SIGKILL)
        lost = until(live, StreamState.NO_SIGNAL)
        assert lost.reason is not None
        assert "lovelace" not in lost.reason
        with server(port):
            back = until(live, StreamState.LIVE)
            assert back.epoch == 1
            assert back.frame_index is not None
    assert live.stats().reconnects == 1


def test_a_server_that_stops_sending_is_stale_and_live_again_when_it_goes_on(port: int) -> None:
    with server(port) as process, connect(port) as live:
        until(live, StreamState.LIVE)
        process.send_signal(signal.SIGSTOP)
        assert until(live, StreamState.STALE).embedding.size == 0
        process.send_signal(signal.SIGCONT)
        assert until(live, StreamState.LIVE).embedding.size == 4


def test_a_server_that_hangs_for_longer_is_lost_and_looked_for(port: int) -> None:
    with server(port) as process, connect(port) as live:
        until(live, StreamState.LIVE)
        process.send_signal(signal.SIGSTOP)
        lost = until(live, StreamState.NO_SIGNAL)
        assert "no picture came for 2 s" in str(lost.reason)
        process.send_signal(signal.SIGCONT)
        assert until(live, StreamState.LIVE).epoch == 1
