"""The report as JSON and as a page, and the growth chart on it."""

from __future__ import annotations

import base64
import json
import re
import xml.etree.ElementTree as ET
from datetime import date

import cv2
import numpy as np
import pytest

from fetalclip_edge.report import ExamRecorder, Patient
from fetalclip_edge.report.as_json import report_json
from fetalclip_edge.report.chart import growth_chart
from fetalclip_edge.report.html import report_html
from fetalclip_edge.tasks.gestational_age import head_circumference_quantile

from .exams import SHA256, followed

JANE = Patient("Doe^Jane", "4711 <b>", date(1990, 2, 3), "F")


def page(recorder: ExamRecorder, patient: Patient | None = None) -> str:
    return report_html(recorder.report(patient)).decode("utf-8")


def test_json_holds_every_number() -> None:
    told = json.loads(report_json(followed(198.0, 200.0, 206.0).report()))
    assert told["head"] == {
        "looks": 3,
        "head_circumference_mm": 200.0,
        "head_circumference_low_mm": 193.599,
        "head_circumference_high_mm": 206.401,
        "biparietal_diameter_mm": 56.0,
        "occipitofrontal_diameter_mm": 70.0,
        "cephalic_index": 0.8,
        "edges": "outer-outer",
        "frame_index": 3,
    }
    age = told["gestational_age"]
    assert (age["days"], age["method"]) == (155, "head circumference, Hadlock 1984")
    assert age["low_days"] < 155 < age["high_days"]
    assert told["planes"]["femur"] == {"score": 0.9, "by_hand": True, "frame_index": 100}
    assert "abdomen" in told["missing"]
    assert told["results"] == {"live": 9}
    assert told["software"]["bundle_sha256"] == SHA256
    assert told["patient"] is None
    assert told["head_reason"] is None
    assert "Not a medical device" in told["note"]


def test_json_of_an_exam_without_anything() -> None:
    told = json.loads(report_json(ExamRecorder(object()).report()))
    assert (told["head"], told["gestational_age"], told["planes"]) == (None, None, {})
    assert told["head_reason"] == "no head was seen in a plane named brain"
    assert told["software"] is None


def test_json_has_the_patient_who_is_given() -> None:
    told = json.loads(report_json(followed().report(JANE)))
    assert told["patient"] == {
        "name": "Doe^Jane",
        "id": "4711 <b>",
        "birth_date": "1990-02-03",
        "sex": "F",
    }


def test_the_page_holds_everything_and_loads_nothing() -> None:
    text = page(followed(198.0, 200.0, 206.0))
    for said in (
        *("200.0 mm", "193.6 to 206.4 mm", "22+1 weeks", "56.0 mm", "70.0 mm", "80 %"),
        *("by head circumference, Hadlock 1984", "median of 3 looks", "outer-outer"),
        *("Not a medical device", "not verified by anybody", SHA256, "student 9.8.7"),
        *("onnxruntime 1.32.0, int8, cpu", "cervix is not to be relied on"),
    ):
        assert said in text, said
    assert "<script" not in text
    assert re.findall(r'(?:href|src)="(?!data:image/jpeg;base64,)', text) == []
    assert "url(" not in text
    assert "@import" not in text


def test_the_page_shows_the_pictures_and_the_outline() -> None:
    text = page(followed(200.0, planes=("femur", "thorax")))
    pictures = [
        cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)
        for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", text)
    ]
    assert [shown.shape[:2] for shown in pictures if shown is not None] == [(40, 48)] * 3
    assert text.count("<ellipse") == 1
    assert 'rx="15.0" ry="12.0" transform="translate(24.0 20.0) rotate(90.0)"' in text
    assert text.count("not seen") == 5
    assert text.count("confidence 90 %, chosen by hand") == 2


def test_what_others_wrote_is_escaped() -> None:
    text = page(followed(), JANE)
    assert "4711 &lt;b&gt;" in text
    assert "Doe Jane" in text
    assert "1990-02-03" in text
    assert "&lt;other&gt; probes" in text
    assert "<b>" not in text


def test_nobody_is_named_unless_given() -> None:
    text = page(followed(200.0))
    assert not [word for word in ("Patient", "Born", "Jane", "scans", ".dcm") if word in text]


def test_a_page_without_a_head_says_why() -> None:
    text = page(followed())
    assert "The head was not measured: no head was seen in a plane named brain." in text
    assert "<svg class=" not in text


def test_a_head_beyond_the_chart_has_no_age() -> None:
    text = page(followed(60.0))
    assert "Gestational age withheld" in text
    assert "60.0 mm" in text


def chart_of(mm: float, chart: str) -> ET.Element:
    return ET.fromstring(growth_chart(followed(mm, chart=chart).report()))


def path_of(svg: ET.Element, name: str) -> list[list[tuple[float, float]]]:
    return [
        [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path.attrib["d"])]
        for path in svg.iter("path")
        if path.attrib["class"] == name
    ]


def test_the_curves_are_those_of_the_chart() -> None:
    svg = chart_of(200.0, "who")
    small, large = path_of(svg, "edge")
    (middle,) = path_of(svg, "middle")
    for curve, quantile in ((small, 0.025), (middle, 0.5), (large, 0.975)):
        for x, y in curve[:: len(curve) // 5]:
            # The axes: 14 to 40 weeks over 270 units, 60 to 380 mm over 194.
            days = 98 + (x - 28) * 182 / 270
            mm = 60 + (200 - y) * 320 / 194
            assert mm == pytest.approx(head_circumference_quantile(days, quantile), abs=0.5)


@pytest.mark.parametrize("chart", ["who", "intergrowth", "hadlock"])
@pytest.mark.parametrize("mm", [110.0, 200.0, 320.0])
def test_the_mark_lies_on_the_middle_curve_within_its_interval(chart: str, mm: float) -> None:
    svg = chart_of(mm, chart)
    (mark,) = svg.iter("circle")
    x, y = float(mark.attrib["cx"]), float(mark.attrib["cy"])
    (middle,) = path_of(svg, "middle")
    assert np.interp(x, *np.transpose(middle)) == pytest.approx(y, abs=1.0)
    interval = next(p.attrib["d"] for p in svg.iter("path") if p.attrib["class"] == "interval")
    low, high = map(float, re.match(r"M([\d.]+) [\d.]+ H([\d.]+)", interval).groups())  # type: ignore[union-attr]
    assert low < x < high
