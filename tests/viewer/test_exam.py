"""Freezing, capturing and ending an exam from a page."""

from __future__ import annotations

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from starlette.testclient import TestClient

from fetalclip_edge.checklist import Checklist
from fetalclip_edge.viewer.exams import Ended, Exams
from fetalclip_edge.viewer.hub import Hub
from fetalclip_edge.viewer.wire import Moment

from ..moments import frame, picture, result
from .conftest import WAIT, open_page

pytestmark = pytest.mark.usefixtures("quiet")


def test_a_page_captures_the_picture_that_it_shows(hub: Hub, client: TestClient) -> None:
    with open_page(client) as page:
        hub.write(result("femur", 0.9), frame(1))
        page.take()
        hub.write(result("abdomen", 0.9), frame(2))
        page.take()
        page.wish(do="capture", number=1)
        assert page.notice() == {"notice": "Captured: femur.", "ok": True}
        page.wish(do="shown")
        header = page.show_until(lambda header: any(i["captured"] for i in header["checklist"]))
    (item,) = [item for item in header["checklist"] if item["captured"]]
    number = hub.checklist.captured()["femur"].number
    assert item == {
        "item": "femur",
        "held": 0.0,
        "captured": {"number": number, "score": 0.9, "by_hand": True},
    }
    answer = client.get("/captured/femur.png")
    kept = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert kept is not None
    assert np.array_equal(kept, picture(1))
    assert answer.headers["cache-control"] == "no-store"
    thumbnail = client.get("/captured/femur.jpg")
    assert thumbnail.headers["content-type"] == "image/jpeg"
    assert thumbnail.content.startswith(b"\xff\xd8")


def test_a_held_picture_can_be_captured_long_after(hub: Hub, client: TestClient) -> None:
    with open_page(client) as page:
        hub.write(result("femur"), frame(1))
        page.show()
        page.wish(do="hold", number=1)
        for number in range(2, 12):
            hub.write(result("abdomen"), frame(number))
            page.show_until(lambda header, number=number: header["number"] == number)
        page.wish(do="capture", number=1)
        assert page.notice()["notice"] == "Captured: femur."
        page.wish(do="release")
        page.wish(do="capture", number=1)
        assert page.notice()["ok"] is False


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (result("other"), "Not captured: this picture shows no standard plane."),
        (
            result("other", state="out_of_domain"),
            "Not captured: this picture has no answer, so it belongs to no plane.",
        ),
    ],
)
def test_what_cannot_be_captured_is_said(
    hub: Hub, client: TestClient, answer: object, words: str
) -> None:
    with open_page(client) as page:
        hub.write(answer, frame(1))  # type: ignore[arg-type]
        page.show()
        page.wish(do="capture", number=1)
        assert page.notice() == {"notice": words, "ok": False}


def test_a_picture_that_the_page_never_showed_is_not_captured(hub: Hub, client: TestClient) -> None:
    with open_page(client) as page:
        page.wish(do="capture", number=7)
        assert page.notice()["ok"] is False
    assert hub.checklist.captured() == {}


def test_a_new_exam_clears_every_page(hub: Hub, client: TestClient) -> None:
    with open_page(client) as one, open_page(client) as other:
        hub.checklist.capture(result("thorax"), frame(0))
        hub.write(result("thorax"), frame(1))
        assert [i["item"] for i in one.show()[0]["checklist"] if i["captured"]] == ["thorax"]
        one.wish(do="new_exam")
        other.show_until(lambda header: not any(i["captured"] for i in header["checklist"]))
    assert client.get("/captured/thorax.png").status_code == 404


def test_a_picture_of_the_exam_before_is_not_captured_into_the_new_one(
    hub: Hub, client: TestClient
) -> None:
    with open_page(client) as frozen, open_page(client) as other:
        # Given a page that stands still, and one that shows the newest picture
        hub.write(result("femur"), frame(1))
        frozen.show()
        other.show()
        frozen.wish(do="hold", number=1)
        # When a new exam begins
        other.wish(do="new_exam")
        assert other.notice() == {"notice": "New exam.", "ok": True}
        # Then neither picture can be captured, and the next one can
        for page in (frozen, other):
            page.wish(do="capture", number=1)
            assert page.notice() == {
                "notice": "Not captured: this picture is of the exam before.",
                "ok": False,
            }
        assert hub.checklist.captured() == {}
        hub.write(result("thorax"), frame(2))
        other.show_until(lambda header: header["number"] == 2)
        other.wish(do="capture", number=2)
        assert other.notice()["notice"] == "Captured: thorax."


