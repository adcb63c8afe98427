"""The exam checklist: which standard planes were held, and the best picture of each."""

from __future__ import annotations

import json
import secrets
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.cache import write_whole
from fetalclip_edge.pixels import encode_png, ultrasound
from fetalclip_edge.results import BRAIN_PLANES, Frame, Result, StreamState
from fetalclip_edge.sinks.base import ClosingSink
from fetalclip_edge.words import DISCLAIMER

__all__ = ["ITEMS", "CapturedPlane", "Checklist", "ItemStatus", "ultrasound_picture"]

ITEMS = ("abdomen", "brain", *BRAIN_PLANES, "femur", "thorax")
"""What an exam looks for: the standard planes, and the sub-planes of the brain."""

_LONGEST_GAP_S = 0.5
"""A plane that was not seen for this long was not held in between."""

_EPSILON_S = 1e-6
"""Times are sums of fractions: 30 frames of 1/30 s are a second."""

_SHARPNESS_SIDE = 512
"""Pixels of the longer side at which sharpness is judged: finer detail is mostly speckle."""


@dataclass(frozen=True, slots=True, eq=False)
class CapturedPlane:
    """The picture kept for an item of the checklist.

    Attributes:
        item: one of `ITEMS`.
        score: mean confidence over the hold that ended with this picture, 0 to 1; the
            confidence of this picture alone when it was captured by hand.
        sharpness: variance of the Laplacian, of the grey picture of at most 512 pixels a side.
        by_hand: whether a person chose it.
        image: uint8, `(H, W)` grey or `(H, W, 3)` RGB: the region of the frame that is ultrasound.
        frame_index: of the frame in its source.
        number: grows with every capture, and is never used twice, by another checklist neither.
        pixel_size_mm: millimetres per pixel of `image`, or None when unknown.
    """

    item: str
    score: float
    sharpness: float
    by_hand: bool
    image: NDArray[np.uint8]
    frame_index: int
    number: int
    pixel_size_mm: float | None = None


@dataclass(frozen=True, slots=True)
class ItemStatus:
    """Where an item of the checklist stands.

    Attributes:
        item: one of `ITEMS`.
        held: how much of the hold that is needed has passed just now, 0 to 1.
        captured: the picture kept, or None.
    """

    item: str
    held: float
    captured: CapturedPlane | None


