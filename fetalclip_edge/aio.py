"""A stream in an event loop: one thread waits and works for it, however many results come.

asyncio is imported where it is used: it is a tenth of the time that the package takes to import.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

__all__ = ["Helper", "HelperEndedError", "apart"]

T = TypeVar("T")


class HelperEndedError(RuntimeError):
    """The helper's thread has been ended."""


class Helper(Generic[T]):
    """A thread that does one thing after the other for an event loop.

    A daemon, unlike those of `concurrent.futures`: a program that ends in the middle of a stream
    does not wait for its next frame. The thread begins with the first call.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: queue.SimpleQueue[tuple[Future[T], Callable[[], T]] | None] = (
            queue.SimpleQueue()
        )
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ended = False
        self._pending: Future[T] | None = None
        self._awaited = False

    async def call(self, work: Callable[[], T]) -> T:
        """Do `work` in the thread, and wait for what it gives.

        Cancelling the wait does not undo the work: what it gives is the answer to the next call,
        whose own work is then not done. So nothing is lost to `asyncio.wait_for`.

        Raises:
            HelperEndedError: after `end`.
            RuntimeError: another task is waiting.
        """
        import asyncio

        if self._awaited:
            raise RuntimeError("another task is waiting for the next result of this stream")
        if self._pending is None:
            self._pending = self._submit(work)
        self._awaited = True
        try:
            # Shielded: what cancels the wait would cancel work that has not begun.
            result = await asyncio.shield(asyncio.wrap_future(self._pending))
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._pending = None
            raise
        finally:
            self._awaited = False
        self._pending = None
        return result

    def end(self) -> None:
        """Let the thread end once it has done what it was given. Safe to call twice."""
        with self._lock:
            if not self._ended:
                self._ended = True
                self._work.put(None)

    def join(self, seconds: float) -> None:
        """Wait for the end of the thread, unless this is it, for no longer than so many seconds."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        with self._lock:
            if self._ended:
                raise HelperEndedError
            if self._thread is None:
                thread = threading.Thread(
                    target=_run, args=(self._work,), name=self._name, daemon=True
                )
                thread.start()
                self._thread = thread
            self._work.put((future, work))
        return future


async def apart(work: Callable[[], T]) -> T:
    """Do `work`, which ends by itself, in another thread, to its end even if this is cancelled."""
    import asyncio

    return await asyncio.shield(asyncio.to_thread(work))


def _run(work: queue.SimpleQueue[tuple[Future[T], Callable[[], T]] | None]) -> None:
    while (item := work.get()) is not None:
        future, call = item
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)
        # Not to keep a stream or its picture alive while waiting.
        del item, future, call
