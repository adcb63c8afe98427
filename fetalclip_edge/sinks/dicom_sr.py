"""The report of an exam as DICOM: a Structured Report, and the images that it names."""

from __future__ import annotations

from pathlib import Path

from fetalclip_edge.errors import SinkError
from fetalclip_edge.report.data import ExamReport, Patient
from fetalclip_edge.sinks.report import ReportSink

__all__ = ["DicomReport"]


class DicomReport(ReportSink):
    """Writes a folder with `report.dcm` (TID 5000) and `image-1.dcm` and so on; see docs/report.md.

    Needs the extra `report`. An exam of which no picture was kept has no DICOM report: the sink
    says so when it is closed.

    Args:
        path: the folder, which is made; nothing or an empty folder may be there.
        patient: whose exam it is. Without, the instances hold nothing of a patient.
        study_uid: of a study that the report belongs to; without, it is a study of its own.

    Raises:
        SinkError: highdicom is not installed, or nothing can be written there (an OSError).
        ValueError: `study_uid` is no identifier.
    """

    name = "dicom report"

    def __init__(
        self,
        path: str | Path,
        patient: Patient | None = None,
        *,
        study_uid: str | None = None,
    ) -> None:
        super().__init__(path, patient)
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise SinkError(f"{self.path} is there already; give a folder of the report's own")
        try:
            # Now, for it takes a second, and a stream does not wait long for its sinks.
            from fetalclip_edge.report import dicom
        except ImportError as error:
            raise SinkError(
                f'highdicom is not installed ({error}): pip install "fetalclip-edge[report]"'
            ) from error
        dicom.check_study(study_uid)
        self._write, self._study_uid = dicom.write_dicom, study_uid

    def _save(self, report: ExamReport) -> None:
        self._write(report, self.path, study_uid=self._study_uid)
