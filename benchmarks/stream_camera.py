"""A camera in memory for `benchmarks.stream`, and the loops that read it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import cv2
import numpy as np
from numpy.typing import NDArray

import fetalclip_edge as fe
from fetalclip_edge.demo import DEMO_CLIP
from fetalclip_edge.results import Frame
from fetalclip_edge.sources import Source, open_source

__all__ = ["LOOPS", "Camera", "Sample", "Segment", "clip_images", "naive", "ours", "supervision"]

Pixels = NDArray[np.uint8]

_IMAGES, _EVERY = 10, 30
_PREFETCH = 4


@dataclass(frozen=True, slots=True)
class Sample:
    """One result.

    Attributes:
        index: number of its frame, from 0.
        latency_ms: from when the frame was due to when the consumer had the result.
        work_ms: preprocessing, inference and interpretation of it.
        overhead_ms: from when the frame was read to the result, less preprocessing and inference.
    """

    index: int
    latency_ms: float
    work_ms: float
    overhead_ms: float


@dataclass(frozen=True, slots=True)
class Segment:
    """What one loop did with a camera in some seconds.

    Attributes:
        samples: its results.
        due: frames that were due in that time.
        dropped: frames that it says it dropped.
    """

    samples: list[Sample] = field(default_factory=list)
    due: int = 0
    dropped: int = 0


class Camera:
    """Frames that fall due at a fixed rate and wait until they are read, as behind a network link.

    It has what loops use of `cv2.VideoCapture`. A read copies the picture, as a decoder or driver
    does. It ends after some seconds, whatever is left unread.

    Args:
        images: shown in turn, uint8 `(H, W, 3)` BGR.
        rate: frames per second.
        seconds: how long.
    """

    def __init__(self, images: list[Pixels], rate: float, seconds: float) -> None:
        self._images, self.rate, self._seconds = images, rate, seconds
        self._next = 0
        self._start_ns = 0
        self._released = threading.Event()

    def open(self) -> None:
        """Start the clock, unless it runs."""
        self._start_ns = self._start_ns or time.monotonic_ns()

    def read(self) -> tuple[bool, Pixels | None]:
        """The next frame, when it is due; (False, None) at the end."""
        self.open()
        due_ns = self.due_ns(self._next)
        ends_ns = self._start_ns + round(self._seconds * 1e9)
        wait_s = (due_ns - time.monotonic_ns()) / 1e9
        if wait_s > 0:
            self._released.wait(wait_s)
        if due_ns >= ends_ns or time.monotonic_ns() >= ends_ns or self._released.is_set():
            return False, None
        image = self._images[self._next % len(self._images)].copy()
        self._next += 1
        return True, image

    def due_ns(self, index: int) -> int:
        """When a frame is due, on the monotonic clock."""
        return self._start_ns + round(1e9 * index / self.rate)

    @property
    def due(self) -> int:
        """Frames that fall due in all."""
        return int(np.ceil(self._seconds * self.rate - 1e-9))

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        """True: memory can always be read."""
        return True

    def get(self, _: int) -> float:
        """No property is known."""
        return 0.0

    def set(self, _: int, __: float) -> bool:
        """No property can be set."""
        return False

    def release(self) -> None:
        """End a read that waits."""
        self._released.set()


class _CameraSource(Source):
    """A `Camera` as a source of the SDK."""

    name, live = "camera in memory", True

    def __init__(self, camera: Camera) -> None:
        self._camera, self.frame_rate = camera, camera.rate
        self._index = 0

    def open(self) -> None:
        self._camera.open()

    def read(self) -> Frame | None:
        good, image = self._camera.read()
        if not good or image is None:
            return None
        frame = Frame(image, "bgr", self._index, time.monotonic_ns(), self.name)
        self._index += 1
        return frame

    def close(self) -> None:
        self._camera.release()


def ours(model: fe.Model, camera: Camera) -> Segment:
    """`fetalclip_edge.stream` with the policy `latest`."""
    samples = []
    with fe.stream(_CameraSource(camera), model=model) as live:
        for result in live:
            now_ns = time.monotonic_ns()
            if result.frame_index is None or result.timing.capture_to_result_ms is None:
                continue  # word that no frame came
            whole = result.timing.capture_to_result_ms
            samples.append(_sample(result, result.frame_index, camera, now_ns, whole))
    return Segment(samples, camera.due, live.stats().dropped)


def naive(model: fe.Model, camera: Camera) -> Segment:
    """What people write first: read, preprocess and infer in one loop."""

    def frames() -> Iterator[Pixels]:
        while True:
            good, image = camera.read()
            if not good or image is None:
                return
            yield image

    return _follow(model, camera, frames())


def supervision(model: fe.Model, camera: Camera) -> Segment:
    """Supervision's frame generator, which decodes ahead in a thread, up to four frames.

    Raises:
        ImportError: supervision is not installed.
    """
    from supervision.utils import video

    with mock.patch("supervision.utils.video.cv2.VideoCapture", return_value=camera):
        frames = video.get_video_frames_generator("camera", prefetch=_PREFETCH)
        return _follow(model, camera, frames)


LOOPS: dict[str, Callable[[fe.Model, Camera], Segment]] = {
    "fetalclip-edge stream": ours,
    "read-and-infer loop": naive,
    f"supervision generator (prefetch {_PREFETCH})": supervision,
}
"""Name -> loop."""


def _follow(model: fe.Model, camera: Camera, frames: Iterator[Pixels]) -> Segment:
    samples = []
    for index, image in enumerate(frames):
        read_ns = time.monotonic_ns()
        result = model.analyze(image, color="bgr")
        now_ns = time.monotonic_ns()
        samples.append(_sample(result, index, camera, now_ns, (now_ns - read_ns) / 1e6))
    return Segment(samples, camera.due)


def _sample(result: fe.Result, index: int, camera: Camera, now_ns: int, whole_ms: float) -> Sample:
    timing: Any = result.timing
    encode_ms = timing.preprocess_ms + timing.inference_ms
    return Sample(
        index=index,
        latency_ms=(now_ns - camera.due_ns(index)) / 1e6,
        work_ms=encode_ms + timing.interpret_ms,
        overhead_ms=whole_ms - encode_ms,
    )


def clip_images(width: int, height: int) -> list[Pixels]:
    """Frames of the shipped simulated clip, scaled, BGR."""
    images: list[Pixels] = []
    with open_source(DEMO_CLIP) as source:
        for frame in source:
            if frame.index % _EVERY == 0 and len(images) < _IMAGES:
                gray = frame.image
                if frame.color != "gray":
                    code = {"rgb": cv2.COLOR_RGB2GRAY, "bgr": cv2.COLOR_BGR2GRAY}[frame.color]
                    gray = np.asarray(cv2.cvtColor(gray, code), dtype=np.uint8)
                scaled = cv2.resize(gray, (width, height), interpolation=cv2.INTER_CUBIC)
                images.append(np.asarray(cv2.cvtColor(scaled, cv2.COLOR_GRAY2BGR), dtype=np.uint8))
    return images
