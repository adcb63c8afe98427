"""How reports say things, whatever they are written in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fetalclip_edge.report.data import ExamReport
from fetalclip_edge.words import weeks

__all__ = ["Line", "measurements"]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table of measurements.

    Attributes:
        name: what was measured.
        value: with its unit.
        interval: 95 %, or "" where none is known.
        how: in words, or "".
    """

    name: str
    value: str
    interval: str
    how: str


def measurements(report: ExamReport) -> Iterator[Line]:
    """What was measured, the most wanted first."""
    head, age = report.head, report.age
    if head is None:
        return
    if age is not None:
        yield Line(
            "Gestational age",
            f"{weeks(age.days)} weeks",
            f"{weeks(age.low_days)} to {weeks(age.high_days)}",
            f"by {age.method}",
        )
    looks = f"median of {report.looks} looks" if report.looks > 1 else "one look"
    between = report.circumference_interval_mm
    if (mm := head.head_circumference_mm) is not None:
        interval = "" if between is None else f"{between[0]:.1f} to {between[1]:.1f} mm"
        yield Line("Head circumference", f"{mm:.1f} mm", interval, f"{looks}, outer edge")
    if (mm := head.biparietal_diameter_mm) is not None:
        yield Line("Biparietal diameter", f"{mm:.1f} mm", "", "outer-outer")
    if (mm := head.occipitofrontal_diameter_mm) is not None:
        yield Line("Occipitofrontal diameter", f"{mm:.1f} mm", "", "outer-outer")
    if (index := head.cephalic_index) is not None:
        yield Line("Cephalic index", f"{100 * index:.0f} %", "", "")
