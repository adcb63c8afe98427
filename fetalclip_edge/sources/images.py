"""Frames from image files: PNG, JPEG and BMP."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.errors import FrameError, SourceError, SourceNotFoundError
from fetalclip_edge.results import ColorOrder, Frame
from fetalclip_edge.sources._handle import Handle
from fetalclip_edge.sources.base import Source
from fetalclip_edge.sources.image_headers import read_header

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "ImageSource",
    "images_in",
    "natural_order",
    "read_image",
]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
"""Files that a folder gives as images; a single file is known by its content."""

MAX_PIXELS = 64_000_000
"""Pictures above 64 megapixels are refused before they are decoded."""

_MAX_BYTES = 512 * 1024 * 1024


def read_image(path: str | Path) -> tuple[NDArray[np.uint8], ColorOrder]:
    """Decode one image file.

    Alpha is dropped, a palette is expanded, 16-bit samples become `round(value / 257)` so that
    65535 is 255, and the orientation in EXIF is applied.

    Args:
        path: a PNG, JPEG or BMP file. Its content decides, not its suffix.

    Returns:
        uint8 `(H, W)` and "gray", or uint8 `(H, W, 3)` and "bgr".

    Raises:
        SourceNotFoundError: there is no such file.
        FrameError: it cannot be read, is no picture, is cut off, or has over 64 megapixels.
    """
    path = Path(path)
    data = _read_bytes(path)
    try:
        header = read_header(data)
    except ValueError as error:
        raise FrameError(f"{path}: {error}") from None
    if header.width * header.height > MAX_PIXELS:
        raise FrameError(
            f"{path}: {header.width}x{header.height} pixels are more than the "
            f"{MAX_PIXELS // 1_000_000} megapixels that are read; scale the picture down"
        )
    image = _decode(data)
    if image is None:
        raise FrameError(f"{path}: the {header.kind} picture cannot be decoded; it is damaged")
    if image.dtype == np.uint16:
        # In one pass, for a picture in 32 bits would take gigabytes. No value / 257 is halfway.
        image = cv2.convertScaleAbs(image, alpha=1 / 257)
    return image, "gray" if image.ndim == 2 else "bgr"


class ImageSource(Source):
    """Image files, one frame each, in the order given.

    A frame's `source` is the path of its file. A file that cannot be read is a `FrameError` and
    keeps its number; the files after it are read.

    Args:
        paths: one path or several.
        name: how to call them together; by default the file, or the folder of the first.

    Raises:
        SourceError: `paths` is empty.
    """

    still_pictures = True

    def __init__(
        self, paths: str | Path | Iterable[str | Path], *, name: str | None = None
    ) -> None:
        listed = [paths] if isinstance(paths, (str, Path)) else paths
        self._paths = [Path(path) for path in listed]
        if not self._paths:
            raise SourceError("no image files were given")
        first = self._paths[0]
        self.name = name or str(first if len(self._paths) == 1 else first.parent)
        self.frame_count = len(self._paths)
        self._handle: Handle[Iterator[tuple[int, Path]]] = Handle(self.name)

    def open(self) -> None:
        """Start at the first file.

        Raises:
            SourceNotFoundError: none of the files exists.
        """
        if not any(path.exists() for path in self._paths):
            raise SourceNotFoundError(f"{self._paths[0]}: there is no such file")
        self._handle.open(lambda: (enumerate(self._paths), lambda: None))

    def read(self) -> Frame | None:
        """Read and decode the next file.

        Raises:
            FrameError: this file cannot be read.
        """
        with self._handle.borrow() as files:
            index, path = next(files, (0, None)) if files else (0, None)
            if path is None:
                return None
            try:
                image, color = read_image(path)
            except SourceNotFoundError as error:
                raise FrameError(str(error)) from None
            return Frame(image, color, index, time.monotonic_ns(), str(path))

    def close(self) -> None:
        """Nothing is held between two reads."""
        self._handle.close()


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder by suffix, in natural order; not those of folders within it.

    Raises:
        SourceError: the folder cannot be listed.
        SourceNotFoundError: it holds no image.
    """
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise SourceError(f"{folder}: the folder cannot be read: {error.strerror}") from error
    images = [
        path
        for path in entries
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")
        and path.is_file()
    ]
    if not images:
        raise SourceNotFoundError(
            f"{folder}: the folder has no {', '.join(IMAGE_SUFFIXES)} file in it; "
            "give videos and DICOM files one by one"
        )
    return sorted(images, key=natural_order)


def natural_order(path: Path) -> tuple[tuple[int, int, str], ...]:
    """A sort key that puts `frame2.png` before `frame10.png`."""
    pieces = re.split(r"([0-9]+)", str(path))
    key = [
        (0, int(piece), "") if number % 2 else (1, 0, piece.casefold())
        for number, piece in enumerate(pieces)
        if piece
    ]
    return (*key, (2, 0, str(path)))


def _read_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise FrameError(f"{path}: {size} bytes are too many for a picture")
        return path.read_bytes()
    except FileNotFoundError:
        raise SourceNotFoundError(f"{path}: there is no such file") from None
    except FrameError:
        raise
    except OSError as error:
        raise FrameError(f"{path}: cannot be read: {error.strerror}") from error


def _decode(data: bytes) -> NDArray[np.uint8] | None:
    try:
        return cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
        )
    except cv2.error:
        return None
