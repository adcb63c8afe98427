"""`fetalclip-edge report`: an exam from its first frame to its last, and the report of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from fetalclip_edge import display
from fetalclip_edge.cache import write_whole
from fetalclip_edge.cli_errors import BAD_INPUT, FAILED, fail
from fetalclip_edge.cli_options import (
    BackendOption,
    BundleOption,
    ChartOption,
    PixelSizeOption,
    SourceArgument,
    ThreadsOption,
    load_model,
)
from fetalclip_edge.cli_region import ProfileOption, RegionOption, region_of
from fetalclip_edge.errors import SourceError
from fetalclip_edge.geometry import RegionChoice
from fetalclip_edge.model import Model
from fetalclip_edge.report.data import ExamReport, Patient
from fetalclip_edge.report.recorder import ExamRecorder
from fetalclip_edge.sources.dicom import is_dicom
from fetalclip_edge.stream import Stream, stream
from fetalclip_edge.tasks.growth import DEFAULT_CHART

__all__ = ["report_command"]

FORMATS = ("html", "json", "dicom")

_Write = Callable[[ExamReport, Path], Path]


def report_command(
    source: SourceArgument,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the report's own, which is made")
    ],
    formats: Annotated[
        str, typer.Option("--format", metavar="LIST", help=f"Of {','.join(FORMATS)}")
    ] = "html,json",
    pixel_size_mm: PixelSizeOption = None,
    region: RegionOption = None,
    region_profile: ProfileOption = None,
    chart: ChartOption = DEFAULT_CHART,
    patient_name: Annotated[
        str, typer.Option(metavar="NAME", help="As DICOM writes it: Family^Given")
    ] = "",
    patient_id: Annotated[str, typer.Option(metavar="ID", help="Identifier of the patient")] = "",
    patient_birth_date: Annotated[
        str, typer.Option(metavar="YYYY-MM-DD", help="Date of birth")
    ] = "",
    patient_sex: Annotated[str, typer.Option(metavar="SEX", help="F, M or O")] = "",
    keep_study: Annotated[
        bool,
        typer.Option(
            "--keep-study", help="With dicom: belong to the study of SOURCE, a DICOM file"
        ),
    ] = False,
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    threads: ThreadsOption = 1,
) -> None:
    """Follow an exam to its end, or to Ctrl-C, and write its report into a folder.

    report.html is a page to read and to print; report.json holds the numbers; dicom/ a Structured
    Report with its images (needs the extra "report"). No patient is named unless you do, and
    nothing is taken from the source but pictures. What was seen until a source broke is reported.

    Example: fetalclip-edge report cine.dcm --out exam --format html,dicom
    """
    wanted = _parse_formats(formats)
    if keep_study and "dicom" not in wanted:
        fail("--keep-study is of DICOM: give --format dicom, too", BAD_INPUT)
    patient = _parse_patient(patient_name, patient_id, patient_birth_date, patient_sex)
    writers = {name: _writer(name, source, keep_study) for name in wanted}
    chosen = region_of(region, region_profile)
    _make_folder(out)
    live = _open(source, load_model(bundle, backend, threads, chart), chosen, pixel_size_mm)
    recorder = ExamRecorder.of(live.model, live.source)
    trouble = _follow(live, recorder)
    stats = live.stats()
    if stats.frames == 0:
        fail(trouble or f"{live.source.name} gave no frame that could be read", BAD_INPUT)
    exam = recorder.report(patient)
    for name in wanted:
        try:
            typer.echo(str(writers[name](exam, out)))
        except (OSError, ValueError) as error:
            trouble = f"the {name} report was not written: {error}"
    if trouble is None and stats.unreadable:
        trouble = f"{stats.unreadable} of the frames could not be read"
    if trouble is not None:
        fail(trouble, FAILED)


def _follow(live: Stream, recorder: ExamRecorder) -> str | None:
    """Take the exam in; says what has ended it before its end."""
    results = display.progress(live, "following the exam", live.source.frame_count)
    try:
        with live:
            for result in results:
                recorder.write(result, live.frame)
    except KeyboardInterrupt:
        # How a live exam ends. A recording that was to be followed to its end was not.
        return None if live.source.live else "stopped before the end of the recording"
    except SourceError as error:
        return str(error)
    return None


def _writer(name: str, source: str, keep_study: bool) -> _Write:
    """What writes the report in a format, and gives the path; ends the command if it never can."""
    if name == "html":
        from fetalclip_edge.report.html import report_html

        return lambda report, out: _write(out / "report.html", report_html(report))
    if name == "json":
        from fetalclip_edge.report.as_json import report_json

        return lambda report, out: _write(out / "report.json", report_json(report))
    if importlib.util.find_spec("highdicom") is None:
        fail('highdicom is not installed: pip install "fetalclip-edge[report]"', FAILED)
    from fetalclip_edge.report.dicom import write_dicom

    study_uid = _study_of(source) if keep_study else None
    return lambda report, out: write_dicom(report, out / "dicom", study_uid=study_uid)[0]


def _write(path: Path, data: bytes) -> Path:
    write_whole(path, data)
    return path


def _study_of(source: str) -> str:
    import pydicom

    from fetalclip_edge.report.dicom import check_study

    if not is_dicom(source):
        fail(f"--keep-study takes the study of a DICOM file, and {source} is none", BAD_INPUT)
    try:
        header = pydicom.dcmread(
            source, stop_before_pixels=True, specific_tags=["StudyInstanceUID"]
        )
        study_uid = str(header.StudyInstanceUID)
        check_study(study_uid)
    except Exception:
        # pydicom raises errors of many kinds on damaged files, with pieces of the file in the text.
        fail(f"{source} does not say which study it belongs to", BAD_INPUT)
    return study_uid


def _parse_formats(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if unknown := [name for name in names if name not in FORMATS]:
        fail(f"--format must be of {','.join(FORMATS)}, not {unknown[0]!r}", BAD_INPUT)
    return names


def _parse_patient(name: str, identifier: str, born: str, sex: str) -> Patient | None:
    if not (name or identifier or born or sex):
        return None
    try:
        birth_date = date.fromisoformat(born) if born else None
    except ValueError:
        fail(f"--patient-birth-date must be YYYY-MM-DD, not {born!r}", BAD_INPUT)
    try:
        return Patient(name, identifier, birth_date, sex)
    except ValueError as error:
        fail(str(error), BAD_INPUT)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            fail(f"--out {out} is not empty; give a folder of the report's own", BAD_INPUT)
    except OSError as error:
        fail(f"--out {out} cannot be made a folder: {error.strerror}", BAD_INPUT)


def _open(source: str, model: Model, region: RegionChoice, pixel_size_mm: float | None) -> Stream:
    try:
        live = stream(source, model=model, region=region, pixel_size_mm=pixel_size_mm)
        live.__enter__()
    except (OSError, ValueError, TypeError) as error:
        fail(str(error), BAD_INPUT)
    return live
