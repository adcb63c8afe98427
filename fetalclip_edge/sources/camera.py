"""Frames from cameras, frame grabbers and GStreamer pipelines, through OpenCV."""

from __future__ import annotations

import copy
import os
import re
import sys
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import cv2
from numpy.typing import NDArray

from fetalclip_edge.errors import (
    FrameError,
    InvalidImageError,
    InvalidImageTypeError,
    SourceError,
    SourceNotFoundError,
    SourceTimeoutError,
)
from fetalclip_edge.results import ColorOrder, Frame
from fetalclip_edge.sources._handle import Handle
from fetalclip_edge.sources._lane import Lane
from fetalclip_edge.sources._names import pipeline_name
from fetalclip_edge.sources.arrays import check_picture
from fetalclip_edge.sources.base import Source

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CameraSource", "CsiSource", "GStreamerSource", "VideoDevice"]


class VideoDevice(Protocol):
    """The part of `cv2.VideoCapture` that a source uses."""

    def isOpened(self) -> bool: ...  # noqa: D102, N802
    def grab(self) -> bool: ...  # noqa: D102
    def retrieve(self) -> tuple[bool, NDArray]: ...  # type: ignore[type-arg]  # noqa: D102
    def get(self, prop: int, /) -> float: ...  # noqa: D102
    def set(self, prop: int, value: float, /) -> bool: ...  # noqa: D102
    def release(self) -> None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class _Device:
    """An open device, and the thread in which it is called."""

    capture: VideoDevice
    lane: Lane

    def release(self) -> None:
        self.lane.finish(self.capture.release)


class _CaptureSource(Source):
    """What a camera and a pipeline have in common."""

    live = True

    def __init__(self, name: str, open_timeout_s: float, read_timeout_s: float) -> None:
        self.name = name
        self._timeouts = (open_timeout_s, read_timeout_s)
        self._index = -1
        self._lane: Lane | None = None
        self._handle: Handle[_Device] = Handle(name)

    def open(self) -> None:
        """Open the device or start the pipeline.

        Raises:
            SourceNotFoundError: there is no such device; the message lists those there are.
            SourceTimeoutError: it did not open in time, or hangs in a read from before.
            SourceError: it cannot be opened; the message says what may be wrong.
        """
        self._handle.open(self._make)

    @abstractmethod
    def _open_capture(self) -> VideoDevice: ...

    def _make(self) -> tuple[_Device, Callable[[], object]]:
        if self._lane is not None and self._lane.alive:
            raise SourceTimeoutError(
                f"{self.name}: its driver has not come back from a call made before; unplug the "
                "device and plug it in again, or restart what feeds it"
            )
        self._lane = lane = Lane(self.name)
        opened: list[VideoDevice] = []

        def start() -> VideoDevice:
            capture = self._open_capture()
            opened.append(capture)
            # One buffer: the frame read is then the newest. Drivers that cannot do so decline.
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
            rate = capture.get(cv2.CAP_PROP_FPS)
            self.frame_rate = rate if rate > 0 else None
            return capture

        try:
            device = _Device(lane.call(start, self._timeouts[0]), lane)
        except BaseException as error:
            lane.finish(lambda: _release(opened))
            if isinstance(error, TimeoutError) and not isinstance(error, SourceError):
                raise SourceTimeoutError(
                    f"{self.name}: did not open within {self._timeouts[0]:g} s"
                ) from None
            raise
        return device, device.release

    def read(self) -> Frame | None:
        """Wait for the next frame.

        Raises:
            FrameError: a frame came and could not be converted.
            SourceTimeoutError: no frame came in time.
            SourceError: no more frames come: the device was unplugged or stopped.
        """
        with self._handle.borrow() as device:
            if device is None:
                return None
            seconds = self._timeouts[1]
            try:
                return device.lane.call(lambda: self._grab(device.capture), seconds)
            except SourceError:
                raise
            except TimeoutError:
                if self._handle.closed:
                    return None
                raise SourceTimeoutError(
                    f"{self.name}: no picture came for {seconds:g} s"
                ) from None

    def _grab(self, capture: VideoDevice) -> Frame | None:
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
        try:
            ok, image = capture.retrieve()
        except cv2.error:
            ok = False
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

    def renew(self) -> Self:
        """The same device or pipeline, to be opened again."""
        again = copy.copy(self)
        again._index, again._handle = -1, Handle(self.name)
        return again

    def close(self) -> None:
        """Release the device, at the latest when a read under way returns."""
        self._handle.close()


