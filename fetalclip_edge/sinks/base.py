"""What a sink is, and how a stream feeds one: a thread of its own behind a bounded queue."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from fetalclip_edge.results import Frame, Result

if TYPE_CHECKING:
    from typing_extensions import Self

    from fetalclip_edge.model import Model
    from fetalclip_edge.sources import Source

__all__ = ["ClosingSink", "Sink", "SinkStats", "Sinks"]

_log = logging.getLogger("fetalclip_edge")

_WAITING_WITH_PICTURE = 8
"""Results that wait for a sink with their pictures: 50 MB of full HD colour at the most."""

_WAITING = 512
"""Results that wait for a sink that wants no pictures: 17 s at 30 a second."""

_CLOSE_SECONDS = 5.0
"""For all sinks of a stream together to write what waits for them and close."""


@runtime_checkable
class Sink(Protocol):
    """Takes the results of a stream: a file, a screen, a counter.

    A sink may also have two attributes: `name`, what `Stream.stats().sinks` calls it, else its
    class; and `pictures`, False when it looks at results alone: it then gets no frames, and more
    results may wait for it. And a method `begin(model, source)`, which is called once before the
    first result.

    A sink serves one stream. Its methods are called from one thread, which is not the one that
    asks the stream for results.
    """

    def write(self, result: Result, frame: Frame | None) -> None:
        """Take one result.

        Args:
            result: what the stream says.
            frame: its picture, which nobody may write to; None where no picture came.
        """

    def close(self) -> None:
        """Write what is left and let go of everything. Called once by a stream."""


class ClosingSink(ABC):
    """A sink that is also a context manager, for use without a stream."""

    @abstractmethod
    def write(self, result: Result, frame: Frame | None) -> None:
        """Take one result."""

    def close(self) -> None:  # noqa: B027 - many hold nothing
        """Let go of everything. Safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class SinkStats:
    """What a sink has done so far.

    Attributes:
        written: results that it took.
        lost: results that it did not: it was too slow, or failed.
        error: its last failure in words, or None.
    """

    written: int
    lost: int
    error: str | None


class Sinks:
    """The sinks of one stream. None of them can slow it down or stop it.

    Args:
        sinks: what to feed; none is touched before `start`.

    Raises:
        TypeError: one has no `write` or no `close`.
    """

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self._feeds: list[_Feed] = []
        names: dict[str, int] = {}
        for sink in sinks:
            if not isinstance(sink, Sink) or isinstance(sink, type):
                raise TypeError(f"sinks must have write(result, frame) and close(), not {sink!r}")
            name = str(getattr(sink, "name", type(sink).__name__))
            names[name] = names.get(name, 0) + 1
            self._feeds.append(_Feed(sink, name if names[name] == 1 else f"{name} {names[name]}"))

    def start(self, model: Model, source: Source) -> None:
        """Begin to feed them.

        Args:
            model: whose answers they will get.
            source: where the frames come from; opened.
        """
        for feed in self._feeds:
            feed.start(model, source)

    def offer(self, result: Result, frame: Frame | None) -> None:
        """Give a result to all of them; returns at once."""
        if not self._feeds:
            return
        if frame is not None:
            # Many hold the same picture: none of them gets one that can be written to.
            image = frame.image.view()
            image.flags.writeable = False
            frame = replace(frame, image=image)
        for feed in self._feeds:
            feed.offer(result, frame)

    def close(self) -> None:
        """Let them write what waits, and close them. Bounded in time; safe to call twice."""
        until = time.monotonic() + _CLOSE_SECONDS
        for feed in self._feeds:
            feed.end()
        for feed in self._feeds:
            feed.join(until)

    def stats(self) -> dict[str, SinkStats]:
        """Name -> what the sink has done so far."""
        return {feed.name: feed.stats() for feed in self._feeds}


class _Feed:
    """One sink, the results that wait for it, and the thread that writes them."""

    def __init__(self, sink: Sink, name: str) -> None:
        self.name = name
        self._sink = sink
        self._pictures = bool(getattr(sink, "pictures", True))
        self._most = _WAITING_WITH_PICTURE if self._pictures else _WAITING
        self._waiting: deque[tuple[Result, Frame | None]] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._thread: threading.Thread | None = None
        self._written = self._lost = 0
        self._error: str | None = None

    def start(self, model: Model, source: Source) -> None:
        thread = threading.Thread(
            target=self._run,
            args=(model, source),
            name=f"fetalclip-edge sink {self.name}",
            daemon=True,
        )
        with self._changed:
            # Known to `join` only once it runs, and not begun after the end.
            if self._ended:
                return
            thread.start()
            self._thread = thread

    def offer(self, result: Result, frame: Frame | None) -> None:
        with self._changed:
            if self._ended:
                self._lost += 1
                return
            # The oldest makes room: what is written is near to what is seen.
            if len(self._waiting) == self._most:
                self._waiting.popleft()
                self._lost += 1
            self._waiting.append((result, frame if self._pictures else None))
            self._changed.notify()

    def end(self) -> None:
        with self._changed:
            unused = not self._ended and self._thread is None
            self._ended = True
            self._changed.notify()
        if unused:
            self._close_sink()

    def join(self, until: float) -> None:
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        thread.join(max(0.0, until - time.monotonic()))
        if thread.is_alive():
            with self._changed:
                given_up = len(self._waiting)
                self._lost += given_up
                self._waiting.clear()
            _log.warning(
                "sink %s did not end in time: %d results lost; its thread is left to end by itself",
                self.name,
                given_up,
            )

    def stats(self) -> SinkStats:
        with self._changed:
            return SinkStats(self._written, self._lost, self._error)

    def _run(self, model: Model, source: Source) -> None:
        begin = getattr(self._sink, "begin", None)
        if callable(begin):
            try:
                begin(model, source)
            except Exception as error:
                self._fail(error, lost=0)
        while (item := self._next()) is not None:
            try:
                self._sink.write(*item)
            except Exception as error:
                self._fail(error, lost=1)
            else:
                with self._changed:
                    self._written += 1
            # Not to hold the last picture while waiting for the next.
            del item
        self._close_sink()

    def _next(self) -> tuple[Result, Frame | None] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._ended or bool(self._waiting))
            return self._waiting.popleft() if self._waiting else None

    def _close_sink(self) -> None:
        try:
            self._sink.close()
        except Exception as error:
            self._fail(error, lost=0)

    def _fail(self, error: Exception, lost: int) -> None:
        message = f"{type(error).__name__}: {error}"
        with self._changed:
            self._lost += lost
            news, self._error = self._error != message, message
        # A full disk fails with every result: said once.
        if news:
            _log.warning("sink %s failed: %s", self.name, message)
