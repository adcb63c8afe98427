"""Well-formed files to spoil: synthetic, small, one of each kind that the readers know."""

from __future__ import annotations

import hashlib
import io
import json
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pydicom
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
)
from pyigtl import ImageMessage, StringMessage, TransformMessage

from fetalclip_edge.bundle import DEFAULT_BUNDLE

# JPEG lossless, JPEG-LS and JPEG 2000
_SAMPLES = (
    "SC_rgb_jpeg_gdcm.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "MR_small_jp2klossless.dcm",
)
_NOISE = np.random.default_rng(0)
_GREY = _NOISE.integers(0, 256, (16, 24), np.uint8)
_COLOR = _NOISE.integers(0, 256, (16, 24, 3), np.uint8)


@cache
def images() -> tuple[bytes, ...]:
    """PNG, JPEG and BMP, as OpenCV and as Pillow write them."""
    made = [cv2.imencode(suffix, _COLOR)[1].tobytes() for suffix in (".png", ".jpg", ".bmp")]
    made.append(cv2.imencode(".png", _GREY.astype(np.uint16) * 257)[1].tobytes())
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    grey, color = Image.fromarray(_GREY), Image.fromarray(_COLOR)
    for picture, kind, options in (
        (grey, "PNG", {}),
        (color.quantize(16), "PNG", {}),
        (color.convert("RGBA"), "PNG", {"exif": exif}),
        (grey, "JPEG", {"progressive": True}),
        (color, "JPEG", {"exif": exif, "restart_marker_blocks": 1}),
        (color.quantize(16), "BMP", {}),
    ):
        file = io.BytesIO()
        picture.save(file, kind, **options)
        made.append(file.getvalue())
    return tuple(made)


@cache
def dicom() -> tuple[bytes, ...]:
    """Three frames of ultrasound with a region, and pydicom's samples of other JPEGs."""
    syntaxes = ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, JPEGBaseline8Bit
    samples = [get_testdata_file(name, download=False) for name in _SAMPLES]
    return (*map(_dicom, syntaxes), *(Path(str(path)).read_bytes() for path in samples))


def _dicom(syntax: str) -> bytes:
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = (
        ExplicitVRLittleEndian if syntax == RLELossless else syntax
    )
    dataset.SOPClassUID, dataset.SOPInstanceUID = UltrasoundMultiFrameImageStorage, "1.2.3"
    dataset.Modality = "US"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = 3, 8, 8
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.FrameTime, dataset.WindowCenter, dataset.WindowWidth = 40, 100, 50
    region = pydicom.Dataset()
    region.RegionSpatialFormat = region.RegionDataType = 1
    region.RegionFlags = region.RegionLocationMinX0 = region.RegionLocationMinY0 = 0
    region.RegionLocationMaxX1 = region.RegionLocationMaxY1 = 7
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX = region.PhysicalDeltaY = 0.02
    dataset.SequenceOfUltrasoundRegions = [region]
    frames = _NOISE.integers(0, 256, (3, 8, 8), np.uint8)
    if syntax == JPEGBaseline8Bit:
        jpegs = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames]
        dataset.PixelData = encapsulate(jpegs)
        dataset["PixelData"].is_undefined_length = True
    else:
        dataset.PixelData = frames.tobytes()
    dataset["PixelData"].VR = "OB"
    if syntax == RLELossless:
        dataset.compress(RLELossless)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


@cache
def manifests() -> tuple[bytes, ...]:
    """The shipped manifest, with the checksums of the small files of `write_bundle`."""
    manifest = json.loads((DEFAULT_BUNDLE / "manifest.json").read_bytes())
    for name in manifest["files"]:
        manifest["files"][name]["sha256"] = hashlib.sha256(_stand_in(name)).hexdigest()
    return (json.dumps(manifest).encode(),)


def write_bundle(folder: Path, manifest: bytes) -> None:
    """A bundle with that manifest and its checksum, and small files for those that nobody reads."""
    for name in json.loads(manifests()[0])["files"]:
        if not (folder / name).exists():
            (folder / name).write_bytes(_stand_in(name))
    (folder / "manifest.json").write_bytes(manifest)
    digest = hashlib.sha256(manifest).hexdigest()
    (folder / "manifest.sha256").write_text(f"{digest}  manifest.json\n")


def _stand_in(name: str) -> bytes:
    read = name in ("prompts.safetensors", "reference.safetensors")
    return (DEFAULT_BUNDLE / name).read_bytes() if read else name.encode()


@cache
def messages() -> tuple[bytes, ...]:
    """What an OpenIGTLink server may send."""
    described = ImageMessage(_COLOR[None], device_name="Image")
    described.header_version, described.metadata = 2, {"depth": "12 cm"}
    grey = ImageMessage(_GREY[None], np.diag([0.2, 0.2, 1, 1]), device_name="Image")
    other = TransformMessage(np.eye(4), device_name="Probe")
    text = StringMessage("scanning", device_name="State")
    return (
        grey.pack() + other.pack() + grey.pack(),
        described.pack() + text.pack() + grey.pack(),
    )