def test_what_is_captured_while_an_exam_ends_is_saved_or_refused(tmp_path: Path) -> None:
    # Given an exam that takes its time to end
    hub = Hub(Checklist())
    begun, captured = threading.Event(), threading.Event()
    exams = Exams(hub.checklist, tmp_path)

    def end() -> Ended:
        begun.set()
        # It would be captured by now, were it not waited for
        captured.wait(0.2)
        return exams.end()

    hub.checklist.capture(result("thorax"), frame(0))
    hub.write(result("femur"), frame(1))
    with ThreadPoolExecutor() as pool:
        ending = pool.submit(hub.end_exam, end)
        assert begun.wait(WAIT)
        # When a page captures meanwhile
        capturing = pool.submit(hub.capture, Moment(1, result("femur"), frame(1)))
        capturing.add_done_callback(lambda _: captured.set())
        # Then it is told that it came too late
        assert ending.result(WAIT).words == "Saved as exam-001: 1 of 7 planes."
        with pytest.raises(ValueError, match="of the exam before"):
            capturing.result(WAIT)
    assert hub.checklist.captured() == {}


def test_an_exam_that_could_not_be_saved_can_be_added_to(
    hub: Hub, exams: Exams, client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "exams").write_text("no folder")
    monkeypatch.setattr(exams, "_folder", tmp_path / "exams")
    hub.checklist.capture(result("thorax"), frame(0))
    with open_page(client) as page:
        hub.write(result("femur"), frame(1))
        page.show()
        page.wish(do="new_exam")
        assert page.notice()["ok"] is False
        page.wish(do="capture", number=1)
        assert page.notice() == {"notice": "Captured: femur.", "ok": True}
    assert list(hub.checklist.captured()) == ["femur", "thorax"]


def test_the_report_is_downloaded(client: TestClient) -> None:
    answer = client.get("/report.html")
    assert answer.content == b"<!doctype html>what there is"
    assert answer.headers["content-disposition"] == 'attachment; filename="exam-report.html"'
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path", ["femur.png", "nothing.png", "femur.exe", "..%2f..%2fapp.png", "femur"]
)
def test_a_picture_that_is_not_kept_is_not_there(client: TestClient, path: str) -> None:
    assert client.get(f"/captured/{path}").status_code == 404


def test_exams_are_saved_side_by_side(tmp_path: Path) -> None:
    checklist = Checklist()
    exams = Exams(checklist, tmp_path / "exams")
    for item in ("femur", "thorax"):
        checklist.capture(result(item), frame(0))
        assert exams.end().words.endswith(": 1 of 7 planes.")
        assert checklist.captured() == {}
    assert exams.end() == Ended("New exam.", new=True)
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    assert written == ["exams/exam-001/femur.png", "exams/exam-002/thorax.png"]


def test_a_saved_exam_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    checklist = Checklist()
    checklist.capture(result("femur"), frame(0))
    Exams(checklist, tmp_path).end()
    modes = {
        str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")
    }
    assert modes == {
        "exam-001": 0o700,
        "exam-001/femur.png": 0o600,
        "exam-001/checklist.json": 0o600,
    }


def test_an_exam_is_saved_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a disk that is full when the second file is written
    checklist = Checklist()
    checklist.capture(result("femur"), frame(0))
    written = []

    def write(path: Path, data: bytes) -> None:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path.write_bytes(data))

    with monkeypatch.context() as full:
        full.setattr("fetalclip_edge.checklist.write_whole", write)
        ended = Exams(checklist, tmp_path).end()
    assert ended == Ended("Not saved, so the exam goes on: No space left on device.", new=False)
    # Then nothing of it is left
    assert len(written) == 1
    assert list(tmp_path.iterdir()) == []
    # And it can be saved under the same name when there is room
    assert Exams(checklist, tmp_path).end().words == "Saved as exam-001: 1 of 7 planes."


def test_an_exam_that_cannot_be_saved_goes_on(tmp_path: Path) -> None:
    (tmp_path / "exams").write_text("no folder")
    checklist = Checklist()
    checklist.capture(result("femur"), frame(0))
    ended = Exams(checklist, tmp_path / "exams").end()
    assert "Not saved, so the exam goes on" in ended.words
    assert not ended.new
    assert list(checklist.captured()) == ["femur"]
