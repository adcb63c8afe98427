"""The capture thread: reads a source and fills a mailbox."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace

from fetalclip_edge.backoff import Backoff
from fetalclip_edge.errors import FrameError, SourceError
from fetalclip_edge.mailbox import Mailbox
from fetalclip_edge.results import Frame
from fetalclip_edge.sources import Source

__all__ = ["Capture", "Captured"]

_log = logging.getLogger("fetalclip_edge")

_JOIN_SECONDS = 4.5
"""For a read under way to return: longer than the timeout of a network read."""

_LAST_JOIN_SECONDS = 0.5

_LONGEST_GAP_NS = 5_000_000_000
"""A jump in a recording's presentation times beyond this is a fault in them, not a pause."""

_MOST_UNREADABLE = 100
"""Frames that may be unreadable in a row; a device that never delivers a good one is broken."""


@dataclass(frozen=True, slots=True)
class Captured:
    """What the capture thread has counted so far."""

    frames: int
    unreadable: int
    reconnects: int


class Capture:
    """Owns a source and the thread that reads it.

    The thread that opens and reads the source also closes it, since many devices do not bear
    being closed by one thread while another reads them.

    Args:
        source: opened by `start`.
        mailbox: where the frames go.
        play: hold frames back until their presentation time, as a camera would deliver them.
        backoff: how long to wait before a lost source is opened again, or None to end the stream
            with the error. The first opening is tried once.
    """

    def __init__(
        self, source: Source, mailbox: Mailbox, *, play: bool, backoff: Backoff | None = None
    ) -> None:
        self._source, self._mailbox, self._play = source, mailbox, play
        self._backoff = backoff
        self._thread: threading.Thread | None = None
        self._opened = threading.Event()
        self._stopping = threading.Lock()
        self._stopped = False
        self._open_failure: BaseException | None = None
        self._frames = 0
        self._unreadable = 0
        self._epoch = 0
        self._next_index = self._first_index = 0

    @property
    def captured(self) -> Captured:
        """The counts so far."""
        return Captured(self._frames, self._unreadable, self._epoch)

    def start(self) -> None:
        """Open the source and begin to read.

        Raises:
            SourceError: the source cannot be opened.
        """
        thread = threading.Thread(
            target=self._run, name=f"fetalclip-edge capture {self._source.name}", daemon=True
        )
        with self._stopping:
            # Known to `stop` only once it runs, for nobody can wait for a thread before that.
            thread.start()
            self._thread = thread
        self._opened.wait()
        if self._open_failure is not None:
            raise self._open_failure

    def stop(self) -> None:
        """End the thread and wait until it has let go of the source. Safe to call twice.

        A source that hangs in a read is closed from here after a while, which ends the read of
        some; nobody waits for the others for ever.
        """
        self._mailbox.close()
        if self._thread is threading.current_thread():
            return
        with self._stopping:
            if self._thread is not None and not self._stopped:
                self._stopped = True
                self._join(self._thread)

    def _join(self, thread: threading.Thread) -> None:
        thread.join(_JOIN_SECONDS)
        if thread.is_alive():
            self._close_source()
            thread.join(_LAST_JOIN_SECONDS)
        if thread.is_alive():
            _log.warning(
                "%s did not return from a read within %.0f s; its thread is left to end by itself",
                self._source.name,
                _JOIN_SECONDS + _LAST_JOIN_SECONDS,
            )

    def _run(self) -> None:
        try:
            try:
                self._source.open()
            except BaseException as error:
                self._open_failure = error
                return
            finally:
                self._opened.set()
            try:
                while not self._read_until_lost():
                    pass
            except BaseException as error:
                self._mailbox.end(error)
            else:
                self._mailbox.end()
        finally:
            self._close_source()

    def _read_until_lost(self) -> bool:
        """Read the source to its end, or until it is lost and found again.

        Returns:
            True at the end, False when there is more to read.

        Raises:
            SourceError: it is lost, and cannot be opened again.
        """
        try:
            self._read_all()
        except SourceError as error:
            if self._backoff is None or not self._source.live:
                raise
            if (renewed := self._source.renew()) is None:
                raise
            _log.warning("%s; looking for it again", str(error))
            self._mailbox.lose(error)
            return not self._find_again(renewed, self._backoff)
        return True

    def _find_again(self, renewed: Source | None, backoff: Backoff) -> bool:
        """Open the source anew, however often it takes; False when nobody wants frames any more."""
        waits = backoff.waits()
        while renewed is not None:
            self._close_source()
            if self._mailbox.wait_until_closed(next(waits)):
                return False
            self._source = renewed
            try:
                renewed.open()
            except SourceError as error:
                _log.info("%s", str(error))
                self._mailbox.lose(error)
                renewed = renewed.renew()
                continue
            self._epoch += 1
            self._first_index = self._next_index
            _log.warning("%s is back", renewed.name)
            return True
        raise SourceError(f"{self._source.name} cannot be opened again")

    def _close_source(self) -> None:
        try:
            self._source.close()
        except Exception as error:
            _log.warning("%s did not close: %s", self._source.name, error)

    def _read_all(self) -> None:
        start_ns: int | None = None
        in_a_row = 0
        # Asked before every read: a source may have nothing but unreadable frames.
        while not self._mailbox.closed:
            begin = time.monotonic_ns()
            try:
                frame = self._source.read()
            except FrameError as error:
                self._unreadable += 1
                in_a_row += 1
                # As text: who keeps the record of an error keeps its traceback, and so the decoder.
                _log.warning("%s", str(error))
                if in_a_row == _MOST_UNREADABLE:
                    raise SourceError(f"{in_a_row} frames in a row unreadable: {error}") from error
                continue
            in_a_row = 0
            if frame is None:
                return
            if not isinstance(frame, Frame):
                raise SourceError(
                    f"{self._source.name}: read() must return a fetalclip_edge.Frame or None, not "
                    f"{type(frame).__name__}"
                )
            frame = replace(
                frame,
                index=self._first_index + frame.index,
                grab_ms=(frame.captured_ns - begin) / 1e6,
                epoch=self._epoch,
            )
            self._next_index = frame.index + 1
            if self._play and frame.pts_s is not None:
                pts_ns = round(frame.pts_s * 1e9)
                now_ns = time.monotonic_ns()
                if start_ns is None or abs(start_ns + pts_ns - now_ns) > _LONGEST_GAP_NS:
                    start_ns = now_ns - pts_ns
                frame = self._wait_for(frame, start_ns + pts_ns)
            self._frames += 1
            if not self._mailbox.put(frame):
                return

    def _wait_for(self, frame: Frame, due_ns: int) -> Frame:
        wait = (due_ns - time.monotonic_ns()) / 1e9
        if wait > 0:
            self._mailbox.wait_until_closed(wait)
        return replace(frame, captured_ns=time.monotonic_ns())
