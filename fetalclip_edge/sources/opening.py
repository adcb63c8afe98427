"""From whatever names a source of frames to the source."""

from __future__ import annotations

import contextlib
import glob
import io
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import cv2
import numpy as np

from fetalclip_edge.errors import InvalidImageTypeError, SourceError, SourceNotFoundError
from fetalclip_edge.sources._names import hide_credentials
from fetalclip_edge.sources.arrays import ArraySource, IterableSource, ReaderSource
from fetalclip_edge.sources.base import Source
from fetalclip_edge.sources.camera import CameraSource, CsiSource, GStreamerSource
from fetalclip_edge.sources.dicom import DICOM_SUFFIXES, DicomSource, is_dicom
from fetalclip_edge.sources.igtl import OpenIGTLinkSource
from fetalclip_edge.sources.image_headers import image_kind
from fetalclip_edge.sources.images import IMAGE_SUFFIXES, ImageSource, images_in, natural_order
from fetalclip_edge.sources.video import VIDEO_SUFFIXES, VideoSource

__all__ = ["ACCEPTED", "open_source"]

ACCEPTED = (
    "a camera (0, /dev/video0, v4l2:///dev/video0; csi://0 on a Jetson), "
    "a GStreamer pipeline that ends in appsink, "
    "a URL (rtsp, rtsps, rtmp, http, https, udp, tcp, srt), "
    "an OpenIGTLink server (igtl://host:port/device), "
    f"a video file ({', '.join(VIDEO_SUFFIXES)}), a DICOM file, "
    f"an image ({', '.join(IMAGE_SUFFIXES)}), a folder or a pattern (scan/*.png) of images, "
    "a uint8 array (H, W), (H, W, 3), (N, H, W) or (N, H, W, 3), an iterable of uint8 arrays, "
    "or an object with read()"
)
"""What `open_source` takes, for error messages and help texts."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_STREAMED = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "rtp", "tcp", "srt")
_PIPELINE = re.compile(r"gst-launch|.*\S\s+!\s+\S", re.DOTALL)


def open_source(source: object) -> Source:
    """Make the source that `source` names. Nothing is opened yet: `Source.open` does that.

    Args:
        source: a `Source` is returned as it is. An int, digits, "/dev/video0", a v4l2 or
            a csi URL is a camera; a string with " ! " a GStreamer pipeline; an igtl URL the
            pictures of an OpenIGTLink server; another URL a live video. A path is a file
            (DICOM and images by content, videos by suffix), a folder of images in natural order,
            or a pattern such as "scan/*.png". Arrays are uint8, three channels are RGB; `(H, W, 3)`
            is one color picture. An iterable of arrays, or an object with `read()`, is asked for
            one picture at a time; a list of paths is a list of images.

    Raises:
        SourceNotFoundError: a path names nothing that exists.
        SourceError: a file, URL or string of an unknown kind.
        InvalidImageTypeError: an object of an unknown type, or an array that is not uint8.
        InvalidImageError: an array whose shape is not that of pictures.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, (str, os.PathLike)):
        return _from_text(os.fspath(source))
    if isinstance(source, (int, np.integer)) and not isinstance(source, bool):
        return _camera(int(source))
    if isinstance(source, np.ndarray):
        return ArraySource(source)
    return _from_object(source)


def _from_text(text: str | bytes) -> Source:
    if not isinstance(text, str) or not text.strip():
        raise SourceError(f"the source {text!r} names nothing; give {ACCEPTED}")
    if text.strip().isdecimal():
        return _camera(int(text))
    if url := _URL.match(text):
        return _from_url(text, url[1].lower())
    if _PIPELINE.match(text) and not _exists(Path(text)):
        return GStreamerSource(text)
    if re.fullmatch(r"/dev/video\d+|/dev/v4l/.+", text):
        return CameraSource(text)
    return _from_path(text)


def _camera(number: int) -> Source:
    if number < 0:
        raise SourceError(f"there is no camera {number}; cameras count from 0")
    return CameraSource(number)


