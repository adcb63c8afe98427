"""`fetalclip-edge report`: an exam to its end, and what is written of it."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage

from fetalclip_edge.demo import DEMO_CLIP
from fetalclip_edge.errors import SourceError
from fetalclip_edge.model import Model
from fetalclip_edge.report import ExamRecorder
from fetalclip_edge.results import Frame, Result
from fetalclip_edge.sources import Source

from ..command_line import CommandLine

PIXEL_SIZE_MM = 0.15277
"""Of the shipped clip, by the comment in it."""

SECRETS = (b"Secret", b"4711", b"19851231", b"Dr House", b"General Hospital", b"jane_doe")


@pytest.fixture
def head_file(tmp_path: Path, clip_images: list[np.ndarray]) -> Path:
    """A picture of the clip's head, in a folder that names a patient."""
    path = tmp_path / "jane_doe" / "head.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), clip_images[200])
    return path


def told(out: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def test_the_shipped_clip_gives_the_head_that_was_simulated(
    command_line: CommandLine, tmp_path: Path
) -> None:
    out = tmp_path / "exam"
    options = ("--pixel-size-mm", PIXEL_SIZE_MM, "--format", "html,json,dicom")
    run = command_line("report", DEMO_CLIP, "--out", out, *options)
    assert (run.code, run.err) == (0, "")
    written = [out / "report.html", out / "report.json", out / "dicom" / "report.dcm"]
    assert run.out.splitlines() == [str(path) for path in written]
    report = told(out)
    # A circumference of 200 mm was simulated.
    assert 190 < report["head"]["head_circumference_mm"] < 210
    assert "brain" in report["planes"]
    structured = pydicom.dcmread(written[2])
    (value,) = [
        float(item.MeasuredValueSequence[0].NumericValue)
        for section in structured.ContentSequence
        for group in section.get("ContentSequence", ())
        for item in group.get("ContentSequence", ())
        if item.ValueType == "NUM" and item.ConceptNameCodeSequence[0].CodeValue == "11984-2"
    ]
    assert value == round(report["head"]["head_circumference_mm"], 1)
    assert f"{value:.1f} mm" in written[0].read_text()
    assert "simulated_head" not in written[0].read_text() + written[1].read_text()


def test_the_report_agrees_with_analyze(
    command_line: CommandLine, tmp_path: Path, head_file: Path
) -> None:
    size = ("--pixel-size-mm", PIXEL_SIZE_MM)
    [answer] = command_line("analyze", head_file, "--json", *size).objects
    run = command_line("report", head_file, "--out", tmp_path / "exam", *size)
    assert run.code == 0
    report = told(tmp_path / "exam")
    assert report["head"]["head_circumference_mm"] == pytest.approx(
        answer["head_circumference_mm"], abs=1e-3
    )
    assert report["gestational_age"] == answer["gestational_age"]
    assert report["planes"]["brain"]["score"] == pytest.approx(
        answer["plane"]["confidence"], abs=1e-4
    )


def test_without_a_pixel_size_it_says_why_nothing_was_measured(
    command_line: CommandLine, tmp_path: Path, head_file: Path
) -> None:
    assert command_line("report", head_file, "--out", tmp_path / "exam").code == 0
    report = told(tmp_path / "exam")
    assert (report["head"], report["head_reason"]) == (None, "the pixel size is unknown")


def test_another_chart_and_a_patient(
    command_line: CommandLine, tmp_path: Path, head_file: Path
) -> None:
    options = ["--chart", "hadlock", "--pixel-size-mm", PIXEL_SIZE_MM, "--format", "dicom,json"]
    patient = ["--patient-name", "Roe^Ann", "--patient-id", "12", "--patient-sex", "F"]
    born = ["--patient-birth-date", "1990-02-03"]
    out = tmp_path / "exam"
    assert command_line("report", head_file, "--out", out, *options, *patient, *born).code == 0
    assert told(out)["gestational_age"]["method"] == "head circumference, Hadlock 1984"
    structured = pydicom.dcmread(out / "dicom" / "report.dcm")
    assert (structured.PatientName, structured.PatientBirthDate) == ("Roe^Ann", "19900203")
    assert sorted(path.name for path in out.iterdir()) == ["dicom", "report.json"]


@pytest.fixture
def secret_dicom(tmp_path: Path, clip_images: list[np.ndarray]) -> Path:
    """A DICOM file full of what must not get out."""
    image = clip_images[200]
    source = pydicom.Dataset()
    source.file_meta = FileMetaDataset()
    source.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    source.SOPClassUID, source.SOPInstanceUID = UltrasoundImageStorage, "1.2.3.4711.1.1"
    source.StudyInstanceUID, source.SeriesInstanceUID = "1.2.3.4711", "1.2.3.4711.1"
    source.PatientName, source.PatientID = "Secret^Patient", "4711"
    source.PatientBirthDate, source.AccessionNumber = "19851231", "4711"
    source.ReferringPhysicianName, source.InstitutionName = "Dr House", "General Hospital"
    source.StudyDescription, source.Modality = "Secret study", "US"
    source.Rows, source.Columns = image.shape
    source.SamplesPerPixel, source.PhotometricInterpretation = 1, "MONOCHROME2"
    source.BitsAllocated = source.BitsStored = 8
    source.HighBit, source.PixelRepresentation = 7, 0
    source.PixelSpacing = [PIXEL_SIZE_MM, PIXEL_SIZE_MM]
    source.PixelData = image.tobytes()
    source["PixelData"].VR = "OB"
    path = tmp_path / "jane_doe.dcm"
    source.save_as(path, enforce_file_format=True)
    assert all(secret in path.read_bytes() for secret in SECRETS if secret != b"jane_doe")
    return path


def test_nothing_of_a_dicom_source_gets_out(
    command_line: CommandLine, tmp_path: Path, secret_dicom: Path
) -> None:
    out = tmp_path / "exam"
    run = command_line("report", secret_dicom, "--out", out, "--format", "html,json,dicom")
    assert run.code == 0
    assert told(out)["head"]["head_circumference_mm"] > 190
    source = pydicom.dcmread(secret_dicom)
    uids = [str(source[name].value).encode() for name in ("SOPInstanceUID", "StudyInstanceUID")]
    written = [path for path in out.rglob("*") if path.is_file()]
    assert len(written) >= 4
    for path in written:
        data = path.read_bytes()
        # Base64 of a picture may hold any four letters.
        data = data if path.suffix == ".dcm" else data.split(b"base64,")[0]
        assert [secret for secret in (*SECRETS, *uids) if secret in data] == [], path


def test_the_study_of_a_dicom_source_is_kept_on_demand(
    command_line: CommandLine, tmp_path: Path, secret_dicom: Path
) -> None:
    out = tmp_path / "exam"
    run = command_line("report", secret_dicom, "--out", out, "--format", "dicom", "--keep-study")
    assert run.code == 0
    for path in (out / "dicom").iterdir():
        instance = pydicom.dcmread(path)
        assert instance.StudyInstanceUID == "1.2.3.4711"
        assert not instance.PatientName
        assert not instance.StudyDate


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--format", "pdf"], "must be of html,json,dicom, not 'pdf'"),
        (["--patient-birth-date", "3.2.1990"], "must be YYYY-MM-DD"),
        (["--patient-sex", "female"], "patient sex must be F, M, O or empty"),
        (["--patient-id", "1\\2"], "no backslash"),
        (["--region", "1,2"], "--region must be X,Y,WIDTH,HEIGHT"),
        (["--chart", "moon"], "chart must be one of"),
        (["--keep-study"], "give --format dicom, too"),
        (["--keep-study", "--format", "dicom"], "takes the study of a DICOM file"),
        (["--pixel-size-mm", "0"], "must be a positive number"),
        (["--bundle", "nowhere"], "no bundle at nowhere"),
    ],
)
def test_bad_input_is_said(
    command_line: CommandLine, tmp_path: Path, head_file: Path, options: list[str], words: str
) -> None:
    run = command_line("report", head_file, "--out", tmp_path / "exam", *options)
    assert run.code == 2
    assert words in run.err


