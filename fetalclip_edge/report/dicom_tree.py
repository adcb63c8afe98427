"""The content of the Structured Report: TID 5000, OB-GYN Ultrasound Procedure Report.

highdicom has no class for this template; the tree is made of its content items. Of the template's
sections there are those that the exam fills: image library, summary, biometry ratios (TID 5004),
biometry (TID 5005, of groups by TID 5008).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    ContainerContentItem,
    ContentSequence,
    GraphicTypeValues,
    ImageContentItem,
    NumContentItem,
    RelationshipTypeValues,
    ScoordContentItem,
    TextContentItem,
    UIDRefContentItem,
)

from fetalclip_edge.report import dicom_codes as codes
from fetalclip_edge.report.data import ExamReport, Software
from fetalclip_edge.report.dicom_codes import Coded
from fetalclip_edge.results import HeadOutline
from fetalclip_edge.words import DISCLAIMER

__all__ = ["MANUFACTURER", "MODEL", "Reference", "device_uid", "report_tree"]

MANUFACTURER, MODEL = "fetalclip-edge", "fetalclip-edge"

_TEMPLATE = "5000"
_CONTAINS = RelationshipTypeValues.CONTAINS
_CONTEXT = RelationshipTypeValues.HAS_OBS_CONTEXT
_ACQUIRED = RelationshipTypeValues.HAS_ACQ_CONTEXT
_MODIFIER = RelationshipTypeValues.HAS_CONCEPT_MOD
_PROPERTY = RelationshipTypeValues.HAS_PROPERTIES
_INFERRED = RelationshipTypeValues.INFERRED_FROM
_SELECTED = RelationshipTypeValues.SELECTED_FROM


@dataclass(frozen=True, slots=True)
class Reference:
    """An image of the exam.

    Attributes:
        sop_class_uid, sop_instance_uid: which it is.
        view: what it shows, in words.
    """

    sop_class_uid: str
    sop_instance_uid: str
    view: str


def report_tree(
    report: ExamReport, images: Sequence[Reference], measured_on: Reference | None
) -> ContainerContentItem:
    """The root of the tree, with everything in it.

    Args:
        report: what to say.
        images: all pictures of the exam.
        measured_on: the one of them with the head's outline, or None.
    """
    root = ContainerContentItem(
        name=_code(codes.REPORT), is_content_continuous=False, template_id=_TEMPLATE
    )
    root.ContentSequence = ContentSequence(
        [
            _coded(codes.LANGUAGE, codes.ENGLISH, _MODIFIER),
            *_observer(report.software),
            _container(codes.IMAGE_LIBRARY, [_image(image) for image in images]),
            _container(codes.SUMMARY, [_text(codes.COMMENT, t, _CONTAINS) for t in _words(report)]),
            *_ratios(report, measured_on),
            *_biometry(report, measured_on),
        ]
    )
    return root


def device_uid(software: Software | None) -> str:
    """The identifier of this software with this bundle: the same for the same."""
    name = "fetalclip-edge"
    if software is not None:
        name += f" {software.version} {software.bundle_sha256}"
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, name).int}"


def _observer(software: Software | None) -> list[Any]:
    version = "" if software is None else f" {software.version}"
    return [
        _coded(codes.OBSERVER_TYPE, codes.DEVICE, _CONTEXT),
        UIDRefContentItem(_code(codes.DEVICE_UID), device_uid(software), _CONTEXT),
        _text(codes.DEVICE_NAME, f"fetalclip-edge{version}", _CONTEXT),
        _text(codes.DEVICE_MANUFACTURER, MANUFACTURER, _CONTEXT),
        _text(codes.DEVICE_MODEL, MODEL, _CONTEXT),
    ]


def _words(report: ExamReport) -> list[str]:
    words = [DISCLAIMER, "Made by software and not verified by anybody."]
    if report.head is None:
        words.append(f"The head was not measured: {report.head_reason}.")
    elif report.age is None:
        words.append("Gestational age withheld: the growth chart does not reach.")
    if report.missing:
        words.append(f"Standard planes of which no picture was kept: {', '.join(report.missing)}.")
    return words


def _image(image: Reference) -> ImageContentItem:
    item = _image_item(codes.ILLUSTRATION, image, _CONTAINS)
    item.ContentSequence = ContentSequence([_text(codes.IMAGE_VIEW, image.view, _ACQUIRED)])
    return item


def _ratios(report: ExamReport, measured_on: Reference | None) -> list[Any]:
    head = report.head
    if head is None or head.cephalic_index is None:
        return []
    index = _measure(
        codes.CEPHALIC_INDEX,
        100 * head.cephalic_index,
        codes.PER_CENT,
        [*_how(report, codes.OUTER_OUTER), *_source(report, measured_on)],
    )
    return [_container(codes.RATIOS, [index])]


def _biometry(report: ExamReport, measured_on: Reference | None) -> list[Any]:
    head = report.head
    if head is None:
        return []
    groups = []
    if head.head_circumference_mm is not None:
        circumference = _measure(
            codes.HEAD_CIRCUMFERENCE,
            head.head_circumference_mm,
            codes.MILLIMETRES,
            [
                *_how(report, codes.OUTER_EDGE),
                *_uncertainty(report),
                *_source(report, measured_on),
            ],
        )
        groups.append([circumference, *_age(report)])
    for name, mm in (
        (codes.BIPARIETAL_DIAMETER, head.biparietal_diameter_mm),
        (codes.OCCIPITOFRONTAL_DIAMETER, head.occipitofrontal_diameter_mm),
    ):
        if mm is not None:
            told = [*_how(report, codes.OUTER_OUTER), *_source(report, measured_on)]
            groups.append([_measure(name, mm, codes.MILLIMETRES, told)])
    listed = [_container(codes.BIOMETRY_GROUP, group) for group in groups]
    return [_container(codes.BIOMETRY, listed)] if listed else []


def _age(report: ExamReport) -> list[NumContentItem]:
    age = report.age
    if age is None:
        return []
    if (equation := codes.EQUATIONS.get(report.chart)) is not None:
        by = _coded(codes.EQUATION, equation, _INFERRED)
    else:
        by = _text(codes.EQUATION_CITATION, codes.CITATIONS[report.chart], _INFERRED)
    item = NumContentItem(
        _code(codes.GESTATIONAL_AGE), age.days, _code(codes.DAYS), relationship_type=_CONTAINS
    )
    item.ContentSequence = ContentSequence(
        [
            *_algorithm(report.software, "95 % interval of growth and measurement together"),
            by,
            *(
                NumContentItem(_code(name), days, _code(codes.DAYS), relationship_type=_PROPERTY)
                for name, days in ((codes.LOWER, age.low_days), (codes.UPPER, age.high_days))
            ),
        ]
    )
    return [item]


def _measure(name: Coded, value: float, unit: Coded, told: Sequence[Any]) -> NumContentItem:
    item = NumContentItem(_code(name), round(value, 1), _code(unit), relationship_type=_CONTAINS)
    item.ContentSequence = ContentSequence(told)
    return item


def _how(report: ExamReport, method: Coded) -> list[Any]:
    looks = f"{report.looks} independent looks at the head"
    items = [_coded(codes.METHOD, method, _MODIFIER)]
    if report.looks > 1:
        items.append(_coded(codes.DERIVATION, codes.MEDIAN, _MODIFIER))
    return [*items, *_algorithm(report.software, looks)]


def _algorithm(software: Software | None, parameters: str) -> list[TextContentItem]:
    """TID 4019: what has measured, and the checksum of the model that it used."""
    name, version = "fetalclip-edge", "unknown"
    told = [parameters]
    if software is not None:
        name = f"fetalclip-edge, {software.bundle_name}"
        version = f"{software.version}, bundle {software.bundle_version}"
        told += [
            f"bundle sha256 {software.bundle_sha256}",
            f"{software.backend} {software.backend_version}, {software.precision}",
        ]
    return [
        _text(codes.ALGORITHM_NAME, name, _MODIFIER),
        _text(codes.ALGORITHM_VERSION, version, _MODIFIER),
        *(_text(codes.ALGORITHM_PARAMETERS, text, _MODIFIER) for text in told),
    ]


def _uncertainty(report: ExamReport) -> list[NumContentItem]:
    """Half of the 95 % interval of the circumference."""
    between = report.circumference_interval_mm
    if between is None:
        return []
    half = round((between[1] - between[0]) / 2, 1)
    unit = _code(codes.MILLIMETRES)
    return [
        NumContentItem(_code(codes.UNCERTAINTY), half, unit, relationship_type=_PROPERTY),
    ]


def _source(report: ExamReport, image: Reference | None) -> list[ScoordContentItem]:
    """The head's outline, and the picture that it lies on."""
    if image is None or report.head_picture is None:
        return []
    item = ScoordContentItem(
        _code(codes.SOURCE),
        GraphicTypeValues.ELLIPSE,
        _axes(report.head_picture.outline),
        relationship_type=_INFERRED,
    )
    item.ContentSequence = ContentSequence([_image_item(codes.SOURCE, image, _SELECTED)])
    return [item]


