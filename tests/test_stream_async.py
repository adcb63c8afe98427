"""Streams in an event loop."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

import fetalclip_edge as fe
from fetalclip_edge.errors import BackendError, SourceError
from fetalclip_edge.results import Frame, Result

from .live_model import LiveModel

WAIT = 10.0
IMAGES = np.zeros((20, 8, 8), dtype=np.uint8)

Stub = Any


class Threads(LiveModel):
    """Notes the threads that ask it, and does something first."""

    def __init__(self, before: Callable[[Frame], object] = lambda frame: None) -> None:
        self.threads: list[str] = []
        self._before = before

    def analyze_frame(self, frame: Frame) -> Result:
        self.threads.append(threading.current_thread().name)
        self._before(frame)
        return super().analyze_frame(frame)


class Gated(fe.Source):
    """A camera whose frames come when they are let through."""

    name, live = "gated", True

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.events: list[str] = []
        self._index = -1

    def open(self) -> None:
        self.events.append("open")

    def read(self) -> Frame | None:
        while not self.gate.acquire(timeout=0.01):
            if self.events[-1] == "enough":
                return None
        self._index += 1
        return Frame(IMAGES[0], "gray", self._index, time.monotonic_ns(), self.name)

    def close(self) -> None:
        self.events.append("close")


@pytest.fixture
def model() -> Stub:
    return Threads()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterable[None]:
    yield
    gc.collect()
    assert [t.name for t in threading.enumerate() if "fetalclip-edge" in t.name] == []


def test_every_result_comes_in_order_from_one_thread(model: Stub) -> None:
    async def main() -> list[int | None]:
        async with fe.stream(IMAGES, model=model) as live:
            return [result.frame_index async for result in live]

    assert asyncio.run(main()) == list(range(20))
    assert len(model.threads) == 20
    [name] = set(model.threads)
    assert name.startswith("fetalclip-edge async")


def test_without_with_it_ends_by_itself(model: Stub) -> None:
    async def main() -> list[int | None]:
        live = fe.stream(IMAGES, model=model)
        first = [result.frame_index async for result in live]
        return first + [result.frame_index async for result in live]

    assert asyncio.run(main()) == list(range(20))


def test_the_loop_goes_on_while_a_frame_is_waited_for_and_answered() -> None:
    source = Gated()

    async def main() -> Result:
        loop = asyncio.get_running_loop()
        asked, answered = asyncio.Event(), threading.Event()

        def slow(frame: Frame) -> None:
            loop.call_soon_threadsafe(asked.set)
            assert answered.wait(WAIT)

        async with fe.stream(source, model=Threads(slow)) as live:  # type: ignore[arg-type]
            waiting = asyncio.ensure_future(anext_of(live))
            await asyncio.sleep(0.02)
            assert not waiting.done()
            source.gate.release()
            # The model stands still until this very loop lets it go on.
            await asyncio.wait_for(asked.wait(), WAIT)
            answered.set()
            result = await waiting
            source.events.append("enough")
        return result

    assert asyncio.run(main()).frame_index == 0


async def anext_of(live: fe.Stream) -> Result:
    return await live.__anext__()


def test_a_wait_that_is_cancelled_loses_no_result(model: Stub) -> None:
    source = Gated()

    async def main() -> list[int | None]:
        async with fe.stream(source, model=model, policy="all") as live:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext_of(live), 0.02)
            source.gate.release(3)
            found = [(await anext_of(live)).frame_index for _ in range(3)]
            source.events.append("enough")
            return found

    assert asyncio.run(main()) == [0, 1, 2]


def test_a_cancelled_task_leaves_nothing_open(model: Stub) -> None:
    source = Gated()

    async def consume() -> None:
        async with fe.stream(source, model=model) as live:
            async for _ in live:
                pass

    async def main() -> None:
        task = asyncio.ensure_future(consume())
        source.gate.release(2)
        while not model.threads:
            await asyncio.sleep(0.001)
        source.events.append("enough")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert source.events[-1] == "close"


def test_what_goes_wrong_is_raised_where_it_is_awaited() -> None:
    def fail(frame: Frame) -> None:
        raise BackendError("out of memory")

    class Missing(Gated):
        def open(self) -> None:
            raise SourceError("no camera")

    async def answer() -> None:
        async with fe.stream(IMAGES, model=Threads(fail)) as live:  # type: ignore[arg-type]
            async for _ in live:
                pass

    async def enter() -> None:
        async with fe.stream(Missing(), model=Threads()):  # type: ignore[arg-type]
            pass

    with pytest.raises(BackendError, match="out of memory"):
        asyncio.run(answer())
    with pytest.raises(SourceError, match="no camera"):
        asyncio.run(enter())


def test_one_task_at_a_time_may_wait(model: Stub) -> None:
    source = Gated()

    async def main() -> None:
        async with fe.stream(source, model=model) as live:
            first = asyncio.ensure_future(anext_of(live))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another task"):
                await anext_of(live)
            source.gate.release()
            assert (await first).frame_index == 0
            source.events.append("enough")

    asyncio.run(main())


def test_two_streams_run_side_by_side_in_one_loop(model: Stub) -> None:
    async def count() -> int:
        async with fe.stream(IMAGES, model=model) as live:
            return len([result async for result in live])

    async def main() -> list[int]:
        return await asyncio.gather(count(), count(), count())

    assert asyncio.run(main()) == [20, 20, 20]


def test_a_stream_that_a_loop_drops_lets_go_of_its_source(model: Stub) -> None:
    source = Gated()

    async def main() -> None:
        live = fe.stream(source, model=model)
        source.gate.release()
        assert (await anext_of(live)).frame_index == 0
        source.events.append("enough")

    asyncio.run(main())
    gc.collect()
    assert source.events[-1] == "close"
