"""A report as DICOM: the pictures as Secondary Capture, and a Structured Report that names them."""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from highdicom.sc import SCImage
from highdicom.sr import ComprehensiveSR
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import RE_VALID_UID, ExplicitVRLittleEndian, generate_uid

from fetalclip_edge.report.data import ExamReport, Patient
from fetalclip_edge.report.dicom_codes import PRIVATE_SCHEME
from fetalclip_edge.report.dicom_tree import MANUFACTURER, MODEL, Reference, report_tree
from fetalclip_edge.words import percent

__all__ = ["check_study", "make_instances", "write_dicom"]

_REPORT_FILE = "report.dcm"

_ACQUISITION_EQUIPMENT = "109101"
"""Code of DCM."""

_LONGEST_COMMENT = 10240
"""Characters of a Long Text."""


@dataclass(frozen=True, slots=True, eq=False)
class _Picture:
    """A picture of the exam, of one plane or of several.

    Attributes:
        image: uint8, `(H, W)` or `(H, W, 3)` RGB.
        pixel_size_mm: or None.
        views: what it shows.
        measured: whether the head's outline lies on it.
    """

    image: NDArray[np.uint8]
    pixel_size_mm: float | None
    views: list[str]
    measured: bool = False


def make_instances(
    report: ExamReport, *, study_uid: str | None = None
) -> tuple[Dataset, list[Dataset]]:
    """The Structured Report and the images, with identifiers of their own.

    The report is UNVERIFIED, PARTIAL and PRELIMINARY. Patient and study hold nothing but what
    `report.patient` says; all that DICOM asks for and nobody gave is there and empty.

    Args:
        report: what to say; with a picture at least.
        study_uid: of a study that this belongs to; without, a new one is made.

    Raises:
        ValueError: no picture was kept, or `study_uid` is no identifier.
    """
    pictures = _pictures(report)
    if not pictures:
        raise ValueError(
            "no picture was kept, and a DICOM report is of pictures: hold a standard plane, or "
            "capture one"
        )
    check_study(study_uid)
    told = _common(report, study_uid)
    series = generate_uid(prefix=None)
    images = [
        _secondary_capture(picture, number, series, told, report.created)
        for number, picture in enumerate(pictures, 1)
    ]
    references = [
        Reference(image.SOPClassUID, image.SOPInstanceUID, "; ".join(picture.views))
        for image, picture in zip(images, pictures, strict=True)
    ]
    measured = [r for r, picture in zip(references, pictures, strict=True) if picture.measured]
    structured = ComprehensiveSR(
        evidence=images,
        content=report_tree(report, references, measured[0] if measured else None),
        series_instance_uid=generate_uid(prefix=None),
        series_number=2,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL,
        software_versions=told["software_versions"],
        series_description="Exam report, unverified",
        is_complete=False,
        is_final=False,
        is_verified=False,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    # highdicom calls our equipment that of the acquisition, which is the scanner and unknown to us.
    structured.ContributingEquipmentSequence = [
        equipment
        for equipment in structured.ContributingEquipmentSequence
        if equipment.PurposeOfReferenceCodeSequence[0].CodeValue != _ACQUISITION_EQUIPMENT
    ]
    scheme = Dataset()
    scheme.CodingSchemeDesignator = PRIVATE_SCHEME
    scheme.CodingSchemeName = "fetalclip-edge: how measurements are made"
    structured.CodingSchemeIdentificationSequence = [scheme]
    _finish(structured, report.created)
    return structured, images


def write_dicom(report: ExamReport, folder: Path, *, study_uid: str | None = None) -> list[Path]:
    """Write `report.dcm` and `image-1.dcm` and so on, all or nothing.

    Args:
        report: what to say.
        folder: made; nothing or an empty folder may be there.
        study_uid: see `make_instances`.

    Returns:
        The files written.

    Raises:
        ValueError: see `make_instances`.
        OSError: the folder holds something already, or cannot be written.
    """
    structured, images = make_instances(report, study_uid=study_uid)
    named = {_REPORT_FILE: structured}
    named |= {f"image-{number}.dcm": image for number, image in enumerate(images, 1)}
    whole = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for name, instance in named.items():
            instance.save_as(whole / name, enforce_file_format=True)
        whole.rename(folder)
    except BaseException:
        shutil.rmtree(whole, ignore_errors=True)
        raise
    return [folder / name for name in named]


def check_study(study_uid: str | None) -> None:
    """Refuse what is no identifier of a study.

    Raises:
        ValueError: it is none.
    """
    if study_uid is not None and (len(study_uid) > 64 or not re.match(RE_VALID_UID, study_uid)):
        raise ValueError(f"study_uid must be a DICOM identifier such as 2.25.1, not {study_uid!r}")


def _pictures(report: ExamReport) -> list[_Picture]:
    """Every picture once, though a brain is also one of its sub-planes."""
    found: dict[int, _Picture] = {}
    for item, plane in report.planes.items():
        view = f"{item}, confidence {percent(plane.score)}" + (", by hand" * plane.by_hand)
        if plane.frame_index in found:
            found[plane.frame_index].views.append(view)
        else:
            found[plane.frame_index] = _Picture(plane.image, plane.pixel_size_mm, [view])
    measured = report.head_picture
    if measured is not None:
        before = found.get(measured.frame_index)
        view = f"head as measured, circumference {measured.circumference_mm:.1f} mm"
        found[measured.frame_index] = _Picture(
            measured.image,
            measured.pixel_size_mm,
            [*(before.views if before else []), view],
            measured=True,
        )
    return list(found.values())


def _common(report: ExamReport, study_uid: str | None) -> dict[str, Any]:
    """What all instances say of patient and study."""
    patient = report.patient or Patient()
    own = study_uid is None
    return {
        "study_instance_uid": generate_uid(prefix=None) if own else study_uid,
        "patient_id": patient.id or None,
        "patient_name": patient.name or None,
        "patient_birth_date": patient.birth_date,
        "patient_sex": patient.sex or None,
        # A study that others began has the date that they gave it.
        "study_date": report.created.date() if own else None,
        "study_time": report.created.time().replace(microsecond=0) if own else None,
        "software_versions": _versions(report),
    }


def _versions(report: ExamReport) -> list[str] | None:
    software = report.software
    if software is None:
        return None
    return [software.version, f"{software.bundle_name} {software.bundle_version}"]


def _secondary_capture(
    picture: _Picture, number: int, series: str, told: dict[str, Any], created: datetime
) -> Dataset:
    spacing = None if picture.pixel_size_mm is None else (picture.pixel_size_mm,) * 2
    image: Dataset = SCImage(
        pixel_array=picture.image,
        photometric_interpretation="MONOCHROME2" if picture.image.ndim == 2 else "RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        pixel_spacing=spacing,
        series_instance_uid=series,
        series_number=1,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=number,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL,
        series_description="Standard planes, named by software",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **told,
    )
    # How the probe was held nobody knows; the elements must be there and may be empty.
    image.PatientOrientation = image.Laterality = None
    image.Modality = "US"
    image.ImageComments = ("; ".join(picture.views) + ". Not verified.")[:_LONGEST_COMMENT]
    _finish(image, created)
    return image


def _finish(instance: Dataset, created: datetime) -> None:
    """Texts in any script, and one moment for all: not those at which each was put together."""
    instance.SpecificCharacterSet = "ISO_IR 192"
    day, now = created.strftime("%Y%m%d"), created.strftime("%H%M%S")
    instance.InstanceCreationDate, instance.InstanceCreationTime = day, now
    instance.ContentDate, instance.ContentTime = day, now
    if "DateOfSecondaryCapture" in instance:
        instance.DateOfSecondaryCapture, instance.TimeOfSecondaryCapture = day, now
    instance.TimezoneOffsetFromUTC = created.strftime("%z")