def _from_url(url: str, scheme: str) -> Source:
    if scheme in _STREAMED:
        return VideoSource(url)
    if scheme == "file":
        return _from_path(unquote(urlsplit(url).path))
    if scheme == "v4l2":
        device = url.partition("://")[2].rstrip("/")
        if device.isdecimal():
            return _camera(int(device))
        return CameraSource(f"/{device.lstrip('/')}")
    if scheme == "csi":
        sensor = url.partition("://")[2].rstrip("/")
        if not sensor.isdecimal():
            raise SourceError(f"{hide_credentials(url)}: a CSI camera has a number, as in csi://0")
        return CsiSource(int(sensor))
    if scheme == "igtl":
        return OpenIGTLinkSource(url)
    raise SourceError(f"{hide_credentials(url)}: {scheme} is no kind of source; give {ACCEPTED}")


def _from_path(text: str) -> Source:
    path = Path(text)
    if not _exists(path):
        # Only now, so that a file named "~" can be given, too.
        with contextlib.suppress(RuntimeError):
            path = path.expanduser()
    if not _exists(path):
        return _from_pattern(text, path)
    if path.is_dir():
        return ImageSource(images_in(path), name=str(path))
    return _from_file(path)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        # A pipeline may be longer than a path can be.
        return False


def _from_pattern(text: str, path: Path) -> Source:
    matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207
    files = sorted((match for match in matches if match.is_file()), key=natural_order)
    if not files:
        what = "no file matches" if glob.has_magic(text) else "there is no such file or folder"
        raise SourceNotFoundError(f"{text}: {what}")
    if len(files) == 1:
        return _from_file(files[0])
    for file in files:
        if file.suffix.lower() not in IMAGE_SUFFIXES:
            raise SourceError(
                f"{text}: a pattern is for images, and {file.name} is none; narrow the pattern"
            )
    return ImageSource(files, name=text)


def _from_file(path: Path) -> Source:
    if not path.is_file():
        raise SourceError(f"{path}: is no regular file")
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    suffix = path.suffix.lower()
    if is_dicom(path) or suffix in DICOM_SUFFIXES:
        return DicomSource(path)
    # A video may well begin with the bytes of its first picture, as Motion JPEG does.
    if suffix in VIDEO_SUFFIXES:
        return VideoSource(path)
    if image_kind(start) or suffix in IMAGE_SUFFIXES:
        return ImageSource(path)
    raise SourceError(
        f"{path}: is no DICOM file, no image ({', '.join(IMAGE_SUFFIXES)}) and no video "
        f"({', '.join(VIDEO_SUFFIXES)}); convert it to one of them"
    )


def _from_object(source: Any) -> Source:
    kind = f"{type(source).__module__}.{type(source).__qualname__}".removeprefix("builtins.")
    if isinstance(source, (bytes, bytearray, memoryview, io.IOBase, dict, bool)) or source is None:
        hint = "; give the path of the file" if isinstance(source, io.IOBase) else ""
        raise InvalidImageTypeError(f"a source cannot be {kind}{hint}; give {ACCEPTED}")
    if isinstance(source, cv2.VideoCapture):
        # A count of frames tells a file from a device.
        live = source.get(cv2.CAP_PROP_FRAME_COUNT) <= 0
        return ReaderSource(source, color="bgr", live=live)
    if callable(getattr(source, "read", None)):
        return ReaderSource(source)
    if _are_paths(source):
        return ImageSource([Path(item) for item in source])
    if isinstance(source, Iterable):
        return IterableSource(source)
    raise InvalidImageTypeError(f"a source cannot be {kind}; give {ACCEPTED}")


def _are_paths(source: Any) -> bool:
    """Whether it is a list or tuple of paths. Other iterables may yield only once: hands off."""
    listed = isinstance(source, (list, tuple)) and len(source) > 0
    return listed and all(isinstance(item, (str, os.PathLike)) for item in source)
