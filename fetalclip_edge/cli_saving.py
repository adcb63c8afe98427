"""What `fetalclip-edge stream` saves and serves besides what it prints."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from fetalclip_edge.cli_errors import BAD_INPUT, fail
from fetalclip_edge.errors import SinkError
from fetalclip_edge.results import Result
from fetalclip_edge.sinks import JsonlSink, MetricsSink, Sink, VideoSink
from fetalclip_edge.sinks.base import ClosingSink
from fetalclip_edge.stream import Stream

__all__ = ["Saving"]


class Saving:
    """The sinks that a command line asks for. Ends the command when one cannot be opened.

    A live source waits for nobody, so its stream feeds them and they may lose results. A recording
    of which every frame is answered can wait: then they are written by hand and lose none.

    Args:
        jsonl: file for JSON Lines, or None.
        video: file for the annotated video, or None.
        metrics_port: to serve metrics on, or None.
        every_frame: whether the source waits.
        details: of the results, into the file for JSON Lines.
    """

    def __init__(
        self,
        jsonl: Path | None,
        video: Path | None,
        metrics_port: int | None,
        every_frame: bool,
        *,
        details: bool = False,
    ) -> None:
        self._makers: list[Callable[[], ClosingSink]] = []
        if jsonl is not None:
            self._makers.append(partial(JsonlSink, jsonl, details=details))
        if video is not None:
            self._makers.append(partial(VideoSink, video))
        if metrics_port is not None:
            self._makers.append(partial(MetricsSink, metrics_port))
        self._by_hand = every_frame

    def for_stream(self) -> Iterator[Sink]:
        """What the stream is to feed and to close, opened when it is asked for.

        So that a command with a mistake elsewhere overwrites nothing.
        """
        if not self._by_hand:
            yield from self._open(ExitStack())

    def pass_on(self, live: Stream, results: Iterator[Result]) -> Generator[Result]:
        """The results, each written before it is passed on, where the stream does not do it.

        Raises:
            SinkError: one cannot be written by hand.
        """
        if not self._by_hand:
            yield from results
            return
        with ExitStack() as closing:
            sinks = self._open(closing)
            for result in results:
                for sink in sinks:
                    sink.write(result, live.frame)
                yield result

    def _open(self, closing: ExitStack) -> list[ClosingSink]:
        """Open all of them, to be closed with `closing`, or at once if one cannot be opened."""
        with ExitStack() as undo:
            try:
                sinks = [undo.enter_context(make()) for make in self._makers]
            except SinkError as error:
                fail(str(error), BAD_INPUT)
            closing.push(undo.pop_all())
        return sinks
