"""How long to wait before a lost source is tried again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Backoff"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double up to a limit: soon at first, and gentle to a server that is down.

    Attributes:
        first_s: the first wait, in seconds.
        longest_s: the longest.

    Raises:
        ValueError: they are not positive, or the longest is shorter than the first.
    """

    first_s: float = 0.25
    longest_s: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < self.first_s <= self.longest_s < math.inf:
            raise ValueError(
                "a back-off needs 0 < first_s <= longest_s, not "
                f"first_s={self.first_s!r}, longest_s={self.longest_s!r}"
            )

    def waits(self) -> Iterator[float]:
        """The waits in seconds, without end."""
        wait_s = self.first_s
        while True:
            yield wait_s
            wait_s = min(2 * wait_s, self.longest_s)
