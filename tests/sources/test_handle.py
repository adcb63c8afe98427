"""Closing from one thread while another reads."""

from __future__ import annotations

import threading

import pytest

from fetalclip_edge.errors import SourceError
from fetalclip_edge.sources._handle import Handle


def test_given_a_read_under_way_when_closed_then_the_reader_releases():
    released_by: list[int] = []
    reading, go_on = threading.Event(), threading.Event()
    handle: Handle[str] = Handle("device")
    handle.open(lambda: ("value", lambda: released_by.append(threading.get_ident())))

    def read() -> None:
        with handle.borrow():
            reading.set()
            assert go_on.wait(10)

    thread = threading.Thread(target=read)
    thread.start()
    assert reading.wait(10)
    handle.close()
    assert released_by == []
    go_on.set()
    thread.join(10)
    assert released_by == [thread.ident]


def test_given_nobody_reading_when_closed_twice_then_it_is_released_once():
    released: list[str] = []
    handle: Handle[str] = Handle("device")
    handle.open(lambda: ("value", lambda: released.append("now")))
    handle.close()
    handle.close()
    assert released == ["now"]


def test_given_a_close_while_opening_then_the_value_is_released_and_open_fails():
    released: list[str] = []
    handle: Handle[str] = Handle("device")

    def make():
        handle.close()
        return "value", lambda: released.append("now")

    with pytest.raises(SourceError, match="closed while"):
        handle.open(make)
    assert released == ["now"]
    with handle.borrow() as value:
        assert value is None


def test_given_a_failed_read_then_the_handle_still_closes():
    released: list[str] = []
    handle: Handle[str] = Handle("device")
    handle.open(lambda: ("value", lambda: released.append("now")))
    with pytest.raises(KeyError), handle.borrow():
        raise KeyError
    handle.close()
    assert released == ["now"]
