"""What every source of frames can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from fetalclip_edge.results import Frame

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Source"]


class Source(ABC):
    """A supply of frames that is opened, read one frame at a time, and closed.

    `open`, `read` and `close` are called from one thread at a time; `close` may be called from
    another thread to end a blocked `read`, and more than once. A source is opened at most once.

    Attributes:
        name: what to call the source in logs and results; never holds credentials.
        live: True when frames that are not read in time are lost anyway (a camera, RTSP).
        frame_rate: frames per second as the source states it, or None. Known after `open`.
        frame_count: number of frames, or None when unknown. Known after `open`.
        still_pictures: True when the frames are pictures of their own, not a film: two that are
            alike then do not mean that the probe was frozen.

    A subclass sets these as plain attributes and defines `open`, `read` and `close`.
    """

    name: str = "source"
    live: bool = False
    frame_rate: float | None = None
    frame_count: int | None = None
    still_pictures: bool = False

    @abstractmethod
    def open(self) -> None:
        """Get hold of the device or file.

        Raises:
            SourceNotFoundError: it does not exist.
            SourceError: it exists and cannot be read.
        """

    @abstractmethod
    def read(self) -> Frame | None:
        """The next frame, or None at the end.

        Raises:
            FrameError: this frame cannot be read; the next call goes on with the one after.
            SourceError: nothing more can be read.
        """

    def renew(self) -> Source | None:
        """Another source for the same device or address, not yet opened, or None.

        A stream asks for one when a live source is lost. None, the answer of a source that does
        not say otherwise, ends the stream with the error.
        """
        return None

    @abstractmethod
    def close(self) -> None:
        """Let go of everything. Safe to call twice, and before `open`."""

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.read()) is not None:
            yield frame
