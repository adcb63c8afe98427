"""The report of an exam: what was seen and measured, as JSON, as a page to print, and as DICOM."""

from fetalclip_edge.report.data import ExamReport, HeadPicture, Patient, Software
from fetalclip_edge.report.recorder import ExamRecorder

__all__ = ["ExamRecorder", "ExamReport", "HeadPicture", "Patient", "Software"]
