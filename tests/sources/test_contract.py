"""What every source promises, whatever it reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fetalclip_edge.errors import SourceError
from fetalclip_edge.results import Frame
from fetalclip_edge.sources import (
    ArraySource,
    CameraSource,
    CsiSource,
    DicomSource,
    GStreamerSource,
    ImageSource,
    IterableSource,
    OpenIGTLinkSource,
    ReaderSource,
    Source,
    VideoSource,
)

from .igtl_server import packed, serving

HEIGHT, WIDTH, NUMBER = 24, 32, 3
PICTURES = np.random.default_rng(7).integers(0, 256, (NUMBER, HEIGHT, WIDTH, 3), np.uint8)


class FakeCapture:
    """Behaves as cv2.VideoCapture: BGR pictures, one buffer used again, then no more."""

    def __init__(self) -> None:
        self.left = [picture[:, :, ::-1] for picture in PICTURES]

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def grab(self) -> bool:
        return bool(self.left)

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, self.left.pop(0).copy()

    def get(self, prop: int) -> float:
        return 0.0

    def set(self, prop: int, value: float) -> bool:
        return False

    def release(self) -> None:
        self.left.clear()


class FakeReader:
    def __init__(self) -> None:
        self.left = list(PICTURES)
        self.buffer = np.empty((HEIGHT, WIDTH, 3), np.uint8)

    def read(self) -> np.ndarray | None:
        if not self.left:
            return None
        self.buffer[:] = self.left.pop(0)
        return self.buffer


def _same_buffer() -> list[np.ndarray]:
    buffer = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    for picture in PICTURES:
        buffer[:] = picture
        yield buffer


@dataclass
class Kit:
    folder: Path
    make_video: Callable[..., Path]
    make_dicom: Callable[..., Path]
    igtl_address: str

    def images(self) -> Source:
        paths = [self.folder / f"{i}.png" for i in range(NUMBER)]
        for path, picture in zip(paths, PICTURES, strict=True):
            Image.fromarray(picture).save(path)
        return ImageSource(paths)

    def video(self) -> Source:
        return VideoSource(self.make_video(self.folder / "v.mkv", list(PICTURES)))

    def dicom(self) -> Source:
        return DicomSource(self.make_dicom(PICTURES))

    def array(self) -> Source:
        return ArraySource(PICTURES)

    def generator(self) -> Source:
        return IterableSource(_same_buffer())

    def reader(self) -> Source:
        return ReaderSource(FakeReader())

    def camera(self) -> Source:
        return CameraSource(0, make_capture=lambda device: FakeCapture())

    def gstreamer(self) -> Source:
        return GStreamerSource("v4l2src ! appsink", make_capture=lambda pipeline: FakeCapture())

    def csi(self) -> Source:
        return CsiSource(0, make_capture=lambda pipeline: FakeCapture())

    def igtl(self) -> Source:
        return OpenIGTLinkSource(self.igtl_address)


KINDS = [
    *("images", "video", "dicom", "array", "generator", "reader"),
    *("camera", "gstreamer", "csi", "igtl"),
]


@pytest.fixture(params=KINDS)
def source(request, tmp_path, make_video, make_dicom) -> Iterator[Source]:
    with serving(*map(packed, PICTURES)) as address:
        yield getattr(Kit(tmp_path, make_video, make_dicom, address), request.param)()


def read_all(source: Source) -> list[Frame]:
    """All frames. A live source does not end, it breaks."""
    frames = []
    while True:
        try:
            frame = source.read()
        except SourceError:
            assert source.live
            return frames
        if frame is None:
            assert not source.live
            return frames
        frames.append(frame)


def test_frames_come_in_order_with_the_pictures_given(source):
    with source:
        frames = read_all(source)
    assert [frame.index for frame in frames] == [0, 1, 2]
    for frame, picture in zip(frames, PICTURES, strict=True):
        expected = picture if frame.color == "rgb" else picture[:, :, ::-1]
        assert frame.color in ("rgb", "bgr")
        assert np.array_equal(frame.image, expected)


def test_images_are_uint8_and_colors_are_named(source):
    with source:
        frame = source.read()
    assert frame is not None
    assert frame.image.dtype == np.uint8
    assert frame.image.shape == (HEIGHT, WIDTH, 3)
    assert frame.source


def test_frames_are_stamped_when_they_are_read(source):
    with source:
        before = time.monotonic_ns()
        frame = source.read()
        after = time.monotonic_ns()
    assert frame is not None
    assert before <= frame.captured_ns <= after


def test_reading_before_opening_is_an_error(source):
    with pytest.raises(SourceError, match="open the source"):
        source.read()


def test_reading_after_closing_is_the_end(source):
    source.open()
    source.close()
    assert source.read() is None


def test_close_is_safe_before_open_and_twice(source):
    source.close()
    source.close()
    assert source.read() is None


def test_a_source_opens_once(source):
    with source, pytest.raises(SourceError, match="opens once"):
        source.open()


def test_the_end_stays_the_end(source):
    with source:
        read_all(source)
        assert read_all(source) == []


def test_frame_count_is_right_or_unknown(source):
    with source:
        assert source.frame_count in (NUMBER, None)
