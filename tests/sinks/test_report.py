"""Reports as sinks of a stream: written when it ends, whole or not at all."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest

import fetalclip_edge as fe
from fetalclip_edge.results import Frame, Result

from ..live_model import LiveModel

IMAGES = np.arange(6 * 8 * 8, dtype=np.uint8).reshape(6, 8, 8)
SOURCE = SimpleNamespace(live=False, still_pictures=True, frame_count=None)
JANE = fe.Patient("Doe^Jane", "4711")

Stub = Any


@pytest.fixture
def model() -> Stub:
    return LiveModel()


def test_a_stream_writes_all_three_when_it_ends(model: Stub, tmp_path: Path) -> None:
    sinks = [
        fe.HtmlReport(tmp_path / "exam.html", JANE),
        fe.JsonReport(tmp_path / "exam.json", JANE),
        fe.DicomReport(tmp_path / "dicom", JANE),
    ]
    with fe.stream(IMAGES, model=model, sinks=sinks) as live:
        assert len(list(live)) == 6
    assert {name: s.error for name, s in live.stats().sinks.items()} == {
        "html report": None,
        "json report": None,
        "dicom report": None,
    }
    told = json.loads((tmp_path / "exam.json").read_text())
    assert (list(told["planes"]), told["results"]) == (["brain"], {"live": 6})
    assert told["patient"]["name"] == "Doe^Jane"
    assert "Doe Jane" in (tmp_path / "exam.html").read_text()
    names = sorted(path.name for path in (tmp_path / "dicom").iterdir())
    assert names == ["image-1.dcm", "report.dcm"]
    assert pydicom.dcmread(tmp_path / "dicom" / "report.dcm").PatientID == "4711"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dicom", "exam.html", "exam.json"]


def test_nothing_is_there_before_the_end(model: Stub, tmp_path: Path) -> None:
    with fe.stream(IMAGES, model=model, sinks=[fe.JsonReport(tmp_path / "exam.json")]) as live:
        next(live)
        assert list(tmp_path.iterdir()) == []
    assert json.loads((tmp_path / "exam.json").read_text())["results"]["live"] >= 1


def test_an_exam_that_never_began_writes_nothing(model: Stub, tmp_path: Path) -> None:
    fe.stream(IMAGES, model=model, sinks=[fe.JsonReport(tmp_path / "exam.json")]).close()
    assert list(tmp_path.iterdir()) == []


def test_an_older_report_is_replaced(model: Stub, tmp_path: Path) -> None:
    (tmp_path / "exam.json").write_text("older")
    with fe.stream(IMAGES, model=model, sinks=[fe.JsonReport(tmp_path / "exam.json")]) as live:
        list(live)
    assert "older" not in (tmp_path / "exam.json").read_text()


def test_a_report_that_cannot_be_written_is_told_and_leaves_no_half(
    model: Stub, tmp_path: Path
) -> None:
    folder = tmp_path / "reports"
    folder.mkdir()
    sinks = [fe.HtmlReport(folder / "exam.html"), fe.JsonReport(tmp_path / "exam.json")]
    with fe.stream(IMAGES, model=model, sinks=sinks) as live:
        next(live)
        folder.rmdir()
    stats = live.stats().sinks
    assert "exam.html cannot be written: No such file" in str(stats["html report"].error)
    assert stats["json report"].error is None
    assert (tmp_path / "exam.json").is_file()


def test_an_exam_of_no_plane_has_no_dicom_and_says_so(tmp_path: Path) -> None:
    class Abstaining(LiveModel):
        def analyze_frame(self, frame: Frame) -> Result:
            answer = super().analyze_frame(frame)
            return Result(**{n: getattr(answer, n) for n in answer.__slots__} | {"state": "stale"})

    model: Stub = Abstaining()
    with fe.stream(IMAGES, model=model, sinks=[fe.DicomReport(tmp_path / "dicom")]) as live:
        list(live)
    assert "no picture was kept" in str(live.stats().sinks["dicom report"].error)
    assert list(tmp_path.iterdir()) == []


def test_by_hand_it_wants_to_be_begun(tmp_path: Path) -> None:
    path = tmp_path / "exam.json"
    frame = Frame(IMAGES[0], "gray", 0, 0, "script")
    answer = LiveModel().analyze_frame(frame)
    with fe.JsonReport(path) as report:
        with pytest.raises(fe.SinkError, match="call its `begin` first"):
            report.write(answer, frame)
        report.begin(LiveModel(), SOURCE)  # type: ignore[arg-type]
        report.write(answer, frame)
    assert list(json.loads(path.read_text())["planes"]) == ["brain"]
    report.close()
    with pytest.raises(fe.SinkError, match="begin"):
        report.write(answer, frame)


@pytest.mark.parametrize("kind", [fe.HtmlReport, fe.JsonReport, fe.DicomReport])
def test_a_place_that_is_none_is_refused_at_once(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(fe.SinkError, match="there is no folder"):
        kind(tmp_path / "missing" / "exam")


def test_dicom_wants_a_folder_of_its_own_and_a_study_that_is_one(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other").touch()
    (tmp_path / "file").touch()
    for taken in ("full", "file"):
        with pytest.raises(fe.SinkError, match="is there already"):
            fe.DicomReport(tmp_path / taken)
    with pytest.raises(ValueError, match="must be a DICOM identifier"):
        fe.DicomReport(tmp_path / "dicom", study_uid="study 7")


def test_without_highdicom_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "fetalclip_edge.report.dicom", raising=False)
    monkeypatch.delitem(sys.modules, "fetalclip_edge.report.dicom_tree", raising=False)
    monkeypatch.delattr("fetalclip_edge.report.dicom", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "highdicom"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(fe.SinkError, match=r"fetalclip-edge\[report\]"):
        fe.DicomReport(tmp_path / "dicom")
