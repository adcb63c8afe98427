"""The data that flows through the SDK: frames in, results out. Plain frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BRAIN_PLANES",
    "PLANES",
    "BrainPlaneScores",
    "ColorOrder",
    "Frame",
    "GestationalAge",
    "HeadBiometry",
    "HeadOutline",
    "HeartScore",
    "PlaneScores",
    "ProbeScores",
    "Quality",
    "Region",
    "Result",
    "StreamState",
    "Timing",
]

ColorOrder = Literal["rgb", "bgr", "gray"]

PLANES = ("abdomen", "brain", "femur", "thorax", "cervix", "other")
"""Standard planes in the order of the scores. FetalCLIP's prompt class `heart` is `thorax`."""

BRAIN_PLANES = ("trans-thalamic", "trans-cerebellum", "trans-ventricular")
"""Sub-planes of the fetal brain."""


class StreamState(str, Enum):
    """What a result's answers are worth."""

    LIVE = "live"
    """A fresh picture, answered; `confidence` says how sure the answer is."""
    FROZEN = "frozen"
    """The picture stands still: the probe's freeze key."""
    STALE = "stale"
    """Nothing new has come from the source for too long: there is no answer."""
    NO_SIGNAL = "no_signal"
    """The picture is flat, or the source is lost and being looked for."""
    OUT_OF_DOMAIN = "out_of_domain"
    """The picture is unlike the fetal ultrasound the model knows; it abstains."""

    def __str__(self) -> str:
        return self.value


class Region(NamedTuple):
    """A rectangle in pixels of a frame, `x` to the right and `y` down from the top left."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture from a source.

    Attributes:
        image: uint8, `(H, W)` grey or `(H, W, 3)` in the order that `color` says. Nobody writes
            to it again, the source least of all: several readers may hold it.
        color: "gray", "rgb" or "bgr".
        index: running number of the frame in its source, from 0; a stream counts on when
            its source was lost and found again.
        captured_ns: `time.monotonic_ns()` right after the grab.
        source: where it came from, without credentials.
        pts_s: presentation time in the recording, in seconds, or None.
        region: the ultrasound picture within the frame, or None for the whole frame.
        pixel_size_mm: millimetres per pixel of `image`, or None when unknown.
        grab_ms: how long the source took to deliver it, or None when not measured.
        epoch: how often the source had been lost and opened again before.
        mask: uint8 `(H, W)`, 0 where the frame shows no ultrasound and is to be blanked, 255
            elsewhere, or None when nothing is. Nobody writes to it: frames share one.
    """

    image: NDArray[np.uint8]
    color: ColorOrder
    index: int
    captured_ns: int
    source: str
    pts_s: float | None = None
    region: Region | None = None
    pixel_size_mm: float | None = None
    grab_ms: float | None = None
    epoch: int = 0
    mask: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class PlaneScores:
    """The standard plane of a frame.

    Attributes:
        label: one of `PLANES`; "other" when the model abstains.
        confidence: calibrated probability of `label`, 0 to 1.
        scores: calibrated probability of every class, summing to 1, also when abstaining.
    """

    label: str
    confidence: float
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class BrainPlaneScores:
    """The sub-plane of a frame whose highest plane score is `brain`.

    Sub-planes look alike: the model card says how often they are mistaken, and how much too high
    these probabilities, fitted on few patients, came out on new ones.

    Attributes:
        label: one of `BRAIN_PLANES`, or None when the model abstains.
        confidence: probability of `label`, 0 to 1; 0 when abstaining.
        scores: probability of every sub-plane, summing to 1.
    """

    label: str | None
    confidence: float
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class GestationalAge:
    """Gestational age with its 95 % interval, in days, and the method that gave it."""

    days: int
    low_days: int
    high_days: int
    method: str


class HeadOutline(NamedTuple):
    """An ellipse in pixels of a frame; the middle of its top left pixel is at (0.5, 0.5).

    Attributes:
        x, y: the centre, `x` to the right and `y` down.
        major, minor: the long and the short diameter.
        angle_deg: of the long one against the `x` axis, clockwise on the screen, 0 to 180.
    """

    x: float
    y: float
    major: float
    minor: float
    angle_deg: float


