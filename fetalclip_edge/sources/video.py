"""Frames from video files and network streams, through PyAV (FFmpeg)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.errors import (
    FrameError,
    SourceError,
    SourceNotFoundError,
    SourceTimeoutError,
)
from fetalclip_edge.results import ColorOrder, Frame
from fetalclip_edge.sources._handle import Handle
from fetalclip_edge.sources._names import hide_credentials
from fetalclip_edge.sources.base import Source

__all__ = ["VIDEO_SUFFIXES", "VideoSource"]

VIDEO_SUFFIXES = (
    ".avi", ".gif", ".h264", ".h265", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg",
    ".mpg", ".mts", ".ts", ".webm", ".wmv",
)  # fmt: skip
"""Files that are opened as videos."""

_LIMITED_RANGE = 1  # AVCOL_RANGE_MPEG: black is 16 and white is 235
_EXPAND = np.clip(np.round((np.arange(256) - 16) * (255 / 219)), 0, 255).astype(np.uint8)
# TCP loses no packets, and a torn picture is worse than a late one.
_URL_OPTIONS = {"rtsp_flags": "prefer_tcp"}
# Else twenty pictures and more are held back to measure their rate, and are old when they come.
_LIVE_OPTIONS = {**_URL_OPTIONS, "fpsprobesize": "0"}
# A file counts as cut off when this much of the length it declares is missing.
_MISSING_S = 0.5
# Films squeeze pixels to a half; what says more is mistaken.
_LONGEST_PIXEL = 4


class VideoSource(Source):
    """The first video stream of a file or URL.

    Frames are `(H, W, 3)` RGB, or `(H, W)` when the video is stored in grey. `pts_s` is the
    presentation time as stored, and need not start at 0. Rotation metadata is applied, and pixels
    that are not square are made so by another width, as players do.

    A picture that cannot be decoded, or that the decoder marks as damaged, is a `FrameError`; the
    next is read, of a live stream the next that needs none before it. Pictures may change their
    size in the middle. A file that was cut off gives what it holds, then a `SourceError` when the
    length in its header says that more should come (MP4, MOV, MKV, WebM); AVI, MPEG-TS and raw
    streams declare no such length, and end as if complete.

    Args:
        source: path of a file, or a URL that FFmpeg opens (rtsp, rtmp, http, https, udp, srt).
        live: True when frames that are not read in time are lost; by default True for URLs.
        open_timeout_s: how long a URL may take to open.
        read_timeout_s: how long to wait for data, and so how long `close` from another thread
            takes at most to end a blocked read.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        live: bool | None = None,
        open_timeout_s: float = 10.0,
        read_timeout_s: float = 4.0,
    ) -> None:
        self._source, self._live_as_told = source, live
        self._is_url = isinstance(source, str) and "://" in source
        # An absolute path, for FFmpeg takes the "a" of "a:b.mp4" for a protocol.
        self._address = str(source) if self._is_url else str(Path(source).absolute())
        self.name = hide_credentials(str(source)) if self._is_url else str(source)
        self.live = self._is_url if live is None else live
        self._endless = False
        self._timeouts = (open_timeout_s, read_timeout_s)
        self._handle: Handle[_Decoding] = Handle(self.name)

    def open(self) -> None:
        """Open the container and find its video.

        Raises:
            SourceNotFoundError: there is no such file, or the server knows no such stream.
            SourceTimeoutError: the server did not answer in time.
            SourceError: the file or stream is no video that FFmpeg reads, or its pixels are more
                than four times as wide as high, or as high as wide.
        """
        if not self._is_url and not Path(self._address).is_file():
            raise SourceNotFoundError(f"{self.name}: there is no such file")
        decoding = self._handle.open(self._make)
        self.frame_rate = decoding.frame_rate
        self.frame_count = decoding.frame_count
        # Behind http there may be a recording, which has an end.
        http = self._address.lower().startswith("http")
        self._endless = self._is_url and not (http and decoding.has_length)

    def read(self) -> Frame | None:
        """Decode the next picture.

        Raises:
            FrameError: this picture is damaged.
            SourceTimeoutError: nothing came in time.
            SourceError: the file was cut off, or the stream broke or ended.
        """
        with self._handle.borrow() as decoding:
            if decoding is None:
                return None
            started = time.monotonic()
            try:
                frame = decoding.next_frame(self.name)
                if frame is None and self._endless and not self._handle.closed:
                    raise SourceError(f"{self.name}: the stream ended; its server is gone")
                return frame
            except SourceError:
                raise
            except (av.error.FFmpegError, OSError) as error:
                if self._handle.closed:
                    return None
                # `from None`: FFmpeg's own text holds the URL with its password.
                if self._timed_out(error, started, self._timeouts[1]):
                    raise SourceTimeoutError(
                        f"{self.name}: no picture came for {self._timeouts[1]:g} s"
                    ) from None
                raise SourceError(f"{self.name}: broke off: {_reason(error)}") from None

    def renew(self) -> VideoSource | None:
        """Another connection to the same address; None for a file."""
        if not self._is_url:
            return None
        open_s, read_s = self._timeouts
        return VideoSource(
            self._source, live=self._live_as_told, open_timeout_s=open_s, read_timeout_s=read_s
        )

    def close(self) -> None:
        """Close the file or connection, at the latest when a read under way returns."""
        self._handle.close()

    def _timed_out(self, error: BaseException, started: float, seconds: float) -> bool:
        # FFmpeg's protocols name an interruption in different ways, and RTSP as bad data.
        if isinstance(error, (av.error.ExitError, TimeoutError)):
            return True
        return self._is_url and time.monotonic() - started >= seconds

    def _make(self) -> tuple[_Decoding, Callable[[], object]]:
        started = time.monotonic()
        options = _LIVE_OPTIONS if self.live else _URL_OPTIONS
        try:
            container = av.open(
                self._address,
                timeout=self._timeouts if self._is_url else None,
                options=options if self._is_url else {},
            )
        except (av.error.FileNotFoundError, av.error.HTTPNotFoundError) as error:
            raise SourceNotFoundError(f"{self.name}: {_reason(error)}") from None
        except (av.error.FFmpegError, OSError, ValueError) as error:
            if self._timed_out(error, started, self._timeouts[0]):
                raise SourceTimeoutError(
                    f"{self.name}: did not open within {self._timeouts[0]:g} s"
                ) from None
            raise SourceError(f"{self.name}: does not open: {_reason(error)}") from None
        if not container.streams.video or container.streams.video[0].codec_context is None:
            container.close()
            raise SourceError(f"{self.name}: holds no video that this FFmpeg can decode")
        stream = container.streams.video[0]
        aspect = float(stream.sample_aspect_ratio or 1)  # where nothing is said
        if not 1 / _LONGEST_PIXEL <= aspect <= _LONGEST_PIXEL:
            container.close()
            times = f"{max(aspect, 1 / aspect):g} times as "
            raise SourceError(
                f"{self.name}: says that its pixels are {times}"
                f"{'wide as high' if aspect > 1 else 'high as wide'}; correct its sample aspect "
                "ratio, for nothing can be measured by it"
            )
        # Frame threads decode several pictures ahead: right for a file, too late for a live one.
        stream.thread_type = "SLICE" if self.live else "AUTO"
        if stream.codec_context.name == "mjpeg":
            # Or the part of a picture that is missing is filled up, and nobody is told.
            stream.codec_context.options = {"err_detect": "explode"}
        return _Decoding(container, aspect, live=self.live), container.close


