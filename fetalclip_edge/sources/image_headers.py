"""Size and completeness of PNG, JPEG and BMP files, told from their bytes before any decoding.

OpenCV fills the missing part of a cut-off JPEG with grey and says nothing, and allocates whatever
size a header claims. Neither may happen to a picture that somebody will act on.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import NamedTuple

__all__ = ["ImageHeader", "image_kind", "read_header"]

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_BMP = b"BM"
# Within a scan FF 00 is data, FF D0 to FF D7 are restarts, and FF FF is fill.
_MARKER_IN_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_NOT_FRAME_HEADERS = (0xC4, 0xC8, 0xCC)


class ImageHeader(NamedTuple):
    """What the bytes of a picture say of it."""

    kind: str
    width: int
    height: int


def image_kind(data: bytes) -> str | None:
    """The kind of a picture by the first bytes of its file: "PNG", "JPEG", "BMP", or None."""
    for kind, magic in (("PNG", _PNG), ("JPEG", _JPEG), ("BMP", _BMP)):
        if data.startswith(magic):
            return kind
    return None


def read_header(data: bytes) -> ImageHeader:
    """Kind and size of the picture in `data`.

    Raises:
        ValueError: it is no PNG, JPEG or BMP, or it is cut off or damaged.
    """
    kind = image_kind(data)
    if kind is None:
        raise ValueError("not a PNG, JPEG or BMP picture" if data else "the file is empty")
    try:
        width, height = {"PNG": _png_size, "JPEG": _jpeg_size, "BMP": _bmp_size}[kind](data)
    except (struct.error, IndexError):
        raise ValueError(f"the {kind} picture is cut off") from None
    if width <= 0 or height <= 0:
        raise ValueError(f"the {kind} picture says it is {width}x{height} pixels")
    return ImageHeader(kind, width, height)


def _png_size(data: bytes) -> tuple[int, int]:
    """Walk the chunks up to IEND (PNG specification, 5.3), checking every checksum."""
    width, height = struct.unpack_from(">II", data, 16)
    position, kind = len(_PNG), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        (checksum,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(memoryview(data)[position + 4 : end]) != checksum:
            raise ValueError("the PNG picture is damaged: a checksum in it is wrong")
        position = end + 4
    return width, height


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Walk the marker segments up to the end-of-image marker (ITU-T T.81, annex B).

    The marker cannot simply be searched for: an embedded thumbnail has one of its own.
    """
    width = height = 0
    position = 2
    while True:
        while data[position] != 0xFF:
            position += 1
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker == 0xD9:
            return width, height
        position += 2
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            continue
        if 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAME_HEADERS:
            height, width = struct.unpack_from(">HH", data, position + 3)
        (length,) = struct.unpack_from(">H", data, position)
        position += length
        if marker == 0xDA:
            found = _MARKER_IN_SCAN.search(data, position)
            if found is None:
                raise IndexError
            position = found.start()


def _bmp_size(data: bytes) -> tuple[int, int]:
    offset, header = struct.unpack_from("<II", data, 10)
    if header == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = stored = 0
    else:
        width, height, _, bits, compression, stored = struct.unpack_from("<iiHHII", data, 18)
    rows = abs(height)
    if compression in (0, 3):
        stored = (width * bits + 31) // 32 * 4 * rows
    if offset + stored > len(data):
        raise IndexError
    return width, rows