def _axes(outline: HeadOutline) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Ends of the long and of the short axis, `(4, 2)`: columns and rows from the top left."""
    angle = np.deg2rad(outline.angle_deg)
    along = np.array([np.cos(angle), np.sin(angle)]) * outline.major / 2
    across = np.array([-np.sin(angle), np.cos(angle)]) * outline.minor / 2
    centre = np.array([outline.x, outline.y])
    return np.stack([centre - along, centre + along, centre - across, centre + across])


def _code(coded: Coded) -> CodedConcept:
    return CodedConcept(coded.value, coded.scheme, coded.meaning)


def _coded(name: Coded, value: Coded, relation: RelationshipTypeValues) -> CodeContentItem:
    return CodeContentItem(_code(name), _code(value), relationship_type=relation)


def _text(name: Coded, text: str, relation: RelationshipTypeValues) -> TextContentItem:
    return TextContentItem(_code(name), text, relationship_type=relation)


def _container(name: Coded, items: Sequence[Any]) -> ContainerContentItem:
    container = ContainerContentItem(
        _code(name), is_content_continuous=False, relationship_type=_CONTAINS
    )
    container.ContentSequence = ContentSequence(items)
    return container


def _image_item(
    name: Coded, image: Reference, relation: RelationshipTypeValues
) -> ImageContentItem:
    return ImageContentItem(
        _code(name),
        image.sop_class_uid,
        image.sop_instance_uid,
        relationship_type=relation,
    )