class Checklist(ClosingSink):
    """Keeps the best picture of each standard plane. A sink: `fe.stream(..., sinks=[checklist])`.

    A plane counts as seen once it was held: named without a break for `hold_s` seconds, by live
    pictures, each with at least `min_confidence`. The score of a picture is the mean confidence
    over the hold that ends with it. Of two pictures whose scores agree to a hundredth, the
    sharper one is kept. What a person has captured is not replaced but by a person.

    All methods may be called from any thread.

    Args:
        hold_s: seconds for which a plane must be held, 0.1 to 10.
        min_confidence: 0 to 1.
        live: True for a device, whose presentation times are no clock; False for a recording that
            is answered at another speed than its own.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> import fetalclip_edge as fe
        >>> from fetalclip_edge.demo import DEMO_CLIP
        >>> checklist = Checklist(live=False)
        >>> with fe.stream(DEMO_CLIP, sinks=[checklist]) as live:
        ...     for result in live:
        ...         pass
        >>> "brain" in checklist.captured()
        True
    """

    name = "checklist"

    def __init__(
        self, *, hold_s: float = 1.0, min_confidence: float = 0.8, live: bool = True
    ) -> None:
        if not 0.1 <= hold_s <= 10:
            raise ValueError(f"hold_s must be 0.1 to 10 seconds, not {hold_s!r}")
        if not 0 <= min_confidence <= 1:
            raise ValueError(f"min_confidence must be 0 to 1, not {min_confidence!r}")
        self._hold_s, self._min_confidence, self._live = hold_s, min_confidence, live
        self._lock = threading.Lock()
        # A page that outlives the device's process keeps its pictures by their numbers. By chance:
        # a device may have no clock that goes on while it is off.
        self._number = secrets.randbits(48)
        self.reset()

    def reset(self) -> None:
        """Begin a new exam: forget every picture and every hold."""
        with self._lock:
            self._captured: dict[str, CapturedPlane] = {}
            self._plane, self._brain_plane = _Hold(self._hold_s), _Hold(self._hold_s)
            self._epoch: int | None = None

    def write(self, result: Result, frame: Frame | None) -> None:
        """Take in the next result and its picture."""
        with self._lock:
            if frame is None or result.state != StreamState.LIVE or result.epoch != self._epoch:
                self._plane.clear()
                self._brain_plane.clear()
                self._epoch = result.epoch
            if frame is None or result.state != StreamState.LIVE:
                return
            recorded = not self._live and frame.pts_s is not None
            now_s = frame.pts_s if recorded and frame.pts_s is not None else frame.captured_ns / 1e9
            names = _names(result)
            for hold, name in ((self._plane, names[:1]), (self._brain_plane, names[1:])):
                item, confidence = name[0] if name else (None, 0.0)
                if confidence < self._min_confidence:
                    item = None
                score = hold.update(item, confidence, now_s)
                if item is not None and score is not None:
                    self._offer(item, score, frame)

    def consider(self, result: Result, frame: Frame) -> None:
        """Take in a picture that stands for itself, as those of a folder do: it need not be held.

        It counts with at least `min_confidence`, and its score is its own confidence.
        """
        if result.state != StreamState.LIVE:
            return
        with self._lock:
            for item, confidence in _names(result):
                if confidence >= self._min_confidence:
                    self._offer(item, confidence, frame)

    def capture(self, result: Result, frame: Frame | None) -> list[CapturedPlane]:
        """Keep this picture, as a person wants it, for the plane and sub-plane it is named.

        Raises:
            ValueError: no standard plane is named, or there is no picture.
        """
        if frame is None:
            raise ValueError("there is no picture to capture")
        if result.state not in (StreamState.LIVE, StreamState.FROZEN):
            raise ValueError("this picture has no answer, so it belongs to no plane")
        names = _names(result)
        if not names:
            raise ValueError("this picture shows no standard plane")
        image = ultrasound_picture(frame)
        sharpness = _sharpness(image)
        with self._lock:
            return [
                self._keep(item, confidence, sharpness, image, frame, by_hand=True)
                for item, confidence in names
            ]

    def captured(self) -> dict[str, CapturedPlane]:
        """Item -> the picture kept, in the order of `ITEMS`."""
        with self._lock:
            return {item: self._captured[item] for item in ITEMS if item in self._captured}

    def status(self) -> list[ItemStatus]:
        """Where every item of `ITEMS` stands."""
        with self._lock:
            return [
                ItemStatus(
                    item,
                    max(self._plane.share(item), self._brain_plane.share(item)),
                    self._captured.get(item),
                )
                for item in ITEMS
            ]

    def save(self, folder: str | Path) -> list[Path]:
        """Write `ITEM.png` for every picture kept, and `checklist.json` with their scores.

        Nothing about the patient is written: no name of the source, no DICOM attribute, no time,
        and of the picture the region alone. Where no region is known, the whole frame is kept, with
        whatever the scanner has written into it: give `fe.stream` the region then.

        Args:
            folder: made when it is not there; must be empty, so that no two exams are mixed. The
                files, and a folder that is made, are their owner's alone.

        Returns:
            The files written.

        Raises:
            FileExistsError: the folder holds something already.
            OSError: it cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty; give a folder of the exam's own")
        captured = self.captured()
        written = []
        for item, plane in captured.items():
            path = folder / f"{item}.png"
            write_whole(path, encode_png(plane.image))
            written.append(path)
        path = folder / "checklist.json"
        write_whole(path, f"{json.dumps(self._describe(captured), indent=2)}\n".encode())
        return [*written, path]

    def _describe(self, captured: dict[str, CapturedPlane]) -> dict[str, object]:
        return {
            "score": "mean confidence over the hold; of one picture when captured by hand",
            "hold_s": self._hold_s,
            "min_confidence": self._min_confidence,
            "planes": {
                item: {
                    "file": f"{item}.png",
                    "score": round(plane.score, 4),
                    "sharpness": round(plane.sharpness, 1),
                    "by_hand": plane.by_hand,
                    "frame_index": plane.frame_index,
                }
                for item, plane in captured.items()
            },
            "missing": [item for item in ITEMS if item not in captured],
            "note": DISCLAIMER,
        }

    def _offer(self, item: str, score: float, frame: Frame) -> None:
        kept = self._captured.get(item)
        if kept is not None and (kept.by_hand or round(score, 2) < round(kept.score, 2)):
            return
        image = ultrasound_picture(frame)
        rank = (round(score, 2), sharpness := _sharpness(image))
        if kept is None or rank > (round(kept.score, 2), kept.sharpness):
            self._keep(item, score, sharpness, image, frame, by_hand=False)

    def _keep(
        self,
        item: str,
        score: float,
        sharpness: float,
        image: NDArray[np.uint8],
        frame: Frame,
        *,
        by_hand: bool,
    ) -> CapturedPlane:
        self._number += 1
        kept = CapturedPlane(
            item=item,
            score=score,
            sharpness=sharpness,
            by_hand=by_hand,
            image=image,
            frame_index=frame.index,
            number=self._number,
            pixel_size_mm=frame.pixel_size_mm,
        )
        self._captured[item] = kept
        return kept


class _Hold:
    """How long one name has been given without a break, and how surely."""

    def __init__(self, hold_s: float) -> None:
        self._hold_s = hold_s
        self._moments: deque[tuple[float, float]] = deque()
        self.clear()

    def clear(self) -> None:
        self._name: str | None = None
        self._since_s = self._last_s = 0.0
        self._moments.clear()

    def update(self, name: str | None, confidence: float, now_s: float) -> float | None:
        """Mean confidence over the last `hold_s` seconds, or None when not held for as long."""
        if name != self._name or not 0 <= now_s - self._last_s <= _LONGEST_GAP_S:
            self.clear()
            self._name, self._since_s = name, now_s
        self._last_s = now_s
        if name is None:
            return None
        self._moments.append((now_s, confidence))
        while now_s - self._moments[0][0] > self._hold_s + _EPSILON_S:
            self._moments.popleft()
        if now_s - self._since_s < self._hold_s - _EPSILON_S:
            return None
        return sum(value for _, value in self._moments) / len(self._moments)

    def share(self, name: str) -> float:
        """How much of the hold has passed for that name, 0 to 1."""
        if name != self._name:
            return 0.0
        return min(1.0, (self._last_s - self._since_s) / self._hold_s)


def _names(result: Result) -> list[tuple[str, float]]:
    """The standard plane and the sub-plane that a result names, with their confidence."""
    plane, brain = result.plane, result.brain_plane
    if plane.label not in ITEMS:
        return []
    names = [(plane.label, plane.confidence)]
    if plane.label == "brain" and brain is not None and brain.label is not None:
        names.append((brain.label, brain.confidence))
    return names


def ultrasound_picture(frame: Frame) -> NDArray[np.uint8]:
    """The ultrasound alone, grey or RGB, in memory of its own."""
    return np.array(ultrasound(frame), order="C")


def _sharpness(image: NDArray[np.uint8]) -> float:
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = _SHARPNESS_SIDE / max(grey.shape)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())
