"""What a stream leaves behind when it ends, however it ends; and late results."""

from __future__ import annotations

import gc
import json
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fetalclip_edge as fe
from fetalclip_edge.demo import DEMO_CLIP
from fetalclip_edge.results import Frame, Result

from .live_model import LiveModel

Stub = Any


@pytest.fixture
def model() -> Stub:
    return LiveModel()


UNCLOSED = """
import sys, time
import numpy as np
import fetalclip_edge as fe
from tests.live_model import LiveModel

def device():
    while True:
        time.sleep(0.005)
        yield np.zeros((8, 8), np.uint8)

live = fe.stream(device(), model=LiveModel(), sinks=[fe.JsonlSink(sys.argv[1])])
for _ in range(20):
    next(live)
print("done", flush=True)
"""

UNCLOSED_LOOP = """
import asyncio, sys
""" + UNCLOSED.replace(
    "for _ in range(20):\n    next(live)",
    """
async def main():
    for _ in range(20):
        await live.__anext__()
    asyncio.ensure_future(live.__anext__())
    await asyncio.sleep(0)
asyncio.run(main())
""",
)


@pytest.mark.parametrize("code", [UNCLOSED, UNCLOSED_LOOP], ids=["thread", "event loop"])
def test_a_program_that_ends_without_closing_ends_at_once_and_loses_nothing(
    code: str, tmp_path: Path, repository: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "a.jsonl")],
        capture_output=True,
        text=True,
        cwd=repository,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame_index"] for line in lines][:20] == list(range(20))


ENDLESS_LOOP = (
    UNCLOSED.partition("live = ")[0]
    + """
import asyncio, threading

async def main():
    async with fe.stream(device(), model=LiveModel(), sinks=[fe.JsonlSink(sys.argv[1])]) as live:
        async for result in live:
            print("ready", flush=True)

try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("ended", *(t.name for t in threading.enumerate() if "fetalclip" in t.name))
"""
)


def test_ctrl_c_ends_a_stream_of_an_event_loop(tmp_path: Path, repository: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", ENDLESS_LOOP, str(tmp_path / "a.jsonl")]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
        cwd=repository,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    # No thread of ours is left, and no line was lost.
    assert (process.returncode, out.splitlines()[-1], err) == (0, "ended", "")
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert len(lines) >= 1 + out.count("ready")


def test_streams_leave_no_thread_and_no_handle(model: Stub, tmp_path: Path) -> None:
    def once() -> None:
        sinks = [
            fe.JsonlSink(tmp_path / "a.jsonl"),
            fe.VideoSink(tmp_path / "a.mkv"),
            fe.MetricsSink(port=0),
        ]
        with fe.stream(DEMO_CLIP, model=model, sinks=sinks) as live:
            for _ in zip(range(5), live, strict=False):
                pass

    once()
    gc.collect()
    threads, handles = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        once()
    gc.collect()
    assert (threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))) == (
        threads,
        handles,
    )


def test_pictures_are_let_go_when_the_stream_ends(model: Stub) -> None:
    pictures: list[weakref.ref[np.ndarray[Any, Any]]] = []

    def device() -> Any:
        for _ in range(8):  # as many as may wait for a sink: none is lost
            image = np.zeros((8, 8), np.uint8)
            pictures.append(weakref.ref(image))
            yield image

    seen: list[int] = []
    sink = fe.CallbackSink(lambda result, frame: seen.append(frame.index))
    live = fe.stream(device(), model=model, policy="all", sinks=[sink])
    for _ in live:
        assert live.frame is not None
    assert (seen, live.frame) == (list(range(8)), None)
    gc.collect()
    # The stream itself may be kept, for its numbers.
    assert live.stats().results == 8
    assert [picture for picture in pictures if picture() is not None] == []


def test_the_frame_of_the_last_result_is_at_hand(model: Stub) -> None:
    images = np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8)
    with fe.stream(images, model=model, region=(1, 1, 4, 4), pixel_size_mm=0.1) as live:
        assert live.frame is None
        for index, _ in enumerate(live):
            assert live.frame is not None
            np.testing.assert_array_equal(live.frame.image, images[index])
            assert (live.frame.region, live.frame.pixel_size_mm) == ((1, 1, 4, 4), 0.1)


# Late results


class Paced(fe.Source):
    """Frames that were captured as long ago as it is told, in milliseconds."""

    name = "paced"

    def __init__(self, ages_ms: list[float], rate: float | None, live: bool = True) -> None:
        self.live, self.frame_rate = live, rate
        self._ages_ms = iter(ages_ms)

    def open(self) -> None: ...

    def read(self) -> Frame | None:
        age_ms = next(self._ages_ms, None)
        if age_ms is None:
            return None
        captured_ns = time.monotonic_ns() - round(age_ms * 1e6)
        return Frame(np.zeros((4, 4), np.uint8), "gray", 0, captured_ns, self.name)

    def close(self) -> None: ...


AGES_MS = [0.0, 1e6, 0.0, 2e6, 3e6]
"""Of which two are in time by any clock, however slow the machine."""


@pytest.mark.parametrize(
    ("rate", "live", "policy", "deadline_ms", "expected"),
    [
        (0.01, True, "all", None, (100_000, 3)),  # one frame time of a live source
        (0.01, False, "all", None, (None, 0)),  # a recording that waits has none
        (None, True, "all", None, (None, 0)),
        (0.0, True, "all", None, (None, 0)),  # as cameras say that do not know
        (0.01, True, "all", 1_500_000.0, (1_500_000, 2)),
        (None, False, "all", 1_500_000, (1_500_000, 2)),
    ],
)
def test_late_results_are_counted(
    rate: float | None,
    live: bool,
    policy: Any,
    deadline_ms: float | None,
    expected: tuple[float | None, int],
    model: Stub,
) -> None:
    source = Paced(AGES_MS, rate, live)
    with fe.stream(source, model=model, policy=policy, deadline_ms=deadline_ms) as stream:
        assert len(list(stream)) == 5
    stats = stream.stats()
    assert (stats.deadline_ms, stats.deadline_misses) == expected
    # No percentile is clipped at it.
    assert stats.latency_ms["capture_to_result"].max >= 3e6


@pytest.mark.parametrize("deadline_ms", [0.0, -1.0, float("nan"), float("inf")])
def test_a_deadline_that_cannot_be_is_refused(deadline_ms: float, model: Stub) -> None:
    with pytest.raises(ValueError, match="deadline_ms must be a positive number"):
        fe.stream([], model=model, deadline_ms=deadline_ms)


def test_a_callback_that_raises_on_a_change_still_closes_the_sinks(model: Stub) -> None:
    closed: list[bool] = []

    class Noted(fe.CallbackSink):
        def close(self) -> None:
            closed.append(True)

    def fail(change: fe.StateChange) -> None:
        raise ZeroDivisionError

    seen: list[Result] = []
    sink = Noted(lambda result, frame: seen.append(result))
    images = np.zeros((3, 8, 8), np.uint8)
    with pytest.raises(ZeroDivisionError):
        next(fe.stream(images, model=model, on_state=fail, sinks=[sink]))
    assert (closed, len(seen)) == ([True], 1)