class CameraSource(_CaptureSource):
    """A camera or frame grabber: V4L2 on Linux, what OpenCV picks elsewhere.

    Args:
        device: its number, or its path such as "/dev/video0".
        make_capture: makes the capture object; for devices with a driver of their own.
        open_timeout_s: how long the device may take to open.
        read_timeout_s: how long to wait for a picture.
    """

    def __init__(
        self,
        device: int | str = 0,
        *,
        make_capture: Callable[[int | str], VideoDevice] | None = None,
        open_timeout_s: float = 10.0,
        read_timeout_s: float = 4.0,
    ) -> None:
        linux = sys.platform.startswith("linux")
        self._device = f"/dev/video{device}" if linux and isinstance(device, int) else device
        self._make_capture = make_capture
        name = str(self._device) if linux else f"camera {device}"
        super().__init__(name, open_timeout_s, read_timeout_s)

    def _open_capture(self) -> VideoDevice:
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
        return capture


class GStreamerSource(_CaptureSource):
    """A GStreamer pipeline that ends in `appsink`.

    Args:
        pipeline: in the syntax of gst-launch, for example "v4l2src device=/dev/video0 !
            videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1". Make the
            format BGR or GRAY8.
        make_capture: makes the capture object from the pipeline.
        open_timeout_s: how long the pipeline may take to start.
        read_timeout_s: how long to wait for a picture.

    Raises:
        SourceError: the pipeline does not end in `appsink`.
    """

    _advice = "the pipeline does not start; try it with gst-launch-1.0 first"

    def __init__(
        self,
        pipeline: str,
        *,
        make_capture: Callable[[str], VideoDevice] | None = None,
        open_timeout_s: float = 10.0,
        read_timeout_s: float = 4.0,
    ) -> None:
        self._pipeline = re.sub(r"\Agst-launch(-1\.0)?(\s+-\S+)*\s+", "", pipeline.strip())
        self._make_capture = make_capture
        super().__init__(pipeline_name(self._pipeline), open_timeout_s, read_timeout_s)
        if not re.search(r"!\s*appsink\b[^!]*\Z", self._pipeline):
            raise SourceError(
                f"{self.name}: the pipeline must end in appsink; add '! videoconvert ! "
                "video/x-raw,format=BGR ! appsink drop=true max-buffers=1'"
            )

    def _open_capture(self) -> VideoDevice:
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
            raise SourceError(f"{self.name}: {self._advice}")
        return capture


class CsiSource(GStreamerSource):
    """A camera at the CSI connector of a Jetson, through NVIDIA's `nvarguscamerasrc`.

    The camera's first mode is taken; for another one give the pipeline to `GStreamerSource`. OpenCV
    must be one with GStreamer, such as JetPack's.

    Args:
        sensor: its number, from 0.
        make_capture, open_timeout_s, read_timeout_s: as of `GStreamerSource`.
    """

    def __init__(
        self,
        sensor: int = 0,
        *,
        make_capture: Callable[[str], VideoDevice] | None = None,
        open_timeout_s: float = 10.0,
        read_timeout_s: float = 4.0,
    ) -> None:
        # The converter of the Jetson's memory cannot make BGR; videoconvert only drops the fourth
        # byte. The sink keeps the newest picture alone.
        super().__init__(
            f"nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM) ! nvvidconv ! "
            "video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! "
            "appsink drop=true max-buffers=1 sync=false",
            make_capture=make_capture,
            open_timeout_s=open_timeout_s,
            read_timeout_s=read_timeout_s,
        )
        self._sensor = sensor
        self.name = f"csi://{sensor}"
        self._advice = (
            "the camera does not start; see whether 'gst-launch-1.0 nvarguscamerasrc "
            f"sensor-id={sensor} ! fakesink' does, and if not, restart nvargus-daemon"
        )


def _release(captures: list[VideoDevice]) -> None:
    for capture in captures:
        capture.release()


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
