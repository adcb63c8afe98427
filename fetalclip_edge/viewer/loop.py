"""A recording played over and over, for demonstrations and for a screen that is to be tried."""

from __future__ import annotations

from dataclasses import replace

from fetalclip_edge.errors import SourceError
from fetalclip_edge.results import Frame
from fetalclip_edge.sources import Source, open_source

__all__ = ["LoopedSource"]

_PAUSE_S = 1 / 30
"""Between the last picture and the first of the next round, and between those without times."""

_LOOK_S = 1.0
"""For which each picture of a folder is shown."""


class LoopedSource(Source):
    """Plays a recording for ever. Frames are counted on, and so are their times.

    Where it has no times it is given some, or it would be read as fast as the machine can.

    Args:
        source: whatever `open_source` takes that has an end and can be opened again: a file.

    Raises:
        SourceError: it is a live source.
    """

    def __init__(self, source: str) -> None:
        self._path = source
        self._round = open_source(source)
        if self._round.live:
            raise SourceError(f"{self._round.name} is live and has no end; it cannot be looped")
        self.name = self._round.name
        self.still_pictures = self._round.still_pictures
        self._first_index, self._start_s = 0, 0.0
        self._last: Frame | None = None
        self._closed = False

    def open(self) -> None:
        """Open the recording for its first round."""
        self._round.open()
        self.frame_rate = self._round.frame_rate

    def read(self) -> Frame | None:
        """The next frame; after the last, the first again.

        Raises:
            FrameError: this frame cannot be read.
            SourceError: a round gave no frame at all.
        """
        frame = self._round.read()
        if frame is None:
            if self._closed:
                return None
            if self._last is None:
                raise SourceError(f"{self.name} gave no frame that could be read")
            self._begin_round(self._last)
            frame = self._round.read()
            if frame is None:
                return None
        index = frame.index + self._first_index
        if frame.pts_s is None:
            pts_s = index * (_LOOK_S if self.still_pictures else _PAUSE_S)
        else:
            pts_s = frame.pts_s + self._start_s
        self._last = replace(frame, index=index, pts_s=pts_s)
        return self._last

    def _begin_round(self, last: Frame) -> None:
        self._round.close()
        self._first_index = last.index + 1
        self._start_s = (last.pts_s or 0.0) + _PAUSE_S
        self._last = None
        self._round = open_source(self._path)
        self._round.open()
        # Closed by another thread meanwhile.
        if self._closed:
            self._round.close()

    def close(self) -> None:
        """Let go of the recording."""
        self._closed = True
        self._round.close()
