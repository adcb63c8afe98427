"""Results as JSON Lines: the objects that the command line prints."""

from __future__ import annotations

import json
from pathlib import Path

from fetalclip_edge.errors import SinkError
from fetalclip_edge.results import Frame, Result
from fetalclip_edge.sinks.base import ClosingSink

__all__ = ["JsonlSink"]


class JsonlSink(ClosingSink):
    """Writes every result to a file, one JSON object a line; see `Result.to_dict`.

    Lines are flushed one by one, so that a program that reads along sees each, and a crash costs
    none.

    Args:
        path: the file, which is written anew.
        details: with what `Result.to_dict` adds on demand.

    Raises:
        SinkError: it cannot be written (an OSError).

    Example:
        >>> import json, pathlib, tempfile
        >>> import fetalclip_edge as fe
        >>> from fetalclip_edge.demo import DEMO_CLIP
        >>> path = pathlib.Path(tempfile.mkdtemp(), "answers.jsonl")
        >>> with fe.stream(DEMO_CLIP, sinks=[fe.JsonlSink(path)]) as live:
        ...     first = next(live)
        >>> json.loads(path.read_text().splitlines()[0])["frame_index"]
        0
    """

    name = "jsonl"
    pictures = False

    def __init__(self, path: str | Path, *, details: bool = False) -> None:
        self.path, self._details = Path(path), details
        try:
            self._file = self.path.open("w", encoding="ascii", newline="\n")
        except OSError as error:
            raise SinkError(f"{self.path} cannot be written: {error.strerror}") from error

    def write(self, result: Result, frame: Frame | None = None) -> None:
        """Write a line.

        Raises:
            SinkError: it cannot be written, or the sink is closed.
        """
        if self._file.closed:
            raise SinkError(f"{self.path} is closed")
        try:
            told = result.to_dict(details=self._details)
            self._file.write(json.dumps(told, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise SinkError(f"{self.path} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Close the file.

        Raises:
            SinkError: what was left of a line that failed cannot be written either.
        """
        try:
            self._file.close()
        except OSError as error:
            raise SinkError(f"{self.path} cannot be written: {error.strerror}") from error