@dataclass(frozen=True, slots=True)
class HeadBiometry:
    """Measurements of the fetal head along the outer edge of the skull; None where withheld.

    Attributes:
        head_circumference_mm: None also where the pixel size is unknown, as all in millimetres.
        biparietal_diameter_mm: from outer edge to outer edge ("outer-outer").
        occipitofrontal_diameter_mm: likewise.
        head_circumference_px: the same in pixels of the frame, known whenever there is a measure.
        biparietal_diameter_px, occipitofrontal_diameter_px: likewise.
        cephalic_index: the short diameter over the long one, 0 to 1.
        head_circumference_error_mm: standard deviation of the measurement, as found on validation
            heads; of the measurement alone, whatever the plane is worth.
        outline: where the head was seen.
        reason: why there is no measure, or none in millimetres; None when there is.
    """

    head_circumference_mm: float | None = None
    biparietal_diameter_mm: float | None = None
    occipitofrontal_diameter_mm: float | None = None
    head_circumference_px: float | None = None
    biparietal_diameter_px: float | None = None
    occipitofrontal_diameter_px: float | None = None
    cephalic_index: float | None = None
    head_circumference_error_mm: float | None = None
    outline: HeadOutline | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: the outline as an object, millimetres and pixels to a thousandth."""
        values = {name: _rounded(value) for name, value in _values(self)}
        if self.outline is not None:
            values["outline"] = {n: _rounded(v) for n, v in self.outline._asdict().items()}
        return values


@dataclass(frozen=True, slots=True)
class Quality:
    """How well a picture shows whatever it shows: 0 is bad, 1 is good, below a half is poor.

    It changes no other answer. It says what could be done when there is none.

    Attributes:
        overall: the least of the others that are known; a picture is as good as its worst fault.
        gain: neither too dark nor too bright.
        contrast: fine detail in proportion to the brightness; blur and haze take it away.
        shadow: free of dark bands below bright structures.
        motion: stands still against the moments before; None where nothing came before.
        reason: what is poor and what to do about it, in words; None when nothing is.
    """

    overall: float
    gain: float
    contrast: float
    shadow: float
    motion: float | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: the scores to a thousandth."""
        return {name: _rounded(value) for name, value in _values(self)}


