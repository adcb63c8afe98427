"""Sinks that write the report of an exam when it ends: as a page, or as JSON."""

from __future__ import annotations

import os
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from fetalclip_edge.cache import write_whole
from fetalclip_edge.errors import SinkError
from fetalclip_edge.report.data import ExamReport, Patient
from fetalclip_edge.report.recorder import ExamRecorder
from fetalclip_edge.results import Frame, Result
from fetalclip_edge.sinks.base import ClosingSink

if TYPE_CHECKING:
    from fetalclip_edge.model import Model
    from fetalclip_edge.sources import Source

__all__ = ["HtmlReport", "JsonReport", "ReportSink"]


class ReportSink(ClosingSink):
    """Follows an exam, and writes its report when it is closed. What all of them have in common.

    Args:
        path: what to write; nothing is there until the report is whole.
        patient: whose exam it is. Without, the report holds nothing of a patient.

    Raises:
        SinkError: nothing can be written there (an OSError).
    """

    def __init__(self, path: str | Path, patient: Patient | None = None) -> None:
        self.path = Path(path)
        folder = self.path.parent
        if not folder.is_dir():
            raise SinkError(f"{self.path} cannot be written: there is no folder {folder}")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise SinkError(f"{self.path} cannot be written: no permission to write in {folder}")
        self._patient = patient
        self._recorder: ExamRecorder | None = None

    def begin(self, model: Model, source: Source) -> None:
        """Begin the exam. A stream calls this; by hand it comes before the first `write`.

        Args:
            model: whose answers they are.
            source: says whether it is live, and whether its pictures are a film.
        """
        self._recorder = ExamRecorder.of(model, source)

    def write(self, result: Result, frame: Frame | None) -> None:
        """Take in the next result and its picture.

        Raises:
            SinkError: `begin` was not called, or the sink is closed.
        """
        if self._recorder is None:
            raise SinkError(f"{self.path}: give the report to a stream, or call its `begin` first")
        self._recorder.write(result, frame)

    def close(self) -> None:
        """Write the report of what there was. One that never began writes nothing.

        Raises:
            SinkError: it cannot be written.
        """
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            return
        try:
            self._save(recorder.report(self._patient))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SinkError(f"{self.path} cannot be written: {reason}") from error

    @abstractmethod
    def _save(self, report: ExamReport) -> None: ...


class HtmlReport(ReportSink):
    """Writes one page with measurements, growth chart and pictures; see docs/report.md.

    Args:
        path: the file, which is written anew, and readable by its owner alone.
        patient: whose exam it is. Without, the report holds nothing of a patient.

    Raises:
        SinkError: nothing can be written there (an OSError).

    Example:
        >>> import pathlib, tempfile
        >>> import fetalclip_edge as fe
        >>> from fetalclip_edge.demo import DEMO_CLIP
        >>> path = pathlib.Path(tempfile.mkdtemp(), "exam.html")
        >>> with fe.stream(DEMO_CLIP, sinks=[fe.HtmlReport(path)]) as live:
        ...     first = next(live)
        >>> path.read_text().startswith("<!doctype html>")
        True
    """

    name = "html report"

    def _save(self, report: ExamReport) -> None:
        from fetalclip_edge.report.html import report_html

        write_whole(self.path, report_html(report))


class JsonReport(ReportSink):
    """Writes what was measured and seen as one JSON object; see docs/report.md.

    Args:
        path: the file, which is written anew, and readable by its owner alone.
        patient: whose exam it is. Without, the report holds nothing of a patient.

    Raises:
        SinkError: nothing can be written there (an OSError).
    """

    name = "json report"

    def _save(self, report: ExamReport) -> None:
        from fetalclip_edge.report.as_json import report_json

        write_whole(self.path, report_json(report))
