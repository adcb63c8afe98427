"""FetalCLIP on the ultrasound probe: standard planes from live video, in INT8.

Not a medical device: for research and engineering, never for diagnosis.
"""

from importlib.metadata import version

from fetalclip_edge.backoff import Backoff
from fetalclip_edge.checklist import Checklist
from fetalclip_edge.errors import FetalCLIPEdgeError, SinkError, SourceError
from fetalclip_edge.model import Model, load
from fetalclip_edge.preprocess import preprocess
from fetalclip_edge.report import ExamRecorder, Patient
from fetalclip_edge.results import Frame, Region, Result, StreamState
from fetalclip_edge.sectors import RegionProfile, Sector, find_sector, read_profile
from fetalclip_edge.sinks import CallbackSink, JsonlSink, MetricsSink, Sink, SinkStats, VideoSink
from fetalclip_edge.sinks.dicom_sr import DicomReport
from fetalclip_edge.sinks.report import HtmlReport, JsonReport
from fetalclip_edge.sources import Source
from fetalclip_edge.stream import StateChange, Stream, StreamStats, stream

__all__ = [
    "Backoff",
    "CallbackSink",
    "Checklist",
    "DicomReport",
    "ExamRecorder",
    "FetalCLIPEdgeError",
    "Frame",
    "HtmlReport",
    "JsonReport",
    "JsonlSink",
    "MetricsSink",
    "Model",
    "Patient",
    "Region",
    "RegionProfile",
    "Result",
    "Sector",
    "Sink",
    "SinkError",
    "SinkStats",
    "Source",
    "SourceError",
    "StateChange",
    "Stream",
    "StreamState",
    "StreamStats",
    "VideoSink",
    "find_sector",
    "load",
    "preprocess",
    "read_profile",
    "stream",
]

__version__ = version("fetalclip-edge")
