"""What a DICOM header says of an ultrasound recording: its region, its scale and its times."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from fetalclip_edge.results import Region

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = [
    "Calibration",
    "DamagedElementError",
    "FrameTimes",
    "drop_damaged",
    "number",
    "read_calibration",
    "read_frame_times",
]

# PS3.3 C.8.5.5.1.1, C.8.5.5.1.2 and C.8.5.5.1.15
_TWO_DIMENSIONAL, _TISSUE, _CENTIMETRES = 1, 1, 3
_FRAME_TIME_VECTOR = 0x00181065


# Without these a picture is shown all the same: unmeasured, untimed, or not windowed.
_DISPENSABLE = {
    *("FrameIncrementPointer", "FrameTime", "FrameTimeVector", "CineRate"),
    *("RecommendedDisplayFrameRate", "PixelSpacing", "Modality", "SequenceOfUltrasoundRegions"),
    *("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction"),
}


class DamagedElementError(ValueError):
    """An element without which there is no picture cannot be read."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Where the ultrasound picture is, and how big its pixels are.

    Attributes:
        region: the picture within the frame, or None for the whole frame.
        pixel_size_mm: millimetres per pixel, across as down; None when unknown.
        notices: what was found wrong in the header, in words.
    """

    region: Region | None = None
    pixel_size_mm: float | None = None
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FrameTimes:
    """When each frame is shown.

    Attributes:
        period_s: seconds between two frames, or None when they differ or are unknown.
        times_s: the time of every frame where they are given one by one.
        notices: what was found wrong in the header, in words.
    """

    period_s: float | None = None
    times_s: tuple[float, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def frame_rate(self) -> float | None:
        """Frames per second on average, or None."""
        if self.times_s and self.times_s[-1] > 0:
            return (len(self.times_s) - 1) / self.times_s[-1]
        return 1 / self.period_s if self.period_s else None

    def at(self, index: int) -> float | None:
        """Seconds from the first frame to frame `index`, or None."""
        if self.times_s:
            return self.times_s[index] if index < len(self.times_s) else None
        return None if self.period_s is None else index * self.period_s


def drop_damaged(header: Dataset) -> tuple[str, ...]:
    """Take out the elements that cannot be read.

    pydicom reads values only when they are asked for, and raises errors of any kind then.

    Returns:
        What was taken out, in words.

    Raises:
        DamagedElementError: it is one without which there is no picture.
    """
    notices: list[str] = []
    for tag in list(header.keys()):
        try:
            element = header[tag]
            if element.VR == "SQ":
                for item in element.value:
                    _drop_unreadable(item)
        except Exception:
            keyword = _keyword(tag)
            if keyword not in _DISPENSABLE:
                raise DamagedElementError(keyword) from None
            del header[tag]
            notices.append(f"{keyword} is damaged and is not used")
    return tuple(notices)


def _drop_unreadable(item: Dataset) -> None:
    # A region's parts are looked at only through `number` and `get`, and may all be missing.
    for tag in list(item.keys()):
        try:
            item[tag]
        except Exception:
            del item[tag]


def _keyword(tag: int) -> str:
    from pydicom.datadict import keyword_for_tag

    return keyword_for_tag(tag) or f"{tag:08x}"


def read_calibration(header: Dataset) -> Calibration:
    """Region and pixel size of an ultrasound picture.

    The largest region of two-dimensional tissue counts, and its scale when it is in centimetres.
    Without such a region, `PixelSpacing` gives the scale of an ultrasound picture. A region that
    does not fit into the picture shows that the header is of another picture, one that was cropped
    or scaled since: then neither the regions nor any scale is believed.

    Args:
        header: with Rows, Columns and, if there, SequenceOfUltrasoundRegions (PS3.3 C.8.5.5),
            PixelSpacing and Modality.
    """
    rows, columns = int(header.Rows), int(header.Columns)
    found: list[tuple[Region, Any]] = []
    for item in header.get("SequenceOfUltrasoundRegions") or ():
        kind = (item.get("RegionSpatialFormat"), item.get("RegionDataType"))
        if kind != (_TWO_DIMENSIONAL, _TISSUE):
            continue
        region = _region(item, rows, columns)
        if isinstance(region, str):
            return Calibration(notices=(region,))
        found.append((region, item))
    if not found:
        return _from_pixel_spacing(header)
    region, item = max(found, key=lambda pair: pair[0].width * pair[0].height)
    units = (item.get("PhysicalUnitsXDirection"), item.get("PhysicalUnitsYDirection"))
    if units != (_CENTIMETRES, _CENTIMETRES):
        return Calibration(region)
    across, down = number(item, "PhysicalDeltaX"), number(item, "PhysicalDeltaY")
    if not across or not down:
        return Calibration(region)
    size, notices = _square(abs(across) * 10, abs(down) * 10)
    return Calibration(region, size, notices)


def read_frame_times(header: Dataset, frames: int) -> FrameTimes:
    """Times of the frames, from the first of these that is there and makes sense.

    FrameTimeVector where FrameIncrementPointer names it, FrameTime, FrameTimeVector, CineRate,
    RecommendedDisplayFrameRate (PS3.3 C.7.6.5).

    Args:
        header: holds these elements, if any.
        frames: number of frames, against which the length of FrameTimeVector is checked.
    """
    notices: tuple[str, ...] = ()
    vector = _numbers(header, "FrameTimeVector")
    times: tuple[float, ...] = ()
    if vector and len(vector) == frames and all(step >= 0 for step in vector):
        # The first value is the increment before the first frame; times count from that frame.
        times = tuple(accumulate((step / 1000 for step in vector[1:]), initial=0.0))
    elif "FrameTimeVector" in header:
        notices = (f"FrameTimeVector does not fit {frames} frames and is not used",)
    if times and header.get("FrameIncrementPointer") == _FRAME_TIME_VECTOR:
        return FrameTimes(times_s=times)
    milliseconds = number(header, "FrameTime")
    if milliseconds and milliseconds > 0:
        return FrameTimes(milliseconds / 1000, notices=notices)
    if times:
        return FrameTimes(times_s=times)
    for keyword in ("CineRate", "RecommendedDisplayFrameRate"):
        rate = number(header, keyword)
        if rate and rate > 0:
            return FrameTimes(1 / rate, notices=notices)
    return FrameTimes(notices=notices)


def number(item: Dataset, keyword: str) -> float | None:
    """The first value of an element as a finite number, or None."""
    values = _numbers(item, keyword)
    return values[0] if values else None


def _numbers(item: Dataset, keyword: str) -> list[float]:
    try:
        value: Any = item.get(keyword)
        if value is None or isinstance(value, str):
            return []
        values = [float(part) for part in (value if hasattr(value, "__len__") else [value])]
    except (TypeError, ValueError, OverflowError):
        return []
    return values if all(map(math.isfinite, values)) else []


def _region(item: Dataset, rows: int, columns: int) -> Region | str:
    """The region of one item, or what is wrong with it."""
    edges = [number(item, f"RegionLocation{edge}") for edge in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
    left, top, right, bottom = (-1 if edge is None else int(edge) for edge in edges)
    if left < 0 or top < 0 or right > columns or bottom > rows or right < left or bottom < top:
        return (
            f"the ultrasound region ({left}, {top}) to ({right}, {bottom}) is outside the image of "
            f"{columns}x{rows} pixels; the whole image is used, without a pixel size"
        )
    # Both corners belong to the region. Some scanners give the corner one pixel further, which
    # shows only where it is the corner of the image.
    right, bottom = min(right, columns - 1), min(bottom, rows - 1)
    return Region(left, top, right - left + 1, bottom - top + 1)


def _from_pixel_spacing(header: Dataset) -> Calibration:
    # In other modalities the element is often a placeholder such as 1\1.
    if header.get("Modality") != "US":
        return Calibration()
    spacing = _numbers(header, "PixelSpacing")
    if len(spacing) != 2 or min(spacing) <= 0:
        return Calibration()
    size, notices = _square(spacing[1], spacing[0])
    return Calibration(None, size, notices)


def _square(across: float, down: float) -> tuple[float | None, tuple[str, ...]]:
    if abs(across - down) <= 0.01 * max(across, down):
        return (across + down) / 2, ()
    return None, (
        f"pixels are {across:.5g} mm wide and {down:.5g} mm high; one pixel size cannot say both, "
        "so no measurement in millimetres is made",
    )
