"""Follows an exam and knows at any time what a report of it would say."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fetalclip_edge.checklist import Checklist, ultrasound_picture
from fetalclip_edge.exam import RunningAge
from fetalclip_edge.report.data import ExamReport, HeadPicture, Patient, Software
from fetalclip_edge.results import Frame, HeadOutline, Result, StreamState
from fetalclip_edge.sinks.base import ClosingSink
from fetalclip_edge.tasks.growth import DEFAULT_CHART

if TYPE_CHECKING:
    from fetalclip_edge.sources import Source

__all__ = ["ExamRecorder", "describe_software"]

_CANDIDATES = 4
"""Frames kept to choose the head's picture from: 25 MB of full HD colour."""

_Candidate = tuple[float, HeadOutline, Frame]
"""A circumference in millimetres, and where it was measured."""

_ANSWERED = (StreamState.LIVE, StreamState.FROZEN)


class ExamRecorder(ClosingSink):
    """Keeps the best picture of each plane, and what was measured. A sink.

    Nothing of the source is kept but pictures: no name, no path, no attribute of DICOM.
    The head's measures are the medians over looks at least a second apart (see `RunningAge`);
    after a break of the source the exam goes on, and begins anew when another head is seen.

    All methods may be called from any thread.

    Args:
        model: whose answers they are; its bundle, backend and chart are named in the report.
        live: True for a device, whose presentation times are no clock.
        still_pictures: the frames are pictures of their own, each a look of its own, which need
            not be held to count. A stream that it is a sink of overrules this and `live`.
        checklist: of the exam; one of its own unless given. It is written to and reset from here.

    Example:
        >>> import fetalclip_edge as fe
        >>> from fetalclip_edge.demo import DEMO_CLIP
        >>> with fe.stream(DEMO_CLIP, pixel_size_mm=0.15277) as live:
        ...     recorder = ExamRecorder(live.model, live=False)
        ...     for result in live:
        ...         recorder.write(result, live.frame)
        >>> recorder.report().looks
        6
    """

    name = "exam"

    def __init__(
        self,
        model: object,
        *,
        live: bool = True,
        still_pictures: bool = False,
        checklist: Checklist | None = None,
    ) -> None:
        self.checklist = Checklist(live=live) if checklist is None else checklist
        self._software = describe_software(model)
        self._chart = str(getattr(model, "chart", DEFAULT_CHART))
        self._lock = threading.Lock()
        self._follow(live, still_pictures)

    @classmethod
    def of(cls, model: object, source: Source, checklist: Checklist | None = None) -> ExamRecorder:
        """For what a stream answers, which has been opened."""
        recorder = cls(model, live=source.live, checklist=checklist)
        recorder.begin(model, source)
        return recorder

    def begin(self, model: object, source: Source) -> None:
        """Learn from the source whether it is live and its pictures a film.

        A stream whose sink this is calls it before the first result.

        Args:
            model: as given before.
            source: opened.
        """
        # One frame is no film, whatever file it is in.
        still = source.still_pictures or source.frame_count == 1
        with self._lock:
            self._follow(source.live, still)

    def _follow(self, live: bool, still: bool) -> None:
        self._live, self._still = live and not still, still
        self._clear()

    def _clear(self) -> None:
        self._states: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._spoken: dict[str, str] = {}
        self._heads = RunningAge(live=self._live, chart=self._chart)
        self._candidates: list[_Candidate] = []

    def reset(self) -> None:
        """Begin a new exam: forget everything, the checklist's pictures too."""
        self.checklist.reset()
        with self._lock:
            self._clear()

    def write(self, result: Result, frame: Frame | None) -> None:
        """Take in the next result and its picture."""
        if not self._still:
            self.checklist.write(result, frame)
        elif frame is not None:
            self.checklist.consider(result, frame)
        with self._lock:
            if frame is not None:
                self._states[str(result.state)] += 1
                if result.state in _ANSWERED:
                    self._measure(result, frame)

    def _measure(self, result: Result, frame: Frame) -> None:
        head = result.head
        if head is None:
            return
        mm = head.head_circumference_mm
        if mm is None:
            self._object(head.reason or "the pixel size is unknown")
            return
        self._heads.update(result, self._timed(frame), still=result.state == StreamState.FROZEN)
        if head.outline is not None:
            self._candidates.append((mm, head.outline, frame))
            if len(self._candidates) > _CANDIDATES:
                self._candidates.remove(max(self._candidates, key=self._from_median()))

    def _object(self, reason: str) -> None:
        # Of one kind though the figures in them differ; the last one speaks for all.
        kind = re.sub(r"\d+(\.\d+)?", "0", reason)
        self._reasons[kind] += 1
        self._spoken[kind] = reason

    def _timed(self, frame: Frame) -> Frame:
        """The frame with a time by which looks can be told apart."""
        if self._still:
            return replace(frame, pts_s=float(sum(self._states.values())))
        if self._live or frame.pts_s is not None:
            return frame
        return replace(frame, pts_s=frame.captured_ns / 1e9)

    def _from_median(self) -> Callable[[_Candidate], float]:
        """How far a candidate is from the median."""
        head = self._heads.head
        assert head is not None
        middle = head.head_circumference_mm
        assert middle is not None
        return lambda candidate: abs(candidate[0] - middle)

    def report(self, patient: Patient | None = None) -> ExamReport:
        """What there is to say now.

        Args:
            patient: whose exam it is, if the report is to say so.
        """
        planes = self.checklist.captured()
        with self._lock:
            head = self._heads.head
            return ExamReport(
                created=datetime.now().astimezone(),
                software=self._software,
                planes=planes,
                states=dict(self._states),
                chart=self._chart,
                head=head,
                looks=self._heads.looks,
                head_reason=None if head is not None else self._why_no_head(),
                head_picture=self._head_picture(),
                age=self._heads.age,
                patient=patient,
            )

    def _why_no_head(self) -> str:
        if not self._reasons:
            return "no head was seen in a plane named brain"
        return self._spoken[self._reasons.most_common(1)[0][0]]

    def _head_picture(self) -> HeadPicture | None:
        if not self._candidates:
            return None
        mm, outline, frame = min(self._candidates, key=self._from_median())
        left, top = (0, 0) if frame.region is None else frame.region[:2]
        return HeadPicture(
            image=ultrasound_picture(frame),
            outline=outline._replace(x=outline.x - left, y=outline.y - top),
            circumference_mm=mm,
            frame_index=frame.index,
            pixel_size_mm=frame.pixel_size_mm,
        )


def describe_software(model: object) -> Software | None:
    """What a model is and runs on; None for one of the user's own that has no bundle or backend."""
    bundle: Any = getattr(model, "bundle", None)
    backend: Any = getattr(model, "backend", None)
    if bundle is None or backend is None:
        return None
    return Software(
        version=version("fetalclip-edge"),
        bundle_name=bundle.name,
        bundle_version=bundle.version,
        bundle_sha256=bundle.sha256,
        backend=backend.name,
        backend_version=backend.version,
        precision=backend.precision,
        device=backend.device,
        intended_use=bundle.intended_use,
        limits=bundle.limits,
    )