class _Decoding:
    """An open container and how far it has been decoded."""

    def __init__(self, container: Any, aspect: float, *, live: bool) -> None:
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate
        self.frame_rate = float(rate) if rate else None
        self.frame_count = stream.frames or None
        self.has_length = bool(stream.duration or container.duration)
        self._packets: Iterator[Any] = container.demux(stream)
        self._waiting: deque[Any] = deque()
        self._index = -1
        self._declared_end_s = None if live else _declared_end_s(container, stream)
        self._live, self._damaged = live, False
        self._aspect = aspect
        self._end_s = 0.0

    def next_frame(self, name: str) -> Frame | None:
        while not self._waiting:
            packet = next(self._packets, None)
            if packet is None:
                self._check_whole(name)
                return None
            if packet.size and packet.pts is not None:
                end = (packet.pts + (packet.duration or 0)) * packet.time_base
                self._end_s = max(self._end_s, float(end))
            try:
                self._waiting.extend(packet.decode())
            except av.error.FFmpegError as error:
                self._index += 1
                self._damaged = True
                raise FrameError(
                    f"{name}: frame {self._index} cannot be decoded: {_reason(error)}"
                ) from None
        picture = self._waiting.popleft()
        captured_ns = time.monotonic_ns()
        self._index += 1
        if picture.is_corrupt:
            self._damaged = True
            raise FrameError(f"{name}: frame {self._index} is damaged")
        # Those after it are made from it. A live stream sends a whole one before long, or is opened
        # again and begins with one; in a recording there may be none, and little is better.
        self._damaged = self._damaged and self._live and not picture.key_frame
        if self._damaged:
            raise FrameError(f"{name}: frame {self._index} follows a damaged one")
        image = _to_array(picture, self._aspect)
        pts_s = None if picture.pts is None else float(picture.pts * picture.time_base)
        color: ColorOrder = "gray" if image.ndim == 2 else "rgb"
        return Frame(image, color, self._index, captured_ns, name, pts_s)

    def _check_whole(self, name: str) -> None:
        declared, self._declared_end_s = self._declared_end_s, None
        if declared is not None and self._end_s < declared - _MISSING_S:
            raise SourceError(
                f"{name}: is cut off: it ends at {self._end_s:.2f} s and its header says "
                f"{declared:.2f} s; {self._index + 1} frames were read"
            )


def _declared_end_s(container: Any, stream: Any) -> float | None:
    """Where the video should end by the header, or None where formats only estimate it."""
    names = set(container.format.name.split(","))
    start_s = float((stream.start_time or 0) * stream.time_base)
    if "mp4" in names and stream.duration:
        return start_s + float(stream.duration * stream.time_base)
    # Matroska gives one length for all streams together, and sound may outlast the picture.
    if "matroska" in names and container.duration and len(container.streams) == 1:
        return float(container.duration / av.time_base)
    return None


def _to_array(picture: Any, aspect: float = 1.0) -> NDArray[np.uint8]:
    grey = picture.format.name.startswith("gray")
    image: NDArray[np.uint8] = picture.to_ndarray(format="gray" if grey else "rgb24")
    if grey and picture.color_range == _LIMITED_RANGE:
        image = cv2.LUT(image, _EXPAND)
    height, width = image.shape[:2]
    if (square := max(1, round(aspect * width))) != width:
        smoothly = cv2.INTER_AREA if square < width else cv2.INTER_LINEAR
        image = cv2.resize(image, (square, height), interpolation=smoothly)
    # PyAV 12 has no `rotation`. Degrees counterclockwise, as numpy turns.
    turns = round(getattr(picture, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _reason(error: BaseException) -> str:
    """FFmpeg's words for an error, without the address that its full text repeats."""
    return str(getattr(error, "strerror", None) or type(error).__name__)
