"""Frames from DICOM files, single and multi-frame, through pydicom and GDCM."""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.errors import FrameError, SourceError, SourceNotFoundError
from fetalclip_edge.results import Frame
from fetalclip_edge.sources._handle import Handle
from fetalclip_edge.sources.base import Source
from fetalclip_edge.sources.dicom_header import (
    Calibration,
    DamagedElementError,
    FrameTimes,
    drop_damaged,
    read_calibration,
    read_frame_times,
)
from fetalclip_edge.sources.dicom_tables import grey_table, palette_table
from fetalclip_edge.sources.images import MAX_PIXELS

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["DICOM_SUFFIXES", "DicomSource", "is_dicom"]

DICOM_SUFFIXES = (".dcm", ".dicom")
"""Files that are opened as DICOM even when their content does not say so."""

_log = logging.getLogger("fetalclip_edge")

# Only these are read at all, so no patient's data can find its way into a log or an error.
_ELEMENTS = [
    "Modality", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "NumberOfFrames", "FrameIncrementPointer", "FrameTime", "FrameTimeVector", "CineRate",
    "RecommendedDisplayFrameRate", "SequenceOfUltrasoundRegions", "PixelSpacing",
    "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "ModalityLUTSequence", "VOILUTSequence",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
]  # fmt: skip
_COLORS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_GREYS = ("MONOCHROME1", "MONOCHROME2")
# An encapsulated frame takes an item header of 8 bytes and at least 2 bytes of data.
_SMALLEST_FRAME = 10


class DicomSource(Source):
    """The frames of a DICOM file, decoded one by one.

    Frames are `(H, W)` grey or `(H, W, 3)` RGB, as a viewer shows them: color spaces are
    converted, windows and palettes applied, MONOCHROME1 inverted. They carry the ultrasound region
    and the pixel size of the header, and the time since the first frame.

    Attributes:
        notices: what was found wrong in the header, in words; logged as warnings too. Known after
            `open`.
    """

    notices: tuple[str, ...] = ()

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.name = str(path)
        self._handle: Handle[_Pixels] = Handle(self.name)
        self._calibration = Calibration()
        self._times = FrameTimes()

    def open(self) -> None:
        """Read the header and find the pixels.

        Raises:
            SourceNotFoundError: there is no such file.
            SourceError: it is no DICOM file, has no pictures, or they are of a kind that is not
                read; the message says what to do.
        """
        self._handle.open(self._make)
        for notice in self.notices:
            _log.warning("%s: %s", self.name, notice)

    def read(self) -> Frame | None:
        """Decode the next frame.

        Raises:
            FrameError: this frame is damaged.
            SourceError: the pixel data ends before the number of frames that the header says.
        """
        with self._handle.borrow() as pixels:
            picture = None if pixels is None else pixels.next_picture(self.name)
            if pixels is None or picture is None:
                return None
            return Frame(
                picture,
                "gray" if picture.ndim == 2 else "rgb",
                pixels.index,
                time.monotonic_ns(),
                self.name,
                self._times.at(pixels.index),
                self._calibration.region,
                self._calibration.pixel_size_mm,
            )

    def close(self) -> None:
        """Close the file."""
        self._handle.close()

    def _make(self) -> tuple[_Pixels, Callable[[], object]]:
        header, length = _read_header(self._path, self.name)
        try:
            damaged = drop_damaged(header)
        except DamagedElementError as error:
            raise SourceError(
                f"{self.name}: its header is damaged: {error}; copy the file again from where it "
                "came from"
            ) from None
        _check(header, self.name)
        pixels = _Pixels(self._path, header, self.name)
        notices = pixels.count_frames(length, self.name)
        self.frame_count = pixels.frames
        self._calibration = read_calibration(header)
        self._times = read_frame_times(header, pixels.declared)
        self.frame_rate = self._times.frame_rate
        if "ModalityLUTSequence" in header or "VOILUTSequence" in header:
            notices += ("its grey look-up table is not applied",)
        self.notices = damaged + notices + self._calibration.notices + self._times.notices
        return pixels, pixels.close


def is_dicom(path: str | Path) -> bool:
    """Whether the file's content says that it is DICOM: "DICM" after 128 bytes."""
    try:
        with Path(path).open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


