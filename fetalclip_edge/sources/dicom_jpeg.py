"""JPEG frames of DICOM files, checked before GDCM sees them.

GDCM ends the whole program when anything in a frame's header makes its JPEG library so much as warn
(3.2.6). So the header is walked here first, and what would be warned of is an error. Importing this
module gives pydicom a decoder, `PLUGIN`, that does so.
"""

from __future__ import annotations

import struct
from typing import Any

from pydicom import uid
from pydicom.pixels.decoders import gdcm as _gdcm
from pydicom.pixels.decoders.base import get_decoder

__all__ = ["JPEGS", "PLUGIN", "check_jpeg"]

PLUGIN = "fetalclip_edge"
"""To be given to pydicom as `decoding_plugin`, for the transfer syntaxes in `JPEGS`."""

JPEGS = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)

# ITU-T T.81, table B.1
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3)
_TABLES = (0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0))
_SCAN = 0xDA
_JFIF, _ADOBE = (0xE0, b"JFIF\0"), (0xEE, b"Adobe")


def check_jpeg(data: bytes, rows: int, columns: int, samples: int, bits: int) -> None:
    """Walk the header of a frame, up to its first scan.

    Args:
        data: the frame.
        rows: that the DICOM header tells.
        columns: likewise.
        samples: to a pixel, 1 or 3.
        bits: allocated to a sample, 8 or 16.

    Raises:
        ValueError: it is damaged, or of another size or kind than the DICOM header says.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("it does not begin as a JPEG does")
    position, framed = 2, False
    try:
        while True:
            if data[position] != 0xFF:
                raise ValueError("its header is damaged")
            marker = data[position + 1]
            position += 1
            if marker == 0xFF:
                continue
            (length,) = struct.unpack_from(">H", data, position + 1)
            segment = data[position + 3 : position + 1 + length]
            if len(segment) != length - 2:
                raise ValueError("it is cut off")
            if marker == _SCAN and framed:
                return
            if marker in _FRAMES and not framed:
                framed = True
                _check_frame(segment, rows, columns, samples, bits)
            elif marker not in _TABLES:
                raise ValueError("its header is damaged")
            _check_application(marker, segment)
            position += 1 + length
    except (IndexError, struct.error):
        raise ValueError("it is cut off") from None


def _check_frame(segment: bytes, rows: int, columns: int, samples: int, bits: int) -> None:
    precision, height, width, components = struct.unpack_from(">BHHB", segment)
    if (height, width, components) != (rows, columns, samples):
        raise ValueError(
            f"it is {width}x{height} of {components} components, and the header says "
            f"{columns}x{rows} of {samples}"
        )
    if not 2 <= precision <= 16 or (precision <= 8) != (bits == 8):
        raise ValueError(f"it has {precision} bits a sample, and the header says {bits}")


def _check_application(marker: int, segment: bytes) -> None:
    for (kind, name), place, known in ((_JFIF, 5, (1, 2)), (_ADOBE, 11, (0, 1))):
        if marker == kind and segment.startswith(name) and segment[place] not in known:
            raise ValueError("its header is damaged")


def is_available(syntax: str) -> bool:
    """Whether GDCM is there and reads it; pydicom asks."""
    return bool(_gdcm.is_available(syntax))


DECODER_DEPENDENCIES = _gdcm.DECODER_DEPENDENCIES
"""What to install; pydicom tells."""


def decode_frame(data: bytes, runner: Any) -> bytes:
    """The pixels of a frame, as pydicom wants them.

    Raises:
        ValueError: the frame is damaged.
    """
    check_jpeg(data, runner.rows, runner.columns, runner.samples_per_pixel, runner.bits_allocated)
    decoded: bytes = _gdcm._decode_frame(data, runner)
    return decoded


# Here, for a module is run once, whatever threads import it.
for _syntax in JPEGS:
    get_decoder(_syntax).add_plugin(PLUGIN, (__name__, decode_frame.__name__))
