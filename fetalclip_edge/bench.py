"""Latency on this device: every stage, and from capture to result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.demo import DEMO_CLIP
from fetalclip_edge.machine import describe_machine, describe_model
from fetalclip_edge.model import Model
from fetalclip_edge.results import ColorOrder, Frame
from fetalclip_edge.sources import Source, open_source
from fetalclip_edge.stream import Stream

__all__ = ["PacedSource", "benchmark"]

_CLIP_FRAMES = 30
_WARM_UP = 20


class PacedSource(Source):
    """Frames from memory at a fixed rate, as a camera delivers them: late ones are lost.

    Args:
        images: shown in turn, again and again.
        color: their colour order.
        rate: frames per second.
        count: how many frames to deliver.
    """

    name = "frames in memory"
    live = True

    def __init__(
        self, images: list[NDArray[np.uint8]], color: ColorOrder, rate: float, count: int
    ) -> None:
        self._images, self._color = images, color
        self.frame_rate, self.frame_count = rate, count
        self._index = 0
        self._start_ns = 0

    def open(self) -> None:
        """Start the clock."""
        self._start_ns = time.monotonic_ns()

    def read(self) -> Frame | None:
        """Wait until the next frame is due."""
        if self._index == self.frame_count:
            return None
        assert self.frame_rate is not None
        due_ns = self._start_ns + round(1e9 * self._index / self.frame_rate)
        time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
        frame = Frame(
            image=self._images[self._index % len(self._images)],
            color=self._color,
            index=self._index,
            captured_ns=time.monotonic_ns(),
            source=self.name,
        )
        self._index += 1
        return frame

    def close(self) -> None:
        """Nothing is held."""


def benchmark(
    model: Model,
    *,
    frames: int = 300,
    size: tuple[int, int] | None = None,
    rate: float = 30.0,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Time a model on frames of the shipped clip.

    First the frames come at `rate` through a stream with policy `latest`, as from a camera, which
    gives the latency of every stage and from capture to result. Then they are answered one after
    the other as fast as it goes, which gives frames per second. A warm-up comes before both.

    Args:
        model: what to time.
        frames: frames to time in each part, at least 1.
        size: width and height to scale the clip's frames to, or None for its own.
        rate: frames per second of the first part.
        advance: called after each frame, for a progress bar (`2 * frames` times).

    Returns:
        Plain values: machine, model, frames, latency in milliseconds (p50, p95, p99, max for each
        stage), drops and frames per second.

    Raises:
        ValueError: `frames`, `size` or `rate` is out of range.
    """
    if frames < 1 or not 0 < rate < math.inf or (size is not None and min(size) < 1):
        raise ValueError(f"frames, size and rate must be positive, not {frames}, {size}, {rate}")
    images, color = _clip_images(size)
    for index in range(_WARM_UP):
        model.analyze_frame(_still(images[index % len(images)], color, index))

    with Stream(PacedSource(images, color, rate, frames), model, "latest") as live:
        for _ in live:
            advance()
    stats = live.stats()

    begin = time.perf_counter()
    for index in range(frames):
        model.analyze_frame(_still(images[index % len(images)], color, index))
        advance()
    seconds = time.perf_counter() - begin
    height, width = images[0].shape[:2]
    return {
        "machine": describe_machine(),
        **describe_model(model),
        "frames": {
            "clip": f"{DEMO_CLIP.name} (simulated)",
            "width": width,
            "height": height,
            "channels": 3 if images[0].ndim == 3 else 1,
            "rate_per_s": rate,
            "offered": frames,
            "answered": stats.results,
            "dropped": stats.dropped,
        },
        "latency_ms": {
            stage: {name: round(value, 3) for name, value in asdict(latency).items()}
            for stage, latency in stats.latency_ms.items()
        },
        "frames_per_second": round(frames / seconds, 1),
    }


def _clip_images(size: tuple[int, int] | None) -> tuple[list[NDArray[np.uint8]], ColorOrder]:
    images: list[NDArray[np.uint8]] = []
    color: ColorOrder = "gray"
    with open_source(DEMO_CLIP) as source:
        for frame in source:
            # Every tenth frame: the whole clip in little memory.
            if frame.index % 10 == 0 and len(images) < _CLIP_FRAMES:
                image = frame.image
                if size is not None:
                    image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC))
                images.append(image)
                color = frame.color
    return images, color


def _still(image: NDArray[np.uint8], color: ColorOrder, index: int) -> Frame:
    return Frame(image, color, index, time.monotonic_ns(), "frames in memory")
