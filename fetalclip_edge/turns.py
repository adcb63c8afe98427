"""Fair turns at a model that several streams share."""

from __future__ import annotations

import os
import threading
from collections import deque
from types import TracebackType

__all__ = ["Turns", "turns_at_once"]


class Turns:
    """Lets a few in at once, the others in the order in which they came.

    A plain lock may be given to the thread that has just let go of it, again and again. Here who
    comes back queues behind those who wait, so that streams take turns however they hurry.

    Args:
        at_once: how many may be in, at least 1.

    Raises:
        ValueError: `at_once` is less than 1.
    """

    def __init__(self, at_once: int = 1) -> None:
        if at_once < 1:
            raise ValueError(f"at_once must be at least 1, not {at_once}")
        self._lock = threading.Lock()
        self._free = at_once
        self._waiting: deque[threading.Event] = deque()

    def __enter__(self) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            ticket = threading.Event()
            self._waiting.append(ticket)
        try:
            ticket.wait()
        except BaseException:  # Ctrl-C
            with self._lock:
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
                else:
                    self._hand_on()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._hand_on()

    def _hand_on(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._free += 1


def turns_at_once(threads: int) -> int:
    """How many frames this machine's cores can work on at once, at least one.

    Args:
        threads: CPU threads for one frame.
    """
    return max(1, (os.cpu_count() or 1) // threads)
