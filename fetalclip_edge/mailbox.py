"""Hands frames from the capture thread to the consumer, by one of two policies."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Literal

from fetalclip_edge.results import Frame

__all__ = ["Mailbox", "Policy", "Silence"]

Policy = Literal["latest", "all"]

_QUEUE = 4
"""Frames that wait under the policy `all`: enough to keep the decoder busy, few enough that an
answer is never far behind."""


@dataclass(frozen=True, slots=True)
class Silence:
    """No frame came.

    Attributes:
        lost: why the source is lost for now, or None when it is only slow.
    """

    lost: BaseException | None


class Mailbox:
    """Between one thread that puts frames in and one that takes them out.

    `latest` has one slot: a new frame takes the place of one that was not yet taken, which is
    counted in `dropped`. `all` keeps every frame and makes the capture thread wait when
    the consumer is behind.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.dropped = 0
        self._frames: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._closed = False
        self._failure: BaseException | None = None
        self._lost: BaseException | None = None
        self._lost_is_news = False

    @property
    def closed(self) -> bool:
        """Whether `close` was called: nobody wants frames any more."""
        return self._closed

    def put(self, frame: Frame) -> bool:
        """Offer a frame; False when nobody wants frames any more."""
        with self._changed:
            if self.policy == "latest":
                self.dropped += len(self._frames)
                self._frames.clear()
            else:
                self._changed.wait_for(lambda: self._closed or len(self._frames) < _QUEUE)
            if self._closed:
                return False
            self._frames.append(frame)
            self._lost, self._lost_is_news = None, False
            self._changed.notify_all()
            return True

    def end(self, failure: BaseException | None = None) -> None:
        """Say that no more frames come; with a reason when the source broke."""
        with self._changed:
            self._ended, self._failure = True, failure
            self._changed.notify_all()

    def lose(self, reason: BaseException) -> None:
        """Say that the source is lost for now, and looked for until the next frame comes."""
        with self._changed:
            self._lost, self._lost_is_news = reason, True
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until `take` has something to tell, but no longer than `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(self._has_news, timeout)

    def take(
        self, timeout: float | None = None, oldest_ns: int | None = None
    ) -> Frame | Silence | None:
        """Wait for the next frame.

        Args:
            timeout: seconds to wait, or None to wait for as long as it takes.
            oldest_ns: what was captured before that, by `time.monotonic_ns()`, is dropped, counted,
                and as if it had never come; None takes a frame of any age.

        Returns:
            The frame, None after the last, or `Silence` when none has come in time or the source
            has just been lost.

        Raises:
            BaseException: what broke the source, after the frames that came before it.
        """
        with self._changed:
            self._changed.wait_for(self._has_news, timeout)
            if self._closed:
                return None
            if oldest_ns is not None:
                self._drop_before(oldest_ns)
            if self._frames:
                frame = self._frames.popleft()
                self._changed.notify_all()
                return frame
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if self._ended:
                return None
            self._lost_is_news = False
            return Silence(self._lost)

    def _drop_before(self, oldest_ns: int) -> None:
        while self._frames and self._frames[0].captured_ns < oldest_ns:
            self._frames.popleft()
            self.dropped += 1
            self._changed.notify_all()

    def _has_news(self) -> bool:
        return self._closed or self._ended or self._lost_is_news or bool(self._frames)

    def close(self) -> None:
        """Tell both sides to stop waiting."""
        with self._changed:
            self._closed = True
            self._frames.clear()
            self._changed.notify_all()

    def wait_until_closed(self, seconds: float) -> bool:
        """Sleep, but no longer than until `close`; True when it was closed."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed, timeout=seconds)
