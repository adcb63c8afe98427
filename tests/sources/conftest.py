"""Pictures, videos and DICOM files for the tests of sources, made by other libraries than ours."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid


@pytest.fixture(scope="session")
def dicom_file() -> Callable[[str], Path]:
    """The path of an example file of pydicom or pydicom-data. Never downloads."""

    def find(name: str) -> Path:
        path = get_testdata_file(name, download=False)
        assert path is not None, f"{name} is missing; is pydicom-data installed?"
        return Path(path)

    return find


@pytest.fixture
def make_dicom(tmp_path: Path) -> Callable[..., Path]:
    """Write a DICOM file with the given pixels (N, H, W) or (N, H, W, 3) and elements."""

    def make(pixels: np.ndarray, name: str = "made.dcm", **elements: Any) -> Path:
        dataset = pydicom.Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = UltrasoundMultiFrameImageStorage
        dataset.SOPInstanceUID = generate_uid()
        dataset.PatientName = "Secret^Patient"
        dataset.PatientID = "4711-secret"
        dataset.Modality = "US"
        dataset.NumberOfFrames, dataset.Rows, dataset.Columns = pixels.shape[:3]
        dataset.SamplesPerPixel = 3 if pixels.ndim == 4 else 1
        dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 4 else "MONOCHROME2"
        if pixels.ndim == 4:
            dataset.PlanarConfiguration = 0
        bits = 8 * pixels.dtype.itemsize
        dataset.BitsAllocated = dataset.BitsStored = bits
        dataset.HighBit = bits - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        raw = pixels.tobytes()
        dataset.PixelData = raw + b"\0" * (len(raw) % 2)
        dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        path = tmp_path / name
        dataset.save_as(path, enforce_file_format=True)
        return path

    return make


@pytest.fixture(scope="session")
def region_item() -> Callable[..., pydicom.Dataset]:
    """An item of SequenceOfUltrasoundRegions: two-dimensional tissue, in cm."""

    def make(x0: int, y0: int, x1: int, y1: int, **elements: Any) -> pydicom.Dataset:
        item = pydicom.Dataset()
        item.RegionSpatialFormat = item.RegionDataType = 1
        item.RegionFlags = 0
        item.RegionLocationMinX0, item.RegionLocationMinY0 = x0, y0
        item.RegionLocationMaxX1, item.RegionLocationMaxY1 = x1, y1
        item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
        item.PhysicalDeltaX = item.PhysicalDeltaY = 0.02
        for keyword, value in elements.items():
            setattr(item, keyword, value)
        return item

    return make


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    """Encode pictures, all of one shape, at 25 frames per second."""

    def make(
        path: Path,
        pictures: list[np.ndarray],
        codec: str = "ffv1",
        pixel_format: str = "bgr0",
        options: dict[str, str] | None = None,
        aspect: Fraction | None = None,
    ) -> Path:
        grey = pictures[0].ndim == 2
        with av.open(str(path), "w", options=options or {}) as container:
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = pixel_format
            if aspect is not None:
                stream.codec_context.sample_aspect_ratio = aspect
            for picture in pictures:
                frame = av.VideoFrame.from_ndarray(picture, format="gray" if grey else "rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return make


@pytest.fixture(scope="session")
def moving_pictures() -> Callable[..., list[np.ndarray]]:
    """Smooth RGB pictures that differ from one another."""

    def make(number: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
        ramp = (np.add.outer(np.arange(height), np.arange(width)) * 2 % 256).astype(np.uint8)
        return [
            np.stack([np.roll(ramp, 5 * i, 1), np.roll(ramp, 3 * i, 0), 255 - ramp], axis=-1)
            for i in range(number)
        ]

    return make
