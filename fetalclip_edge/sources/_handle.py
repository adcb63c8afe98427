"""What a source holds while it is open."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from fetalclip_edge.errors import SourceError

__all__ = ["Handle"]

T = TypeVar("T")


class Handle(Generic[T]):
    """A device, file or iterator that one thread reads and any thread may close.

    Releasing a native handle under a thread that is inside it can crash the process. So `close`
    releases at once only when nobody reads; otherwise the reading thread does it on its way out.

    Reading before `open` is an error; reading after `close` is the end of the source.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._value: T | None = None
        self._release: Callable[[], object] = lambda: None
        self._opened = self._closed = self._busy = False

    def open(self, make: Callable[[], tuple[T, Callable[[], object]]]) -> T:
        """Keep what `make` returns: the value, and the function that releases it.

        Raises:
            SourceError: the source was opened before, or closed while `make` was at work.
        """
        with self._lock:
            if self._opened or self._closed:
                raise SourceError(
                    f"{self._name}: a source opens once; make a new one to read again"
                )
            self._opened = True
        value, release = make()
        with self._lock:
            if not self._closed:
                self._value, self._release = value, release
                return value
        release()
        raise SourceError(f"{self._name}: closed while it was being opened")

    @contextmanager
    def borrow(self) -> Iterator[T | None]:
        """The value for the time of one read, or None after `close`."""
        with self._lock:
            if not self._opened and not self._closed:
                raise SourceError(f"{self._name}: open the source before reading from it")
            value = self._value
            self._busy = value is not None
        try:
            yield value
        finally:
            with self._lock:
                self._busy = False
                release = self._take() if self._closed else None
            if release is not None:
                release()

    @property
    def closed(self) -> bool:
        """Whether `close` was called, so that a read that failed since is only over."""
        return self._closed

    def close(self) -> None:
        """Release the value, now or when the read under way is over."""
        with self._lock:
            self._closed = True
            release = None if self._busy else self._take()
        if release is not None:
            release()

    def _take(self) -> Callable[[], object] | None:
        if self._value is None:
            return None
        self._value = None
        return self._release
