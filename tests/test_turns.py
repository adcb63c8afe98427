from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fetalclip_edge as fe
from fetalclip_edge.results import Frame, Result
from fetalclip_edge.turns import Turns, turns_at_once

from .live_model import LiveModel

WAIT = 10.0


def queued(turns: Turns, count: int) -> None:
    """Wait until so many wait for their turn."""
    for _ in range(int(WAIT / 0.001)):
        if len(turns._waiting) == count:
            return
        threading.Event().wait(0.001)
    raise AssertionError(f"{len(turns._waiting)} wait, not {count}")


def enter(turns: Turns, work: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        with turns:
            work()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_who_waits_is_let_in_in_the_order_of_arrival() -> None:
    turns, order = Turns(1), list[int]()
    with turns:
        threads = []
        for number in range(5):
            threads.append(enter(turns, lambda number=number: order.append(number)))
            queued(turns, number + 1)
    for thread in threads:
        thread.join(WAIT)
    assert order == [0, 1, 2, 3, 4]


def test_who_comes_back_at_once_queues_behind_who_waits() -> None:
    turns, order = Turns(1), list[str]()
    with turns:
        other = enter(turns, lambda: order.append("other"))
        queued(turns, 1)
    with turns:
        order.append("again")
    other.join(WAIT)
    assert order == ["other", "again"]


def test_as_many_are_in_at_once_as_were_asked_for() -> None:
    turns, both_in = Turns(2), threading.Barrier(2)
    threads = [enter(turns, lambda: both_in.wait(WAIT)) for _ in range(2)]
    for thread in threads:
        thread.join(WAIT)
    assert not both_in.broken
    with turns, turns:
        third = enter(turns, lambda: None)
        queued(turns, 1)
    third.join(WAIT)
    assert not third.is_alive()


def test_who_is_interrupted_while_waiting_gives_the_turn_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise KeyboardInterrupt

    turns = Turns(1)
    with turns:
        with monkeypatch.context() as patch:
            patch.setattr("fetalclip_edge.turns.threading.Event", Interrupted)
            with pytest.raises(KeyboardInterrupt):
                turns.__enter__()
        assert len(turns._waiting) == 0
    with turns:  # and it is free again
        pass


def test_none_at_once_is_refused_and_a_machine_has_one_at_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Turns(0)
    monkeypatch.setattr("fetalclip_edge.turns.os.cpu_count", lambda: 4)
    assert [turns_at_once(threads) for threads in (1, 2, 3, 4, 8)] == [4, 2, 1, 1, 1]


class Counting(LiveModel):
    """Has turns, one at a time, and notes whom it answered and how many were in."""

    def __init__(self) -> None:
        self.turns = Turns(1)
        self.answered: list[str] = []
        self.inside = self.most = 0

    def analyze_frame(self, frame: Frame) -> Result:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.answered.append(frame.source)
        threading.Event().wait(0.001)
        self.inside -= 1
        return super().analyze_frame(frame)


@pytest.mark.parametrize("count", [2, 4])
def test_streams_that_hurry_get_as_many_turns_as_each_other(count: int) -> None:
    # Given streams that all have frames at any time, and a model that answers one at a time
    model = Counting()
    images = np.zeros((200, 4, 4), dtype=np.uint8)
    enough = threading.Event()

    class Named(fe.Source):
        def __init__(self, name: str) -> None:
            self.name = name

        def open(self) -> None: ...

        def read(self) -> Frame | None:
            return Frame(images[0], "gray", 0, 1, self.name)

        def close(self) -> None: ...

    begun = threading.Barrier(count)

    def consume(name: str) -> None:
        with fe.stream(Named(name), model=model) as live:  # type: ignore[arg-type]
            begun.wait(WAIT)
            for _ in live:
                if enough.is_set():
                    return
                if len(model.answered) >= 40 * count:
                    enough.set()

    threads = [threading.Thread(target=consume, args=(f"s{n}",)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert model.most == 1
    answers = Counter(model.answered[: 40 * count])
    assert set(answers) == {f"s{n}" for n in range(count)}
    # Of forty rounds each stream has had most: a busy machine may make one late with its frame.
    assert min(answers.values()) >= 20


def test_streams_of_one_shared_model_answer_as_it_does_alone(
    clip_images: list[np.ndarray[Any, Any]],
) -> None:
    # Given four streams in four threads on the shipped model, each with pictures of its own
    model = fe.load()
    parts = [np.stack(clip_images[start : start + 4]) for start in (0, 100, 150, 200)]
    expected = [model.embed(part) for part in parts]
    found: dict[int, list[np.ndarray[Any, Any]]] = {}

    def consume(number: int) -> None:
        with fe.stream(parts[number], model=model) as live:
            found[number] = [result.embedding.copy() for result in live]

    threads = [threading.Thread(target=consume, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number, alone in enumerate(expected):
        np.testing.assert_allclose(np.stack(found[number]), alone, atol=1e-3)


def test_a_frame_is_taken_in_turn_and_so_is_the_newest() -> None:
    model, read, go_on = Counting(), threading.Event(), threading.Semaphore(0)

    class Camera(fe.Source):
        name, live = "camera", True
        index = -1

        def open(self) -> None: ...

        def read(self) -> Frame | None:
            self.index += 1
            if self.index == 4:
                read.set()
                assert go_on.acquire(timeout=WAIT)
                return None
            image = np.zeros((4, 4), np.uint8)
            return Frame(image, "gray", self.index, time.monotonic_ns(), self.name)

        def close(self) -> None: ...

    taken: list[Result] = []
    with model.turns:  # another stream has the turn
        with fe.stream(Camera(), model=model) as live:  # type: ignore[arg-type]
            consumer = threading.Thread(target=lambda: taken.append(next(live)))
            consumer.start()
            queued(model.turns, 1)
            assert read.wait(WAIT)
            model.turns.__exit__(None, None, None)
            consumer.join(WAIT)
            go_on.release()
        model.turns.__enter__()
    assert [result.frame_index for result in taken] == [3]
