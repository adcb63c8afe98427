"""A thread in which calls to a driver are made, so that nobody waits for a driver for ever."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotDoneError
from queue import SimpleQueue
from typing import TypeVar

__all__ = ["Lane"]

_log = logging.getLogger("fetalclip_edge")

T = TypeVar("T")

_RELEASE_S = 2.0
"""For the release of a device that nobody reads."""


class Lane:
    """Makes calls one after another in a thread of its own, each waited for no longer than told.

    Drivers hang: a camera that opens and then never delivers holds whoever asks it for a picture,
    and cannot be closed under a call. A call that is given up stays in the thread, and the release
    of the device waits behind it; a device that never comes back costs one thread, not one for
    each attempt, since `alive` tells the next one so.

    Args:
        name: of the source, for the name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._last: Future[object] | None = None
        self._thread = threading.Thread(
            target=_run,
            args=(self._calls, name),
            name=f"fetalclip-edge driver {name}",
            daemon=True,
        )
        self._thread.start()
        # For a source that is dropped without `close`: the thread knows the calls alone.
        weakref.finalize(self, self._calls.put, None)

    @property
    def alive(self) -> bool:
        """Whether the thread is there still."""
        return self._thread.is_alive()

    def call(self, work: Callable[[], T], timeout_s: float) -> T:
        """What `work` returns or raises.

        Raises:
            TimeoutError: it takes longer than `timeout_s`, or the call before it does. What it
                returns in the end is lost.
        """
        done: Future[T] = Future()

        def run() -> None:
            # Not begun when it was given up while it waited behind another.
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

        self._last = done  # type: ignore[assignment]
        self._calls.put(run)
        try:
            return done.result(timeout_s)
        except NotDoneError:
            if done.done():
                return done.result()  # in the last moment, or this is an error of its own
            done.cancel()
            raise TimeoutError(f"no answer within {timeout_s:g} s") from None

    def finish(self, release: Callable[[], object] | None = None) -> None:
        """Release the device after the calls made so far, and end. Waits only when none hangs."""
        idle = self._last is None or self._last.done()
        if release is not None:
            self._calls.put(release)
        self._calls.put(None)
        if idle and self._thread is not threading.current_thread():
            self._thread.join(_RELEASE_S)


def _run(calls: SimpleQueue[Callable[[], object] | None], name: str) -> None:
    while (call := calls.get()) is not None:
        try:
            call()
        except Exception as error:
            _log.warning("%s did not close: %s", name, error)
        call = None  # what it holds is not needed until the next
