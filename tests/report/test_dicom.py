"""The DICOM report, read back by pydicom: every number, unit, code and reference."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.sr._concepts_dict import concepts

from fetalclip_edge.report import Patient, dicom_codes
from fetalclip_edge.report.dicom import make_instances, write_dicom
from fetalclip_edge.report.dicom_codes import PRIVATE_SCHEME, Coded

from ..moments import frame, result
from .exams import SHA256, followed, picture

HERE = "1.2.3.4"
JANE = Patient("Doe^Jane", "4711", date(1990, 2, 3), "F")
CODES = {name: code for name, code in vars(dicom_codes).items() if isinstance(code, Coded)}


def written(folder: Path, *circumferences: float, **options: Any) -> tuple[Dataset, list[Dataset]]:
    """The report of an exam and its images, as read from their files."""
    patient = options.pop("patient", None)
    paths = write_dicom(followed(*circumferences).report(patient), folder, **options)
    report, *images = (pydicom.dcmread(path) for path in paths)
    return report, images


def items(node: Dataset, name: str) -> Iterator[Dataset]:
    """All content items of that meaning, below a node."""
    for item in node.get("ContentSequence", ()):
        named = item.get("ConceptNameCodeSequence")
        if named and named[0].CodeMeaning == name:
            yield item
        yield from items(item, name)


def item(node: Dataset, name: str) -> Dataset:
    (found,) = items(node, name)
    return found


def number(node: Dataset) -> tuple[float, str, str]:
    """Value, unit and code of a measure."""
    value = node.MeasuredValueSequence[0]
    unit, name = value.MeasurementUnitsCodeSequence[0], node.ConceptNameCodeSequence[0]
    return float(value.NumericValue), unit.CodeValue, name.CodeValue


@pytest.mark.parametrize("name", CODES)
def test_codes_are_those_of_the_standard(name: str) -> None:
    value, scheme, meaning = CODES[name]
    if scheme in (PRIVATE_SCHEME, "RFC5646"):
        assert value == {"ENGLISH": "en"}.get(name, name.lower().replace("_", "-"))
        return
    listed = [entry[value][0] for entry in concepts[scheme].values() if value in entry]
    assert meaning in listed


def test_measures_units_and_codes(tmp_path: Path) -> None:
    report, _ = written(tmp_path / "dicom", 198.0, 200.0, 206.0)
    assert report.SOPClassUID.name == "Comprehensive SR Storage"
    assert report.ConceptNameCodeSequence[0].CodeValue == "125000"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "5000"
    circumference = item(report, "Head Circumference")
    assert number(circumference) == (200.0, "mm", "11984-2")
    assert number(item(report, "Biparietal Diameter")) == (56.0, "mm", "11820-8")
    assert number(item(report, "Occipital-Frontal Diameter")) == (70.0, "mm", "11851-3")
    assert number(item(report, "Cephalic Index")) == (80.0, "%", "11823-2")
    # 1.96 * 4 mm * sqrt(1/2 + 1/2/3)
    half = item(circumference, "+/-, range of measurement uncertainty")
    assert number(half)[:2] == (6.4, "mm")
    median = item(circumference, "Derivation").ConceptCodeSequence[0]
    assert (median.CodeValue, median.CodingSchemeDesignator) == ("373099004", "SCT")
    for diameter in ("Biparietal Diameter", "Occipital-Frontal Diameter"):
        method = item(item(report, diameter), "Measurement Method").ConceptCodeSequence[0]
        assert method.CodeMeaning == "Outer edge to outer edge of the skull"


def test_each_measure_is_in_a_group_of_its_own_and_the_age_with_the_circumference(
    tmp_path: Path,
) -> None:
    report, _ = written(tmp_path / "dicom", 200.0)
    sections = [
        (child.ValueType, child.ConceptNameCodeSequence[0].CodeMeaning)
        for child in report.ContentSequence
        if child.RelationshipType == "CONTAINS"
    ]
    assert sections == [
        ("CONTAINER", "Image Library"),
        ("CONTAINER", "Summary"),
        ("CONTAINER", "Fetal Biometry Ratios"),
        ("CONTAINER", "Fetal Biometry"),
    ]
    groups = [
        [child.ConceptNameCodeSequence[0].CodeMeaning for child in group.ContentSequence]
        for group in items(report, "Biometry Group")
    ]
    assert groups == [
        ["Head Circumference", "Gestational Age"],
        ["Biparietal Diameter"],
        ["Occipital-Frontal Diameter"],
    ]
    # One look is no median.
    assert list(items(report, "Derivation")) == []


def test_the_age_has_its_interval_and_equation(tmp_path: Path) -> None:
    report, _ = written(tmp_path / "dicom", 200.0)
    age = item(report, "Gestational Age")
    assert number(age) == (155.0, "d", "18185-9")
    low = number(item(age, "2 Sigma Lower Value of population"))
    high = number(item(age, "2 Sigma Upper Value of population"))
    assert (low[1], high[1]) == ("d", "d")
    assert 155 - 21 < low[0] < 155 - 9
    assert 155 + 9 < high[0] < 155 + 21
    equation = item(age, "Equation").ConceptCodeSequence[0]
    assert (equation.CodeValue, equation.CodingSchemeDesignator) == ("11932-1", "LN")
    assert equation.CodeMeaning == "HC, Hadlock 1984"


@pytest.mark.parametrize(("chart", "words"), [("who", "Kiserud"), ("intergrowth", "Papageorghiou")])
def test_an_equation_without_a_code_is_cited(tmp_path: Path, chart: str, words: str) -> None:
    exam = followed(200.0, chart=chart).report()
    report, *_ = map(pydicom.dcmread, write_dicom(exam, tmp_path / "dicom"))
    age = item(report, "Gestational Age")
    assert words in item(age, "Equation Citation").TextValue
    assert list(items(age, "Equation")) == []


def test_measures_refer_to_the_picture_and_the_outline_on_it(tmp_path: Path) -> None:
    report, images = written(tmp_path / "dicom", 198.0, 200.0, 206.0)
    for measure in ("Head Circumference", "Biparietal Diameter", "Cephalic Index"):
        outline = next(items(item(report, measure), "Source of Measurement"))
        assert (outline.ValueType, outline.GraphicType) == ("SCOORD", "ELLIPSE")
        # Long axis upright through (24, 20), 30 long and 24 across.
        ends = np.reshape(outline.GraphicData, (4, 2))
        expected = [[24, 5], [24, 35], [36, 20], [12, 20]]
        np.testing.assert_allclose(ends, expected, atol=1e-4)
        (chosen,) = outline.ContentSequence
        assert chosen.RelationshipType == "SELECTED FROM"
        uid = chosen.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        (image,) = (image for image in images if uid == image.SOPInstanceUID)
        np.testing.assert_array_equal(image.pixel_array, picture(3)[4:44, 8:56])


def test_the_library_holds_every_image_once_and_says_what_it_shows(tmp_path: Path) -> None:
    report, images = written(tmp_path / "dicom", 198.0, 200.0, 206.0)
    library = item(report, "Image Library")
    listed = [
        image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for image in library.ContentSequence
    ]
    assert listed == [image.SOPInstanceUID for image in images]
    views = [view.TextValue for view in items(library, "Image View")]
    assert views == [
        "brain, confidence 97 %; trans-thalamic, confidence 97 %",
        "femur, confidence 90 %, by hand",
        "head as measured, circumference 200.0 mm",
    ]
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
    assert evidence.StudyInstanceUID == images[0].StudyInstanceUID
    (series,) = evidence.ReferencedSeriesSequence
    assert {one.ReferencedSOPInstanceUID for one in series.ReferencedSOPSequence} == set(listed)


def test_the_images_are_secondary_captures_with_their_scale(tmp_path: Path) -> None:
    _, images = written(tmp_path / "dicom", 200.0)
    for number_, image in enumerate(images, 1):
        assert image.SOPClassUID.name == "Secondary Capture Image Storage"
        assert (image.Rows, image.Columns, image.Modality) == (40, 48, "US")
        assert [float(side) for side in image.PixelSpacing] == [0.5, 0.5]
        assert image.PhotometricInterpretation == "MONOCHROME2"
        assert image.InstanceNumber == number_
        assert "BurnedInAnnotation" not in image
        assert image.ImageComments.endswith("Not verified.")


def test_colour_is_kept(tmp_path: Path) -> None:
    color = np.dstack([picture(1), picture(2), picture(3)])
    recorder = followed(planes=())
    recorder.checklist.capture(result("femur"), frame(0, color, color="bgr"))
    _, *images = map(pydicom.dcmread, write_dicom(recorder.report(), tmp_path / "dicom"))
    (image,) = images
    np.testing.assert_array_equal(image.pixel_array, color[:, :, ::-1])
    assert "PixelSpacing" not in image


def test_nobody_has_verified_it_and_software_has_made_it(tmp_path: Path) -> None:
    report, _ = written(tmp_path / "dicom", 200.0)
    assert report.VerificationFlag == "UNVERIFIED"
    assert report.CompletionFlag == "PARTIAL"
    assert report.PreliminaryFlag == "PRELIMINARY"
    # That the scanner is ours nobody says.
    made = [e.ManufacturerModelName for e in report.ContributingEquipmentSequence]
    assert made == ["highdicom"]
    assert item(report, "Observer Type").ConceptCodeSequence[0].CodeMeaning == "Device"
    assert item(report, "Device Observer UID").UID.startswith("2.25.")
    measured = list(items(report, "Algorithm Name"))
    assert {name.TextValue for name in measured} == {"fetalclip-edge, student"}
    # Circumference, both diameters, index and age.
    assert len(measured) == 5
    parameters = {text.TextValue for text in items(report, "Algorithm Parameters")}
    assert f"bundle sha256 {SHA256}" in parameters
    assert "onnxruntime 1.32.0, int8" in parameters
    comments = [text.TextValue for text in items(report, "Comment")]
    assert comments[0].startswith("Not a medical device")
    assert "abdomen" in comments[-1]


def test_a_device_keeps_its_identifier_and_nothing_else_does(tmp_path: Path) -> None:
    first, images = written(tmp_path / "one", 200.0)
    second, others = written(tmp_path / "two", 200.0)
    device = [item(report, "Device Observer UID").UID for report in (first, second)]
    assert device[0] == device[1]
    uids = {instance.SOPInstanceUID for instance in (first, second, *images, *others)}
    assert len(uids) == 2 + len(images) + len(others)
    assert first.StudyInstanceUID != second.StudyInstanceUID
    assert {image.StudyInstanceUID for image in images} == {first.StudyInstanceUID}
    assert first.SeriesInstanceUID != images[0].SeriesInstanceUID
    assert all(uid.is_valid and uid.startswith("2.25.") for uid in uids)


def test_the_patient_is_the_one_given_or_nobody(tmp_path: Path) -> None:
    nobody, images = written(tmp_path / "nobody", 200.0)
    for instance in (nobody, *images):
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex"):
            assert keyword in instance
            assert not instance.get(keyword)
    jane, images = written(tmp_path / "jane", 200.0, patient=JANE)
    for instance in (jane, *images):
        assert (instance.PatientName, instance.PatientID) == ("Doe^Jane", "4711")
        assert (instance.PatientBirthDate, instance.PatientSex) == ("19900203", "F")


def test_a_name_may_be_in_any_script(tmp_path: Path) -> None:
    report, images = written(tmp_path / "dicom", 200.0, patient=Patient("Müller^Zoë", "Ж-1"))
    for instance in (report, *images):
        assert (instance.PatientName, instance.PatientID) == ("Müller^Zoë", "Ж-1")


def test_a_study_may_be_taken_over(tmp_path: Path) -> None:
    report, images = written(tmp_path / "dicom", 200.0, study_uid=HERE)
    assert {instance.StudyInstanceUID for instance in (report, *images)} == {HERE}
    assert not report.StudyDate
    with pytest.raises(ValueError, match="must be a DICOM identifier"):
        make_instances(followed(200.0).report(), study_uid="1.02.x")


def test_an_exam_without_pictures_has_no_dicom_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no picture was kept"):
        write_dicom(followed(planes=()).report(), tmp_path / "dicom")
    assert list(tmp_path.iterdir()) == []


def test_an_exam_without_a_head_says_why(tmp_path: Path) -> None:
    report, _ = written(tmp_path / "dicom")
    comments = [text.TextValue for text in items(report, "Comment")]
    assert "The head was not measured: no head was seen in a plane named brain." in comments
    assert list(items(report, "Fetal Biometry")) == []


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = pydicom.Dataset.save_as

    def full(self: Dataset, path: Path, **options: Any) -> None:
        if path.name == "image-1.dcm":
            raise OSError("disk full")
        saved(self, path, **options)

    monkeypatch.setattr(pydicom.Dataset, "save_as", full)
    with pytest.raises(OSError, match="disk full"):
        write_dicom(followed(200.0).report(), tmp_path / "dicom")
    assert list(tmp_path.iterdir()) == []


def test_dciodvfy_finds_no_error(tmp_path: Path) -> None:
    checker = shutil.which("dciodvfy")
    if checker is None:
        pytest.skip("no dciodvfy: apt install dicom3tools")
    written(tmp_path / "hadlock", 198.0, 200.0, 206.0, patient=JANE)
    written(tmp_path / "nobody", 60.0)
    checked = 0
    for path in sorted(tmp_path.rglob("*.dcm")):
        done = subprocess.run([checker, str(path)], capture_output=True, text=True)
        assert re.findall(r"^Error.*$", done.stderr + done.stdout, re.MULTILINE) == []
        checked += 1
    assert checked >= 5
