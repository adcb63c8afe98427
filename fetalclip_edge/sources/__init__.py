"""Sources of frames: cameras, videos, images, DICOM files and arrays, all with one contract."""

from fetalclip_edge.sources.arrays import ArraySource, IterableSource, ReaderSource
from fetalclip_edge.sources.base import Source
from fetalclip_edge.sources.camera import CameraSource, CsiSource, GStreamerSource
from fetalclip_edge.sources.dicom import DicomSource
from fetalclip_edge.sources.igtl import OpenIGTLinkSource
from fetalclip_edge.sources.images import ImageSource, read_image
from fetalclip_edge.sources.opening import ACCEPTED, open_source
from fetalclip_edge.sources.video import VideoSource

__all__ = [
    "ACCEPTED",
    "ArraySource",
    "CameraSource",
    "CsiSource",
    "DicomSource",
    "GStreamerSource",
    "ImageSource",
    "IterableSource",
    "OpenIGTLinkSource",
    "ReaderSource",
    "Source",
    "VideoSource",
    "open_source",
    "read_image",
]
