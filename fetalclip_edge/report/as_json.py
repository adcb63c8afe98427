"""A report as JSON: numbers and words; the pictures are in the other formats."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from fetalclip_edge.report.data import ExamReport
from fetalclip_edge.results import GestationalAge, HeadBiometry
from fetalclip_edge.words import DISCLAIMER

__all__ = ["SCHEMA_VERSION", "report_dict", "report_json"]

SCHEMA_VERSION = 1
"""Of the layout; a higher one may take away or rename."""


def report_dict(report: ExamReport) -> dict[str, Any]:
    """The report as plain values; see docs/report.md for what each means."""
    patient, software = report.patient, report.software
    return {
        "schema": "fetalclip-edge exam report",
        "schema_version": SCHEMA_VERSION,
        "created": report.created.isoformat(timespec="seconds"),
        "note": DISCLAIMER,
        "patient": None
        if patient is None
        else {
            "name": patient.name,
            "id": patient.id,
            "birth_date": None if patient.birth_date is None else patient.birth_date.isoformat(),
            "sex": patient.sex,
        },
        "gestational_age": _age(report.age),
        "head": _head(report.head, report),
        "head_reason": report.head_reason,
        "planes": {
            item: {
                "score": round(plane.score, 4),
                "by_hand": plane.by_hand,
                "frame_index": plane.frame_index,
            }
            for item, plane in report.planes.items()
        },
        "missing": report.missing,
        "results": report.states,
        "software": None
        if software is None
        else {**asdict(software), "limits": list(software.limits)},
    }


def report_json(report: ExamReport) -> bytes:
    """The report as a file: ASCII, indented."""
    return (json.dumps(report_dict(report), indent=2, allow_nan=False) + "\n").encode("ascii")


def _age(age: GestationalAge | None) -> dict[str, Any] | None:
    return None if age is None else asdict(age)


def _head(head: HeadBiometry | None, report: ExamReport) -> dict[str, Any] | None:
    if head is None:
        return None
    between = report.circumference_interval_mm
    return {
        "looks": report.looks,
        "head_circumference_mm": _rounded(head.head_circumference_mm),
        "head_circumference_low_mm": None if between is None else _rounded(between[0]),
        "head_circumference_high_mm": None if between is None else _rounded(between[1]),
        "biparietal_diameter_mm": _rounded(head.biparietal_diameter_mm),
        "occipitofrontal_diameter_mm": _rounded(head.occipitofrontal_diameter_mm),
        "cephalic_index": _rounded(head.cephalic_index),
        "edges": "outer-outer",
        "frame_index": None if report.head_picture is None else report.head_picture.frame_index,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
