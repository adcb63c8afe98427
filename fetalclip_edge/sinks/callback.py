"""A function of the user's own as a sink."""

from __future__ import annotations

from collections.abc import Callable

from fetalclip_edge.results import Frame, Result
from fetalclip_edge.sinks.base import ClosingSink

__all__ = ["CallbackSink"]


class CallbackSink(ClosingSink):
    """Calls a function with every result, in the sink's thread and not in the stream's.

    Args:
        call: given the result and its frame, or None where no picture came. Nobody may write to
            the frame's image.
        name: what `Stream.stats().sinks` calls it.

    Raises:
        TypeError: `call` cannot be called.

    Example:
        >>> import fetalclip_edge as fe
        >>> from fetalclip_edge.demo import DEMO_CLIP
        >>> seen = []
        >>> sink = fe.CallbackSink(lambda result, frame: seen.append(frame.index))
        >>> with fe.stream(DEMO_CLIP, sinks=[sink]) as live:
        ...     first = next(live)
        >>> seen
        [0]
    """

    def __init__(
        self, call: Callable[[Result, Frame | None], object], name: str = "callback"
    ) -> None:
        if not callable(call):
            raise TypeError(f"call must be callable, not {call!r}")
        self.name = name
        self._call = call

    def write(self, result: Result, frame: Frame | None) -> None:
        """Call the function."""
        self._call(result, frame)
