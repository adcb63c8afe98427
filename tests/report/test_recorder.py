"""What a report is made of: medians over looks, the best pictures, and nothing of the source."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fetalclip_edge as fe
from fetalclip_edge.report import ExamRecorder
from fetalclip_edge.report.data import Patient
from fetalclip_edge.results import HeadBiometry

from ..moments import frame, result
from .exams import MODEL, SHA256, followed, head, picture, shown


def brain(mm: float, **other: Any) -> fe.Result:
    return replace(result("brain", 0.97, **other), head=head(mm))


def test_the_measures_are_the_medians_of_looks_a_second_apart() -> None:
    report = followed(198.0, 200.0, 206.0).report()
    assert report.looks == 3
    assert report.head is not None
    assert report.head.head_circumference_mm == 200.0
    assert report.head.biparietal_diameter_mm == pytest.approx(56.0)
    assert report.head.occipitofrontal_diameter_mm == pytest.approx(70.0)
    assert report.head.cephalic_index == pytest.approx(0.8)
    # Hadlock 1984: 8.96 + 0.540 * 20 + 0.0003 * 20 ** 3 = 22.16 weeks.
    assert report.age is not None
    assert report.age.days == 155
    assert report.age.method == "head circumference, Hadlock 1984"


def test_the_error_shrinks_with_looks_and_half_of_its_variance_stays() -> None:
    one, four = followed(200.0).report(), followed(*[200.0] * 4).report()
    assert one.circumference_interval_mm == pytest.approx((200 - 7.84, 200 + 7.84), abs=0.01)
    # 4 mm * sqrt(1/2 + 1/2/4) * 1.96
    assert four.circumference_interval_mm == pytest.approx((200 - 6.20, 200 + 6.20), abs=0.01)


def test_the_picture_is_the_one_nearest_to_the_median_and_its_outline_lies_on_it() -> None:
    found = followed(204.0, 196.0, 200.0, 206.0, 198.0).report().head_picture
    assert found is not None
    assert (found.frame_index, found.circumference_mm, found.pixel_size_mm) == (6, 200.0, 0.5)
    np.testing.assert_array_equal(found.image, picture(6)[4:44, 8:56])
    assert (found.outline.x, found.outline.y, found.outline.angle_deg) == (24.0, 20.0, 90.0)


def test_a_new_head_is_a_new_exam_for_the_measures() -> None:
    report = followed(*[200.0] * 4, *[300.0] * 4).report()
    assert report.head is not None
    assert report.head.head_circumference_mm == 300.0
    assert report.head_picture is not None
    assert report.head_picture.circumference_mm == 300.0


def test_the_freeze_key_gives_no_further_looks() -> None:
    recorder = followed(200.0)
    for index in range(3, 11):
        recorder.write(brain(208.0, state="frozen"), shown(index))
    report = recorder.report()
    assert (report.looks, report.states) == (1, {"live": 3, "frozen": 8})
    assert report.head is not None
    assert report.head.head_circumference_mm == 200.0


def test_what_is_withheld_is_not_measured() -> None:
    recorder = ExamRecorder(MODEL)
    recorder.write(brain(200.0, state="out_of_domain"), shown(0))
    # And where no picture came, there was no frame
    recorder.write(result("brain", state="stale"), None)
    report = recorder.report()
    assert (report.head, report.age, report.head_picture) == (None, None, None)
    assert report.head_reason == "no head was seen in a plane named brain"
    assert report.states == {"out_of_domain": 1}


def test_the_commonest_reason_is_given_where_no_head_was_measured() -> None:
    recorder = ExamRecorder(MODEL)
    reasons = ["cut off (31 % of it)", "no head found", "no head found", "cut off (8.5 % of it)"]
    for index, why in enumerate([*reasons, "cut off (9 % of it)"]):
        answer = replace(result("brain"), head=HeadBiometry(reason=why))
        recorder.write(answer, shown(index))
    assert recorder.report().head_reason == "cut off (9 % of it)"


def test_pictures_of_a_folder_are_looks_of_their_own_and_need_not_be_held() -> None:
    recorder = ExamRecorder(MODEL, live=False, still_pictures=True)
    for index, mm in enumerate((198.0, 200.0, 206.0)):
        recorder.write(brain(mm), frame(index, captured_ns=index, pixel_size_mm=0.5))
    recorder.write(result("femur", 0.85), frame(3, captured_ns=3))
    recorder.write(result("femur", 0.95), frame(4, captured_ns=4))
    recorder.write(result("abdomen", 0.5), frame(5, captured_ns=5))
    report = recorder.report()
    assert report.looks == 3
    assert list(report.planes) == ["brain", "femur"]
    assert (report.planes["femur"].frame_index, report.planes["femur"].by_hand) == (4, False)
    assert report.missing == [
        *("abdomen", "trans-thalamic", "trans-cerebellum", "trans-ventricular", "thorax")
    ]


def test_a_recording_without_times_is_followed_by_the_clock() -> None:
    recorder = ExamRecorder(MODEL, live=False)
    for index in range(9):
        recorder.write(brain(200.0), shown(index))
    assert recorder.report().looks == 3


def test_a_file_of_one_picture_is_no_film() -> None:
    source = SimpleNamespace(still_pictures=False, frame_count=1, live=False)
    recorder = ExamRecorder.of(MODEL, source)  # type: ignore[arg-type]
    recorder.write(brain(200.0), frame(0))
    assert list(recorder.report().planes) == ["brain"]


def test_a_stream_tells_whether_its_pictures_are_a_film() -> None:
    # Given a recorder that was made before the source was opened
    recorder = ExamRecorder(MODEL)
    recorder.begin(MODEL, SimpleNamespace(still_pictures=True, frame_count=3, live=False))  # type: ignore[arg-type]
    # When three pictures come in no time
    for index in range(3):
        recorder.write(brain(200.0), frame(index, captured_ns=index))
    # Then each is a look, and none had to be held; in the next exam, too
    assert recorder.report().looks == 3
    assert list(recorder.report().planes) == ["brain"]
    recorder.reset()
    recorder.write(brain(200.0), frame(3, captured_ns=3))
    assert list(recorder.report().planes) == ["brain"]


def test_reset_forgets_measures_and_pictures() -> None:
    recorder = followed(200.0)
    recorder.reset()
    report = recorder.report()
    assert (report.head, report.planes, report.states, report.looks) == (None, {}, {}, 0)


def test_the_model_is_named() -> None:
    software = followed().report().software
    assert software is not None
    assert (software.bundle_name, software.bundle_version) == ("student", "9.8.7")
    assert (software.bundle_sha256, software.precision) == (SHA256, "int8")
    assert ExamRecorder(object()).report().software is None


def test_a_report_has_a_time_zone() -> None:
    assert isinstance(followed().report().created.utcoffset(), timedelta)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"name": "A" * 65}, "at most 64 characters"),
        ({"name": "Doe\\Jane"}, "no backslash"),
        ({"name": "Doe=Jane"}, r"Family\^Given"),
        ({"name": "a^b^c^d^e^f"}, r"Family\^Given"),
        ({"id": "12\n34"}, "no control character"),
        ({"sex": "female"}, "F, M, O or empty"),
    ],
)
def test_a_patient_that_dicom_cannot_hold_is_refused(wrong: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Patient(**wrong)  # type: ignore[arg-type]
