"""The exam checklist: holds, the best picture of each plane, and what is saved of them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import fetalclip_edge as fe
from fetalclip_edge.checklist import ITEMS, Checklist
from fetalclip_edge.demo import DEMO_CLIP

from .moments import RATE, frame, picture, result


def watch(checklist: Checklist, *results: fe.Result, first: int = 0) -> None:
    for index, item in enumerate(results, first):
        checklist.write(item, frame(index))


def test_a_plane_counts_once_it_was_held_for_the_time() -> None:
    checklist = Checklist(hold_s=1.0)
    watch(checklist, *[result()] * RATE)
    assert checklist.captured() == {}
    watch(checklist, result(), first=RATE)
    assert list(checklist.captured()) == ["femur"]


@pytest.mark.parametrize(
    "broken_by",
    [
        result(label="abdomen"),
        result(label="other"),
        result(confidence=0.5),
        result(state="frozen"),
        result(state="out_of_domain"),
        result(epoch=1),
    ],
    ids=["another plane", "no plane", "doubt", "the freeze key", "no answer", "a reconnect"],
)
def test_a_hold_is_broken(broken_by: fe.Result) -> None:
    checklist = Checklist(hold_s=1.0)
    watch(checklist, *[result()] * 8, broken_by, *[result()] * 8)
    assert checklist.captured() == {}


def test_silence_breaks_a_hold() -> None:
    checklist = Checklist(hold_s=1.0)
    watch(checklist, *[result()] * 8)
    checklist.write(result(state="stale"), None)
    watch(checklist, *[result()] * 8, first=8)
    assert checklist.captured() == {}


def test_a_gap_in_time_breaks_a_hold() -> None:
    checklist = Checklist(hold_s=1.0)
    watch(checklist, *[result()] * 8)
    watch(checklist, *[result()] * 8, first=20)
    assert checklist.captured() == {}


def test_the_score_is_the_mean_confidence_over_the_hold() -> None:
    checklist = Checklist(hold_s=0.2, min_confidence=0.5)
    watch(checklist, *[result(confidence=value) for value in (0.6, 0.9, 0.9)])
    assert checklist.captured()["femur"].score == pytest.approx(0.8)


def test_the_best_picture_is_kept() -> None:
    checklist = Checklist(hold_s=0.2, min_confidence=0.5)
    confidences = (0.6, 0.6, 0.6, 0.9, 0.9, 0.9, 0.7, 0.7, 0.7)
    watch(checklist, *[result(confidence=value) for value in confidences])
    kept = checklist.captured()["femur"]
    assert (kept.frame_index, kept.score) == (5, pytest.approx(0.9))
    assert np.array_equal(kept.image, picture(5))


def test_of_pictures_with_the_same_score_the_sharper_is_kept() -> None:
    checklist = Checklist(hold_s=0.2)
    sharp = picture()
    blurred = np.asarray(cv2.GaussianBlur(sharp, (0, 0), 2.0), dtype=np.uint8)
    for index, image in enumerate([blurred, blurred, blurred, sharp, blurred]):
        checklist.write(result(), frame(index, image))
    assert checklist.captured()["femur"].frame_index == 3


def test_a_sub_plane_has_a_place_of_its_own() -> None:
    checklist = Checklist(hold_s=0.5)
    watch(checklist, *[result("brain", brain_plane="trans-thalamic")] * 4)
    watch(checklist, *[result("brain", brain_plane="trans-cerebellum")] * 4, first=4)
    assert list(checklist.captured()) == ["brain"]
    watch(checklist, *[result("brain", brain_plane="trans-cerebellum")] * 4, first=8)
    assert list(checklist.captured()) == ["brain", "trans-cerebellum"]


def test_a_cervix_is_not_on_the_list() -> None:
    checklist = Checklist(hold_s=0.2)
    watch(checklist, *[result("cervix")] * 9)
    assert checklist.captured() == {}
    assert "cervix" not in ITEMS


def test_a_hold_is_seen_to_grow() -> None:
    checklist = Checklist(hold_s=1.0)
    watch(checklist, *[result()] * 6)
    held = {status.item: status.held for status in checklist.status()}
    assert held.pop("femur") == pytest.approx(0.5)
    assert set(held.values()) == {0.0}


def test_a_recording_is_timed_by_its_own_clock() -> None:
    checklist = Checklist(hold_s=1.0, live=False)
    for index in range(RATE + 1):
        checklist.write(result(), frame(index, captured_ns=0, pts_s=index / RATE))
    assert list(checklist.captured()) == ["femur"]


def test_what_a_person_captures_is_replaced_by_a_person_alone() -> None:
    checklist = Checklist(hold_s=0.2)
    (kept,) = checklist.capture(result(confidence=0.4, state="frozen"), frame(7))
    assert (kept.item, kept.by_hand, kept.score, kept.frame_index) == ("femur", True, 0.4, 7)
    watch(checklist, *[result(confidence=1.0)] * 9)
    assert checklist.captured()["femur"] is kept
    checklist.capture(result(), frame(8))
    assert checklist.captured()["femur"].frame_index == 8


@pytest.mark.parametrize(
    ("answer", "shown", "words"),
    [
        (result(), None, "no picture"),
        (result(state="out_of_domain", label="other"), frame(0), "no answer"),
        (result(label="other"), frame(0), "no standard plane"),
        (result(label="cervix"), frame(0), "no standard plane"),
    ],
)
def test_what_belongs_to_no_plane_cannot_be_captured(
    answer: fe.Result, shown: fe.Frame | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Checklist().capture(answer, shown)


def test_a_picture_that_stands_for_itself_need_not_be_held() -> None:
    checklist = Checklist(min_confidence=0.8)
    for index, confidence in enumerate((0.7, 0.85, 0.95, 0.9)):
        checklist.consider(result(confidence=confidence), frame(index, pixel_size_mm=0.5))
    checklist.consider(result(confidence=1.0, state="out_of_domain"), frame(9))
    kept = checklist.captured()["femur"]
    assert (kept.frame_index, kept.score, kept.by_hand) == (2, 0.95, False)
    assert kept.pixel_size_mm == 0.5


def test_reset_begins_a_new_exam() -> None:
    checklist = Checklist(hold_s=0.5)
    (first,) = checklist.capture(result("thorax"), frame(0))
    watch(checklist, *[result()] * 5)
    checklist.reset()
    watch(checklist, *[result()] * 5, first=5)
    assert checklist.captured() == {}
    (second,) = checklist.capture(result("thorax"), frame(0))
    assert second.number > first.number


def test_no_number_is_used_again_after_a_restart() -> None:
    # A page keeps its thumbnails by them, also while the device starts anew
    numbers = [
        kept.number for _ in range(3) for kept in Checklist().capture(result("femur"), frame(0))
    ]
    assert len(set(numbers)) == 3
    # And JavaScript holds them exactly
    assert all(0 < number < 2**53 - 2**40 for number in numbers)


def test_the_region_alone_is_saved_and_nothing_of_the_patient(tmp_path: Path) -> None:
    checklist = Checklist()
    color = np.dstack([picture(1), picture(2), picture(3)])
    named = frame(3, color, color="bgr", region=fe.Region(4, 2, 16, 12), pts_s=1.5)
    checklist.capture(result("brain", brain_plane="trans-thalamic", source="Jane_Doe"), named)
    written = checklist.save(tmp_path / "exam")
    names = ["brain.png", "trans-thalamic.png", "checklist.json"]
    assert [path.name for path in written] == names
    saved = cv2.imread(str(tmp_path / "exam" / "brain.png"), cv2.IMREAD_UNCHANGED)
    assert saved is not None
    assert np.array_equal(saved, color[2:14, 4:20])
    text = (tmp_path / "exam" / "checklist.json").read_text()
    report = json.loads(text)
    assert report["planes"]["brain"]["score"] == 0.9
    assert report["planes"]["brain"]["by_hand"] is True
    assert report["missing"] == [
        *("abdomen", "trans-cerebellum", "trans-ventricular", "femur", "thorax")
    ]
    assert not [secret for secret in ("Jane", "scans", "dcm") if secret in text]
    assert not any(b"Jane" in path.read_bytes() for path in written)


def test_two_exams_are_not_mixed_in_one_folder(tmp_path: Path) -> None:
    checklist = Checklist()
    checklist.capture(result(), frame(0))
    checklist.save(tmp_path)
    with pytest.raises(FileExistsError, match="not empty"):
        checklist.save(tmp_path)


@pytest.mark.parametrize("options", [{"hold_s": 0.0}, {"hold_s": 11}, {"min_confidence": 1.5}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Checklist(**options)  # type: ignore[arg-type]


def test_the_shipped_clip_gives_a_brain() -> None:
    checklist = Checklist(live=False)
    with fe.stream(DEMO_CLIP, sinks=[checklist]) as live:
        for _ in live:
            pass
    kept = checklist.captured()["brain"]
    # The head is in view from frame 126 on, is held for 30, and frozen from 255 on, which is told
    # after 15.
    assert 126 + 30 <= kept.frame_index < 255 + 15
    assert kept.score > 0.95
    assert kept.image.shape == (720, 960, 3)
    assert "femur" not in checklist.captured()
