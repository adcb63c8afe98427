"""Frames from cameras, frame grabbers and GStreamer pipelines, through OpenCV."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import cv2
from numpy.typing import NDArray

from fetalclip_edge.errors import (
    FrameError,
    InvalidImageError,
    InvalidImageTypeError,
    SourceError,
    SourceNotFoundError,
)
from fetalclip_edge.results import ColorOrder, Frame
from fetalclip_edge.sources._handle import Handle
from fetalclip_edge.sources._names import pipeline_name
from fetalclip_edge.sources.arrays import check_picture
from fetalclip_edge.sources.base import Source

__all__ = ["CameraSource", "GStreamerSource", "VideoDevice"]


class VideoDevice(Protocol):
    """The part of `cv2.VideoCapture` that a source uses."""

    def isOpened(self) -> bool: ...  # noqa: D102, N802
    def grab(self) -> bool: ...  # noqa: D102
    def retrieve(self) -> tuple[bool, NDArray]: ...  # type: ignore[type-arg]  # noqa: D102
    def get(self, prop: int, /) -> float: ...  # noqa: D102
    def set(self, prop: int, value: float, /) -> bool: ...  # noqa: D102
    def release(self) -> None: ...  # noqa: D102


class _CaptureSource(Source):
    """What a camera and a pipeline have in common."""

    live = True

    def __init__(self, name: str) -> None:
        self.name = name
        self._index = -1
        self._handle: Handle[VideoDevice] = Handle(name)

    def _start(self, capture: VideoDevice) -> tuple[VideoDevice, Callable[[], object]]:
        # One buffer: the frame read is then the newest. Drivers that cannot do so decline.
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        rate = capture.get(cv2.CAP_PROP_FPS)
        self.frame_rate = rate if rate > 0 else None
        return capture, capture.release

    def read(self) -> Frame | None:
        """Wait for the next frame.

        Raises:
            FrameError: a frame came and could not be converted.
            SourceError: no more frames come: the device was unplugged or stopped.
        """
        with self._handle.borrow() as capture:
            if capture is None:
                return None
            if not capture.grab():
                if self._handle.closed:
                    return None
                raise SourceError(
                    f"{self.name}: no frame came after {self._index + 1}; "
                    "the device was unplugged, switched off or its signal is lost"
                )
            captured_ns = time.monotonic_ns()
            self._index += 1
            what = f"{self.name}: frame {self._index}"
            ok, image = capture.retrieve()
            if not ok:
                raise FrameError(f"{what} could not be decoded")
            if image.ndim == 3 and image.shape[2] == 1:
                image = image[:, :, 0]
            try:
                picture = check_picture(image, what)
            except (InvalidImageError, InvalidImageTypeError) as error:
                raise FrameError(str(error)) from None
            color: ColorOrder = "gray" if picture.ndim == 2 else "bgr"
            return Frame(picture, color, self._index, captured_ns, self.name)

    def close(self) -> None:
        """Release the device, at the latest when a read under way returns."""
        self._handle.close()


class CameraSource(_CaptureSource):
    """A camera or frame grabber: V4L2 on Linux, what OpenCV picks elsewhere.

    Args:
        device: its number, or its path such as "/dev/video0".
        make_capture: makes the capture object; for devices with a driver of their own.
    """

    def __init__(
        self,
        device: int | str = 0,
        *,
        make_capture: Callable[[int | str], VideoDevice] | None = None,
    ) -> None:
        linux = sys.platform.startswith("linux")
        self._device = f"/dev/video{device}" if linux and isinstance(device, int) else device
        self._make_capture = make_capture
        super().__init__(str(self._device) if linux else f"camera {device}")

    def open(self) -> None:
        """Open the device.

        Raises:
            SourceNotFoundError: there is no such device; the message lists those there are.
            SourceError: the device is not ours to open, in use, or no camera.
        """
        self._handle.open(self._make)

    def renew(self) -> CameraSource:
        """The same device, to be opened again."""
        return CameraSource(self._device, make_capture=self._make_capture)

    def _make(self) -> tuple[VideoDevice, Callable[[], object]]:
        if self._make_capture is not None:
            capture = self._make_capture(self._device)
        else:
            if isinstance(self._device, str):
                _check_device(self._device)
            v4l2 = sys.platform.startswith("linux")
            capture = cv2.VideoCapture(self._device, cv2.CAP_V4L2 if v4l2 else cv2.CAP_ANY)
        if not capture.isOpened():
            capture.release()
            raise SourceError(
                f"{self.name}: the camera does not open; another program may be using it, or it "
                "is a metadata node and the camera is the device with the number before"
            )
        return self._start(capture)


class GStreamerSource(_CaptureSource):
    """A GStreamer pipeline that ends in `appsink`.

    Args:
        pipeline: in the syntax of gst-launch, for example "v4l2src device=/dev/video0 !
            videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1". Make the
            format BGR or GRAY8.
        make_capture: makes the capture object from the pipeline.

    Raises:
        SourceError: the pipeline does not end in `appsink`.
    """

    def __init__(
        self, pipeline: str, *, make_capture: Callable[[str], VideoDevice] | None = None
    ) -> None:
        self._pipeline = re.sub(r"\Agst-launch(-1\.0)?(\s+-\S+)*\s+", "", pipeline.strip())
        self._make_capture = make_capture
        super().__init__(pipeline_name(self._pipeline))
        if not re.search(r"!\s*appsink\b[^!]*\Z", self._pipeline):
            raise SourceError(
                f"{self.name}: the pipeline must end in appsink; add '! videoconvert ! "
                "video/x-raw,format=BGR ! appsink drop=true max-buffers=1'"
            )

    def open(self) -> None:
        """Start the pipeline.

        Raises:
            SourceError: this OpenCV has no GStreamer, or the pipeline does not start.
        """
        self._handle.open(self._make)

    def renew(self) -> GStreamerSource:
        """The same pipeline, to be started again."""
        return GStreamerSource(self._pipeline, make_capture=self._make_capture)

    def _make(self) -> tuple[VideoDevice, Callable[[], object]]:
        if self._make_capture is not None:
            capture = self._make_capture(self._pipeline)
        else:
            if not _has_gstreamer():
                raise SourceError(
                    f"{self.name}: this OpenCV ({cv2.__version__}) was built without GStreamer, "
                    "as all opencv-python wheels are; install the system's OpenCV (apt install "
                    "python3-opencv, or the one of JetPack) in place of the wheel"
                )
            capture = cv2.VideoCapture(self._pipeline, cv2.CAP_GSTREAMER)
        if not capture.isOpened():
            capture.release()
            raise SourceError(
                f"{self.name}: the pipeline does not start; try it with gst-launch-1.0 first"
            )
        return self._start(capture)


def _has_gstreamer() -> bool:
    return re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()) is not None


def _check_device(device: str) -> None:
    path = Path(device)
    if not path.exists():
        there = sorted(str(node) for node in Path("/dev").glob("video*"))
        known = f"there are {', '.join(there)}" if there else "this machine has no /dev/video*"
        raise SourceNotFoundError(f"{device}: there is no such camera; {known}")
    if not os.access(path, os.R_OK | os.W_OK):
        raise SourceError(
            f"{device}: no permission to open the camera; add the user to the group that owns it "
            "(sudo usermod -aG video $USER, then log in again)"
        )