@dataclass(frozen=True, slots=True)
class ProbeScores:
    """What a task of the user's own says of a frame.

    Attributes:
        label: the answer, or None when the model abstains.
        confidence: probability of `label`, 0 to 1; 0 when abstaining.
        scores: probability of every class, summing to 1, also when abstaining.
        threshold: of two classes, the probability at which the second is the answer; None where
            the highest is.
    """

    label: str | None
    confidence: float
    scores: dict[str, float]
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class HeartScore:
    """What is said of the heart over the frames of a clip, or of the last moments of a stream.

    Attributes:
        label: the answer, or None where it is withheld.
        confidence: probability of `label`, 0 to 1; 0 where withheld.
        scores: probability of every class, summing to 1; empty where withheld.
        frames: how many frames it is of.
        reason: why it is withheld, in words; None when it is not.
    """

    label: str | None
    confidence: float
    scores: dict[str, float]
    frames: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds spent on a result, stage by stage; None where a stage did not take place."""

    preprocess_ms: float
    inference_ms: float
    interpret_ms: float
    grab_ms: float | None = None
    queue_ms: float | None = None
    capture_to_result_ms: float | None = None

    def to_dict(self) -> dict[str, float]:
        """The stages that took place, without the suffix `_ms`, rounded to a microsecond."""
        stages = {name: getattr(self, f"{name}_ms") for name in _STAGES}
        return {name: round(value, 3) for name, value in stages.items() if value is not None}


_STAGES = ("grab", "queue", "preprocess", "inference", "interpret", "capture_to_result")


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What the model says of one frame.

    Attributes:
        state: what the answers are worth.
        plane: the standard plane.
        brain_plane: the sub-plane, or None when the highest plane score is not `brain`.
        gestational_age: None when the bundle has no way to tell it or withholds it.
        head: head biometry, where the plane is `brain` and the bundle measures heads, or None.
        timing: milliseconds per stage.
        embedding: float32 `(D,)`, L2-normalised; `(0,)` where there was no picture.
        source: where the frame came from, without credentials.
        frame_index: running number of the frame in its source; None for a single image, and where
            no frame came.
        pts_s: presentation time in the recording, in seconds, or None.
        dropped: frames dropped by the stream so far; None for a single image.
        reason: why the model abstains, in words; None when it does not.
        epoch: how often the stream's source had been lost and opened again before.
        domain_distance: how far the frame is from the fetal ultrasound that the model knows, in
            units of the largest distance at which it answers; None for a flat picture.
        quality: how well the picture shows what it shows; None where there is no picture.
        heart: of the clip so far, or of the last seconds of a stream; None for single pictures and
            where the bundle has no head for it.
        probes: name of each further task of the bundle -> its answer.
    """

    state: StreamState
    plane: PlaneScores
    brain_plane: BrainPlaneScores | None
    gestational_age: GestationalAge | None
    head: HeadBiometry | None
    timing: Timing
    embedding: NDArray[np.float32]
    source: str | None = None
    frame_index: int | None = None
    pts_s: float | None = None
    dropped: int | None = None
    reason: str | None = None
    domain_distance: float | None = None
    epoch: int = 0
    quality: Quality | None = None
    heart: HeartScore | None = None
    probes: dict[str, ProbeScores] = field(default_factory=dict)

    def to_dict(self, *, details: bool = False) -> dict[str, Any]:
        """The JSON object that the command line prints, as plain Python values.

        Args:
            details: with `reason`, `domain_distance`, `quality`, `heart` and `probes`, and all that
                was measured of the head, or why it was not, as `head`.
        """
        measured, age, brain = self.head, self.gestational_age, self.brain_plane
        answer: dict[str, Any] = {
            "source": self.source,
            "state": str(self.state),
            "plane": _scores_dict(self.plane),
            "brain_plane": None if brain is None else _scores_dict(brain),
            "gestational_age": None
            if age is None
            else {
                "days": age.days,
                "low_days": age.low_days,
                "high_days": age.high_days,
                "method": age.method,
            },
            "head_circumference_mm": None if measured is None else measured.head_circumference_mm,
            "timing_ms": self.timing.to_dict(),
        }
        if details:
            answer |= self._details()
        if self.frame_index is not None or self.dropped is not None:
            answer |= {"frame_index": self.frame_index, "pts_s": self.pts_s}
        if self.dropped is not None:
            answer["dropped"] = self.dropped
        return answer

    def _details(self) -> dict[str, Any]:
        distance = self.domain_distance
        return {
            "reason": self.reason,
            "domain_distance": None if distance is None else round(distance, _DIGITS),
            "head": None if self.head is None else self.head.to_dict(),
            "quality": None if self.quality is None else self.quality.to_dict(),
            "heart": None if self.heart is None else _heart_dict(self.heart),
            "probes": {name: _scores_dict(found) for name, found in self.probes.items()},
        }


_MEASURE_DIGITS = 3
"""Of lengths and scores in JSON."""

_DIGITS = 9
"""Of probabilities in JSON: enough that they still sum to 1 to eight digits."""


def _heart_dict(heart: HeartScore) -> dict[str, Any]:
    return {**_scores_dict(heart), "frames": heart.frames, "reason": heart.reason}


def _scores_dict(
    scores: PlaneScores | BrainPlaneScores | ProbeScores | HeartScore,
) -> dict[str, Any]:
    return {
        "label": scores.label,
        "confidence": round(scores.confidence, _DIGITS),
        "scores": {name: round(value, _DIGITS) for name, value in scores.scores.items()},
    }


def _values(answer: HeadBiometry | Quality) -> list[tuple[str, Any]]:
    return [(each.name, getattr(answer, each.name)) for each in fields(answer)]


def _rounded(value: Any) -> Any:
    return round(value, _MEASURE_DIGITS) if isinstance(value, float) else value
