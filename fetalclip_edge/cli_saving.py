"""What `fetalclip-edge stream` saves and serves besides what it prints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
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
    """

    def __init__(
        self, jsonl: Path | None, video: Path | None, metrics_port: int | None, every_frame: bool
    ) -> None:
        self._opened: list[ClosingSink] = []
        with ExitStack() as undo:
            undo.callback(self._close)
            try:
                if jsonl is not None:
                    self._opened.append(JsonlSink(jsonl))
                if video is not None:
                    self._opened.append(VideoSink(video))
                if metrics_port is not None:
                    self._opened.append(MetricsSink(metrics_port))
            except SinkError as error:
                fail(str(error), BAD_INPUT)
            undo.pop_all()
        self._by_hand = every_frame

    @property
    def for_stream(self) -> list[Sink]:
        """What the stream is to feed and to close."""
        return [] if self._by_hand else list(self._opened)

    def pass_on(self, live: Stream, results: Iterator[Result]) -> Iterator[Result]:
        """The results, each written before it is passed on, where the stream does not do it.

        Raises:
            SinkError: one cannot be written by hand.
        """
        if not self._by_hand:
            yield from results
            return
        try:
            for result in results:
                for sink in self._opened:
                    sink.write(result, live.frame)
                yield result
        finally:
            self._close()

    def _close(self) -> None:
        with ExitStack() as stack:
            for sink in self._opened:
                stack.callback(sink.close)
