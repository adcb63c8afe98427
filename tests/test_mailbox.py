from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetalclip_edge.errors import SourceError
from fetalclip_edge.mailbox import Mailbox, Silence
from fetalclip_edge.results import Frame

IMAGE = np.zeros((2, 2), dtype=np.uint8)


def frame(index: int) -> Frame:
    return Frame(IMAGE, "gray", index, 0, "test")


def take_index(mailbox: Mailbox) -> int | None:
    taken = mailbox.take()
    return None if taken is None else taken.index


@given(st.lists(st.sampled_from(["put", "take"]), max_size=60))
def test_latest_keeps_the_newest_and_counts_the_others(operations: list[str]) -> None:
    mailbox = Mailbox("latest")
    slot: int | None = None
    put = dropped = taken = 0
    for operation in operations:
        if operation == "put":
            assert mailbox.put(frame(put))
            dropped += slot is not None
            slot = put
            put += 1
        elif slot is not None:
            assert take_index(mailbox) == slot
            slot = None
            taken += 1
        assert mailbox.dropped == dropped
        assert put == taken + dropped + (slot is not None)


def test_all_gives_every_frame_in_order_to_a_slow_consumer() -> None:
    mailbox = Mailbox("all")

    def produce() -> None:
        for index in range(200):
            mailbox.put(frame(index))
        mailbox.end()

    producer = threading.Thread(target=produce)
    producer.start()
    taken = []
    while (index := take_index(mailbox)) is not None:
        taken.append(index)
    producer.join()
    assert taken == list(range(200))
    assert mailbox.dropped == 0


def test_all_makes_the_producer_wait_when_the_queue_is_full() -> None:
    mailbox = Mailbox("all")
    for index in range(4):
        mailbox.put(frame(index))
    went_on = threading.Event()

    def put_fifth() -> None:
        mailbox.put(frame(4))
        went_on.set()

    producer = threading.Thread(target=put_fifth)
    producer.start()
    assert not went_on.wait(0.05)
    assert take_index(mailbox) == 0
    assert went_on.wait(10)
    producer.join()
    assert [take_index(mailbox) for _ in range(4)] == [1, 2, 3, 4]


def test_a_frame_older_than_wanted_is_dropped_and_not_taken() -> None:
    mailbox = Mailbox("latest")
    mailbox.put(replace(frame(0), captured_ns=999))
    assert mailbox.take(0, 1000) == Silence(None)
    assert mailbox.dropped == 1
    mailbox.put(replace(frame(1), captured_ns=1000))
    taken = mailbox.take(0, 1000)
    assert isinstance(taken, Frame)
    assert (taken.index, mailbox.dropped) == (1, 1)


def test_behind_a_frame_that_is_too_old_is_what_became_of_its_source() -> None:
    mailbox = Mailbox("latest")
    mailbox.put(frame(0))
    mailbox.lose(lost := SourceError("unplugged"))
    assert mailbox.take(0, 1000) == Silence(lost)
    mailbox.put(frame(1))
    mailbox.end()
    assert mailbox.take(0, 1000) is None


@pytest.mark.parametrize("policy", ["latest", "all"])
def test_frames_before_the_end_are_still_taken(policy: str) -> None:
    mailbox = Mailbox(policy)  # type: ignore[arg-type]
    mailbox.put(frame(7))
    mailbox.end()
    assert take_index(mailbox) == 7
    assert mailbox.take() is None
    assert mailbox.take() is None


def test_a_failure_comes_once_and_after_the_frames_before_it() -> None:
    mailbox = Mailbox("all")
    mailbox.put(frame(0))
    mailbox.end(SourceError("unplugged"))
    assert take_index(mailbox) == 0
    with pytest.raises(SourceError, match="unplugged"):
        mailbox.take()
    assert mailbox.take() is None


def test_closing_ends_a_take_that_waits() -> None:
    mailbox = Mailbox("latest")
    taken: list[int | None] = []
    consumer = threading.Thread(target=lambda: taken.append(take_index(mailbox)))
    consumer.start()
    mailbox.close()
    consumer.join(10)
    assert taken == [None]


def test_closing_ends_a_put_that_waits() -> None:
    mailbox = Mailbox("all")
    for index in range(4):
        mailbox.put(frame(index))
    answers: list[bool] = []
    producer = threading.Thread(target=lambda: answers.append(mailbox.put(frame(4))))
    producer.start()
    mailbox.close()
    producer.join(10)
    assert answers == [False]


@pytest.mark.parametrize("policy", ["latest", "all"])
def test_a_closed_mailbox_takes_and_gives_nothing(policy: str) -> None:
    mailbox = Mailbox(policy)  # type: ignore[arg-type]
    mailbox.put(frame(0))
    assert not mailbox.closed
    mailbox.close()
    assert mailbox.closed
    assert mailbox.take() is None
    assert not mailbox.put(frame(1))
    assert mailbox.dropped == 0


def test_waiting_ends_with_the_time_or_with_close() -> None:
    mailbox = Mailbox("latest")
    assert not mailbox.wait_until_closed(0.001)
    mailbox.close()
    assert mailbox.wait_until_closed(3600)