def test_a_folder_that_is_in_use_is_left_alone(
    command_line: CommandLine, tmp_path: Path, head_file: Path
) -> None:
    run = command_line("report", head_file, "--out", head_file.parent)
    assert (run.code, "is not empty" in run.err) == (2, True)
    run = command_line("report", head_file, "--out", head_file)
    assert (run.code, "cannot be made a folder" in run.err) == (2, True)


def test_a_source_that_is_not_there_is_said(command_line: CommandLine, tmp_path: Path) -> None:
    run = command_line("report", tmp_path / "none.mp4", "--out", tmp_path / "exam")
    assert run.code == 2
    assert "no such file" in run.err


def test_an_exam_without_a_plane_is_reported_and_has_no_dicom(
    command_line: CommandLine, tmp_path: Path
) -> None:
    blank = tmp_path / "blank.png"
    cv2.imwrite(str(blank), np.zeros((64, 64), np.uint8))
    out = tmp_path / "exam"
    run = command_line("report", blank, "--out", out, "--format", "json,dicom")
    assert run.code == 1
    assert "the dicom report was not written: no picture was kept" in run.err
    assert told(out)["results"] == {"no_signal": 1}


def test_without_highdicom_it_says_what_to_install(
    command_line: CommandLine, tmp_path: Path, head_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "highdicom" else find(name)
    )
    run = command_line("report", head_file, "--out", tmp_path / "exam", "--format", "dicom")
    assert run.code == 1
    assert 'pip install "fetalclip-edge[report]"' in run.err


