"""Between the stream's thread and the pages: encodes a moment once, gives each page the newest."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from fetalclip_edge.checklist import CapturedPlane, Checklist
from fetalclip_edge.results import Frame, Result
from fetalclip_edge.sinks.base import ClosingSink
from fetalclip_edge.viewer.exams import Ended
from fetalclip_edge.viewer.wire import Moment, describe, encode_picture, pack

__all__ = ["Hub", "TooManyViewersError", "Viewer"]

_MOST_VIEWERS = 16
_UNDERWAY = 2
"""Messages sent to a page that it has not shown yet. Without the limit they would pile up in the
network's buffers, and a slow page would show the past."""

_REMEMBERED = _UNDERWAY + 2
"""Moments of each page that can still be captured: those on its screen and on the way to it."""

_HEARTBEAT_S = 1.0
"""A page hears something at least as often, and so knows a silent source from a lost device."""


class TooManyViewersError(RuntimeError):
    """As many pages are open as can be served."""


@dataclass(frozen=True, slots=True, eq=False)
class _Message:
    moment: Moment
    data: bytes


class Viewer:
    """One open page. Used from the event loop alone.

    Attributes:
        dropped: messages that this page was too slow for.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._next: _Message | None = None
        self._underway = 0
        self._changed = asyncio.Event()
        self._sent: deque[Moment] = deque(maxlen=_REMEMBERED)
        self._held: Moment | None = None

    def offer(self, message: _Message) -> None:
        """Put a message in the one slot; an older one that was not sent is dropped."""
        self.dropped += self._next is not None
        self._next = message
        self._changed.set()

    async def take(self) -> bytes:
        """The newest message, once the page has shown the ones before."""
        while self._next is None or self._underway >= _UNDERWAY:
            self._changed.clear()
            await self._changed.wait()
        message, self._next = self._next, None
        self._underway += 1
        if not self._sent or self._sent[-1] is not message.moment:
            self._sent.append(message.moment)
        return message.data

    def shown(self) -> None:
        """The page has shown one message."""
        self._underway = max(0, self._underway - 1)
        self._changed.set()

    def find(self, number: int) -> Moment | None:
        """The moment of that number, if it is on this page's screen."""
        known = [*self._sent] if self._held is None else [self._held, *self._sent]
        return next((moment for moment in known if moment.number == number), None)

    def hold(self, number: int | None) -> None:
        """Keep that moment for as long as the page stands still on it; None lets go of it."""
        self._held = None if number is None else self.find(number)


class Hub(ClosingSink):
    """A sink that shows the stream to any number of pages.

    `write` returns at once: the stream's newest moment waits here, and is encoded, once for all
    pages, as fast as that goes. A page that is slow misses moments; no other page notices.

    Args:
        checklist: the exam's, sent along with every moment.
    """

    name = "viewer"

    def __init__(self, checklist: Checklist) -> None:
        self.checklist = checklist
        self._viewers: set[Viewer] = set()
        self._newest: Moment | None = None
        self._count = 0
        self._first = 1
        self._exam = threading.Lock()
        self._ended: str | None = None
        self._again = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()

    def write(self, result: Result, frame: Frame | None) -> None:
        """Take the stream's next result."""
        self._count += 1
        self._newest = Moment(self._count, result, frame)
        self._wake()

    def capture(self, moment: Moment) -> list[CapturedPlane]:
        """Keep a picture for the exam under way, as a person wants it. From any thread.

        Raises:
            ValueError: it is of the exam before, or `Checklist.capture` refuses it.
        """
        with self._exam:
            # A page that stands still, or has heard of no new exam yet, shows another patient.
            if moment.number < self._first:
                raise ValueError("this picture is of the exam before")
            return self.checklist.capture(moment.result, moment.frame)

    def end_exam(self, end: Callable[[], Ended]) -> Ended:
        """End the exam, and with it what can be captured. From any thread.

        Args:
            end: ends it; nothing is captured meanwhile.
        """
        with self._exam:
            ended = end()
            if ended.new:
                self._first = self._count + 1
        self.refresh()
        return ended

    def end(self, reason: str) -> None:
        """Say that nothing more comes, and why. From any thread."""
        self._ended = reason
        self.refresh()

    def refresh(self) -> None:
        """Show how things stand now, also when no newer moment has come. From any thread."""
        self._again = True
        self._wake()

    def _wake(self) -> None:
        if self._loop is not None:
            # The loop may close at any moment: then nobody looks.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._news.set)

    def join(self) -> Viewer:
        """A page has opened. From the event loop.

        Raises:
            TooManyViewersError: 16 are open.
        """
        if len(self._viewers) >= _MOST_VIEWERS:
            raise TooManyViewersError(f"{_MOST_VIEWERS} pages are open already")
        viewer = Viewer()
        self._viewers.add(viewer)
        self.refresh()
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """A page was closed. From the event loop."""
        self._viewers.discard(viewer)

    async def run(self) -> None:
        """Pass moments on until cancelled."""
        self._loop = asyncio.get_running_loop()
        moment: Moment | None = None
        while True:
            try:
                await asyncio.wait_for(self._news.wait(), _HEARTBEAT_S)
            except asyncio.TimeoutError:
                self._again = True
            self._news.clear()
            offered, moment = moment, self._newest
            if moment is None or not self._viewers or (moment is offered and not self._again):
                continue
            self._again = False
            message = _Message(moment, await asyncio.to_thread(self._pack, moment))
            for viewer in self._viewers:
                viewer.offer(message)

    def _pack(self, moment: Moment) -> bytes:
        jpeg = b"" if moment.frame is None else encode_picture(moment.frame)
        header = describe(
            moment, self.checklist.status(), ended=self._ended, now_ns=time.monotonic_ns()
        )
        return pack(header, jpeg)
