"""What a report says, before it is a file: plain frozen dataclasses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.checklist import ITEMS, CapturedPlane
from fetalclip_edge.results import GestationalAge, HeadBiometry, HeadOutline

__all__ = ["SEXES", "ExamReport", "HeadPicture", "Patient", "Software"]

SEXES = ("F", "M", "O")
"""As DICOM has them: female, male, other."""

_LONGEST = 64
"""Characters that a name or an identifier may have in DICOM."""

_Z = 1.959964


@dataclass(frozen=True, slots=True)
class Patient:
    """Whose exam it is. Reports hold nothing of a patient but what is given here.

    Attributes:
        name: as DICOM writes it, `Family^Given`; at most 64 characters.
        id: at most 64 characters.
        birth_date: or None.
        sex: "F", "M", "O" or "".

    Raises:
        ValueError: a value is not one that DICOM can hold.
    """

    name: str = ""
    id: str = ""
    birth_date: date | None = None
    sex: str = ""

    def __post_init__(self) -> None:
        for what, text in (("name", self.name), ("id", self.id)):
            if len(text) > _LONGEST or re.search(r"[\\\x00-\x1f\x7f]", text):
                raise ValueError(
                    f"patient {what} must have at most {_LONGEST} characters, no backslash and "
                    f"no control character, not {text!r}"
                )
        if "=" in self.name or self.name.count("^") > 4:
            raise ValueError(
                f"patient name must be like Family^Given^Middle^Prefix^Suffix, not {self.name!r}"
            )
        if self.sex not in ("", *SEXES):
            raise ValueError(f"patient sex must be {', '.join(SEXES)} or empty, not {self.sex!r}")


@dataclass(frozen=True, slots=True)
class Software:
    """What has made the report.

    Attributes:
        version: of this package.
        bundle_name, bundle_version, bundle_sha256: the model; the checksum is the manifest's, and
            so of the whole bundle.
        backend, backend_version, precision, device: what ran it.
        intended_use: of the bundle.
        limits: of the bundle, in sentences.
    """

    version: str
    bundle_name: str
    bundle_version: str
    bundle_sha256: str
    backend: str
    backend_version: str
    precision: str
    device: str
    intended_use: str
    limits: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class HeadPicture:
    """A picture that the head was measured on: of those kept, the nearest to the median.

    Attributes:
        image: uint8, `(H, W)` grey or `(H, W, 3)` RGB: the region of the frame that is ultrasound.
        outline: where the head was seen, in pixels of `image`.
        circumference_mm: of this picture alone.
        frame_index: of the frame in its source.
        pixel_size_mm: millimetres per pixel of `image`.
    """

    image: NDArray[np.uint8]
    outline: HeadOutline
    circumference_mm: float
    frame_index: int
    pixel_size_mm: float | None


@dataclass(frozen=True, slots=True, eq=False)
class ExamReport:
    """An exam, or as much of it as there has been.

    Attributes:
        created: when the report was made, with its time zone.
        software: what made it; None where the model is one that does not say.
        planes: item of `fetalclip_edge.checklist.ITEMS` -> the picture kept.
        states: state -> how many frames had it. Where no picture came, there was no frame.
        chart: growth chart of the age.
        head: medians over `looks`, or None where nothing was measured in millimetres.
        looks: independent looks at the head, at least a second apart.
        head_reason: why there is no `head`; None when there is.
        head_picture: or None.
        age: by `head` and `chart`; None without a head, or where the chart does not reach.
        patient: or None where nobody was named.
    """

    created: datetime
    software: Software | None
    planes: dict[str, CapturedPlane]
    states: dict[str, int]
    chart: str
    head: HeadBiometry | None = None
    looks: int = 0
    head_reason: str | None = None
    head_picture: HeadPicture | None = None
    age: GestationalAge | None = None
    patient: Patient | None = None

    @property
    def missing(self) -> list[str]:
        """The items of which no picture was kept, in the order of `ITEMS`."""
        return [item for item in ITEMS if item not in self.planes]

    @property
    def circumference_interval_mm(self) -> tuple[float, float] | None:
        """The 95 % interval of the circumference by its error of measurement, or None."""
        head = self.head
        if head is None or head.head_circumference_mm is None:
            return None
        mm, error = head.head_circumference_mm, head.head_circumference_error_mm
        return None if not error else (mm - _Z * error, mm + _Z * error)