def ends_after_three(monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> None:
    """Let the exam end with its third result."""
    write = ExamRecorder.write

    def write_some(self: ExamRecorder, result: Result, frame: Frame | None) -> None:
        write(self, result, frame)
        if result.frame_index == 2:
            raise error("the cable was pulled")

    monkeypatch.setattr(ExamRecorder, "write", write_some)


def test_ctrl_c_is_how_a_live_exam_ends(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_after_three(monkeypatch, KeyboardInterrupt)
    begin = ExamRecorder.of

    def of_live(model: Model, source: Source) -> ExamRecorder:
        source.live = True
        return begin(model, source)

    monkeypatch.setattr(ExamRecorder, "of", of_live)
    run = command_line("report", DEMO_CLIP, "--out", tmp_path / "exam")
    assert (run.code, run.err) == (0, "")
    assert sum(told(tmp_path / "exam")["results"].values()) >= 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyboardInterrupt, "stopped before the end of the recording"),
        (SourceError, "the cable was pulled"),
    ],
)
def test_what_was_seen_before_the_end_is_reported(
    command_line: CommandLine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
    words: str,
) -> None:
    ends_after_three(monkeypatch, error)
    run = command_line("report", DEMO_CLIP, "--out", tmp_path / "exam")
    assert run.code == 1
    assert words in run.err
    assert sum(told(tmp_path / "exam")["results"].values()) == 3


@pytest.mark.data
def test_an_exam_of_real_pictures(
    command_line: CommandLine, tmp_path: Path, data_root: Path
) -> None:
    with (data_root / "hc18" / "labels.csv").open(newline="") as file:
        head = next(row for row in csv.DictReader(file) if row["split"] == "test")
    with (data_root / "planes" / "labels.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    folder = tmp_path / "jane_doe"
    folder.mkdir()
    shutil.copy(data_root / "hc18" / head["file"], folder / "0_head.jpg")
    for name in ("Fetal abdomen", "Fetal femur", "Fetal thorax"):
        of_plane = [row["file"] for row in rows if row["plane"] == name][:4]
        assert len(of_plane) == 4
        for index, file_name in enumerate(of_plane):
            shutil.copy(data_root / "planes" / file_name, folder / f"{name}_{index}.jpg")
    size = ("--pixel-size-mm", head["pixel_size_mm"])
    [answer] = command_line("analyze", folder / "0_head.jpg", "--json", *size).objects
    out = tmp_path / "exam"
    run = command_line("report", folder, "--out", out, *size, "--format", "html,json,dicom")
    assert run.code == 0
    report = told(out)
    measured = report["head"]["head_circumference_mm"]
    assert measured == pytest.approx(answer["head_circumference_mm"], abs=1e-3)
    assert measured == pytest.approx(float(head["head_circumference_mm"]), rel=0.05)
    assert {"brain", "abdomen", "femur", "thorax"} <= set(report["planes"])
    for path in out.rglob("*.*"):
        data = path.read_bytes()
        assert b"jane_doe" not in data
        assert str(tmp_path).encode() not in data