class _Pixels:
    """The pixel data of an open file, and how far it has been decoded."""

    def __init__(self, path: Path, header: Dataset, name: str) -> None:
        self.index = -1
        self.declared = _declared_frames(header, name)
        self.frames: int | None = self.declared
        self._path = path
        self._syntax = header.file_meta.TransferSyntaxUID
        self._compressed = bool(self._syntax.is_compressed)
        self._bits = int(header.BitsStored)
        photometric = header.PhotometricInterpretation
        samples = 3 if photometric in _COLORS else 1
        bits = int(header.Rows) * int(header.Columns) * samples * int(header.BitsAllocated)
        # Uncompressed 4:2:2 keeps two chroma samples for two pixels.
        self._frame_bytes = bits // 8 if photometric != "YBR_FULL_422" else bits * 2 // 24
        self._table: NDArray[np.uint8] | None = None
        if photometric == "PALETTE COLOR":
            try:
                self._table = palette_table(header)
            except ValueError:
                raise SourceError(f"{name}: its color palette is missing or damaged") from None
        elif photometric in _GREYS:
            self._table = grey_table(header)
        self._arrays = self._decode(0)

    def count_frames(self, length: int, name: str) -> tuple[str, ...]:
        """Compare the number of frames with the bytes there are; the notices that follow."""
        if self._compressed:
            if self.declared <= length // _SMALLEST_FRAME:
                return ()
            self.frames = None
            return (f"NumberOfFrames is {self.declared}, more than the file can hold",)
        there = length // self._frame_bytes
        if there == 0:
            raise SourceError(
                f"{name}: the pixel data is cut off; copy the file again from where it came from"
            )
        self.frames = min(self.declared, there)
        if there >= self.declared:
            return ()
        return (f"NumberOfFrames is {self.declared}, and the pixel data holds {there}",)

    def next_picture(self, name: str) -> NDArray[np.uint8] | None:
        if self.index + 1 >= self.declared:
            return None
        missing = SourceError(
            f"{name}: the pixel data ends after {self.index + 1} of {self.declared} frames; "
            "the file was cut off, or its NumberOfFrames is wrong"
        )
        if self.frames is not None and self.index + 1 >= self.frames:
            raise missing
        try:
            array = next(self._arrays, None)
        except RuntimeError as error:
            self.index += 1
            self._arrays = self._decode(self.index + 1)
            reason = " ".join(str(error).split())
            raise FrameError(f"{name}: frame {self.index} cannot be decoded: {reason}") from None
        except Exception as error:
            raise SourceError(
                f"{name}: the pixel data is damaged at frame {self.index + 1}: {error}"
            ) from error
        if array is None:
            raise missing
        self.index += 1
        return self._shown(array)

    def close(self) -> None:
        self._arrays.close()

    def _decode(self, start: int) -> Generator[NDArray[Any], None, None]:
        from pydicom.pixels.utils import iter_pixels

        from fetalclip_edge.sources.dicom_jpeg import JPEGS, PLUGIN

        if start < self.declared:
            # Without `indices` pydicom walks the data once instead of searching for every frame.
            indices = range(start, self.declared) if start else None
            plugin = PLUGIN if self._syntax in JPEGS else ""
            yield from iter_pixels(self._path, indices=indices, decoding_plugin=plugin)

    def _shown(self, array: NDArray[Any]) -> NDArray[np.uint8]:
        if self._table is not None:
            native = array.astype(array.dtype.newbyteorder("="), copy=False)
            shown: NDArray[np.uint8] = self._table[native.view(f"uint{8 * native.itemsize}")]
            return shown
        if array.dtype.itemsize > 1:
            array = array >> max(self._bits - 8, 0)
        return np.ascontiguousarray(array, dtype=np.uint8)


def _read_header(path: Path, name: str) -> tuple[Dataset, int]:
    """The header, and the number of bytes of pixel data that are in the file."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        with path.open("rb") as file:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_ELEMENTS)
            start = file.read(12)
            here = file.tell()
            rest = file.seek(0, 2) - here
    except FileNotFoundError:
        raise SourceNotFoundError(f"{name}: there is no such file") from None
    except InvalidDicomError:
        raise SourceError(
            f"{name}: is no DICOM file; the mark DICM is missing at byte 128"
        ) from None
    except OSError as error:
        raise SourceError(f"{name}: cannot be read: {error.strerror}") from None
    except Exception as error:
        # pydicom raises errors of many kinds on damaged files, with pieces of the file in the text.
        raise SourceError(f"{name}: its header is damaged ({type(error).__name__})") from None
    syntax = header.file_meta.get("TransferSyntaxUID")
    if not syntax:
        raise SourceError(f"{name}: does not say its transfer syntax; save it as DICOM again")
    try:
        order = "<" if syntax.is_little_endian else ">"
    except (AttributeError, ValueError):
        raise SourceError(
            f"{name}: the transfer syntax in its header is none; the file is damaged"
        ) from None
    if syntax.is_deflated:
        raise SourceError(f"{name}: is deflated as a whole; convert it with gdcmconv --raw")
    if len(start) < 12 or struct.unpack(f"{order}HH", start[:4]) != (0x7FE0, 0x0010):
        raise SourceError(
            f"{name}: holds no pictures (no Pixel Data); it may be a report or a directory file"
        )
    if syntax.is_compressed:
        return header, rest
    if syntax.is_implicit_VR:
        return header, min(struct.unpack(f"{order}I", start[4:8])[0], rest + 4)
    return header, min(struct.unpack(f"{order}I", start[8:12])[0], rest)


def _check(header: Dataset, name: str) -> None:
    """Refuse what cannot be decoded, before anything is."""
    from pydicom.pixels.decoders.base import get_decoder

    needed = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PhotometricInterpretation")
    lacking = [keyword for keyword in needed if not header.get(keyword)]
    if lacking:
        raise SourceError(f"{name}: its header lacks {', '.join(lacking)}")
    pixels = int(header.Rows) * int(header.Columns)
    if pixels > MAX_PIXELS:
        raise SourceError(
            f"{name}: {header.Columns}x{header.Rows} pixels are more than the "
            f"{MAX_PIXELS // 1_000_000} megapixels that are read"
        )
    photometric = header.PhotometricInterpretation
    if photometric not in (*_COLORS, *_GREYS, "PALETTE COLOR"):
        raise SourceError(
            f"{name}: PhotometricInterpretation {photometric!r} is not read; convert the file to "
            "RGB or MONOCHROME2"
        )
    if header.BitsAllocated not in (8, 16) or not 1 <= header.BitsStored <= header.BitsAllocated:
        raise SourceError(
            f"{name}: {header.BitsStored} of {header.BitsAllocated} bits a sample are not read; "
            "8 and 16 are"
        )
    syntax = header.file_meta.TransferSyntaxUID
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise SourceError(
            f"{name}: no decoder for its transfer syntax, {syntax.name}; convert the file with "
            "gdcmconv --raw, or extract a video stream and give it as a video file"
        )


def _declared_frames(header: Dataset, name: str) -> int:
    try:
        frames = int(header.get("NumberOfFrames") or 1)
    except (TypeError, ValueError):
        frames = 0
    if frames < 1:
        raise SourceError(f"{name}: NumberOfFrames is not a positive number")
    return frames
