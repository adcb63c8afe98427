"""An annotated video of what was seen and said."""

from __future__ import annotations

import os
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.errors import SinkError
from fetalclip_edge.masking import visible
from fetalclip_edge.results import Frame, Result
from fetalclip_edge.sinks.annotate import annotate, canvas_size
from fetalclip_edge.sinks.base import ClosingSink

__all__ = ["VideoSink"]

_TICKS = 90_000
"""Of the video's clock in a second, as broadcasting has them."""

_LONGEST_GAP_S = 5.0
"""A longer step in a recording's presentation times is a fault in them, not a pause."""


class VideoSink(ClosingSink):
    """Writes frames with plane, confidence and state below them, as H.264.

    Frames keep their times: those of the recording, or of the capture, however unevenly they come.
    Where no picture came the video goes black and says so; the last one is not held as if it were
    live. The first frame decides the size; others are made to fit. "Not a medical device" is
    burnt into every frame.

    The video shows the region of each frame, without what is masked in it: what the model saw. A
    frame without a region is shown whole, patient names on the screen included.

    Args:
        path: the file, which is written anew; its ending (.mp4, .mkv, .mov) decides the container.
            An .mkv can be read to where it came even after a crash. A file that was not there can
            be read by its owner alone.

    Raises:
        SinkError: it cannot be written, or its ending means nothing (an OSError).
    """

    name = "video"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._container = av.open(str(self.path), "w")
            # PyAV makes the file with the first frame, which is late to say that it cannot.
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "end its name in .mp4 or .mkv"
            raise SinkError(f"{self.path} cannot be written: {reason}") from error
        self._stream: av.VideoStream | None = None
        self._clock = _Clock()
        self._closed = False

    def write(self, result: Result, frame: Frame | None) -> None:
        """Write one frame.

        Args:
            result: what was said.
            frame: of what; None gives a black picture, or nothing before the first frame.

        Raises:
            SinkError: it cannot be written, or the sink is closed.
        """
        if self._closed:
            raise SinkError(f"{self.path} is closed")
        if frame is None and self._stream is None:
            return
        try:
            stream = self._stream or self._begin(frame)
            size = (stream.codec_context.width, stream.codec_context.height)
            self._encode(stream, annotate(frame, result, size), self._clock.tick(frame))
        except (OSError, ValueError) as error:
            raise SinkError(f"{self.path} cannot be written: {error}") from error

    def _begin(self, frame: Frame | None) -> av.VideoStream:
        assert frame is not None
        stream = self._container.add_stream("libx264", rate=Fraction(30))
        height, width = visible(frame).shape[:2]
        stream.width, stream.height = canvas_size(width, height)
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, _TICKS)
        # The other cores belong to the device.
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "veryfast", "crf": "23", "tune": "zerolatency"}
        self._stream = stream
        return stream

    def _encode(self, stream: av.VideoStream, image: NDArray[np.uint8], pts: int) -> None:
        picture = av.VideoFrame.from_ndarray(image, format="rgb24")
        picture.pts, picture.time_base = pts, Fraction(1, _TICKS)
        self._container.mux(stream.encode(picture))

    def close(self) -> None:
        """Finish the file. One that got no frame is removed: it would be no video."""
        if self._closed:
            return
        self._closed = True
        if self._stream is None:
            self._container.close()
            self.path.unlink(missing_ok=True)
            return
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
        except OSError as error:
            raise SinkError(f"{self.path} cannot be finished: {error}") from error


class _Clock:
    """Times of the frames in the video, which only ever grow."""

    def __init__(self) -> None:
        self._shown = -1
        self._pts_s: float | None = None
        self._captured_ns = 0
        self._epoch = 0

    def tick(self, frame: Frame | None) -> int:
        """When to show a frame, in ticks since the first; None is shown now."""
        captured_ns = time.monotonic_ns() if frame is None else frame.captured_ns
        pts_s = None if frame is None else frame.pts_s
        epoch = self._epoch if frame is None else frame.epoch
        step_s = (captured_ns - self._captured_ns) / 1e9
        if pts_s is not None and self._pts_s is not None and epoch == self._epoch:
            told_s = pts_s - self._pts_s
            if 0 < told_s <= _LONGEST_GAP_S:
                step_s = told_s
        self._shown = 0 if self._shown < 0 else self._shown + max(1, round(step_s * _TICKS))
        self._pts_s, self._captured_ns, self._epoch = pts_s, captured_ns, epoch
        return self._shown
