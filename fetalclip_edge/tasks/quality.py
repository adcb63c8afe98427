"""How good a picture is, whatever it shows: gain, contrast and shadow of one frame.

Looked at is the model's input, which is at hand: small, made with antialiasing, and of the region
alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.preprocess import PreprocessSpec
from fetalclip_edge.results import Quality, Result, StreamState
from fetalclip_edge.tasks.shadow import picture_outline, shadowed_share

__all__ = ["POOR", "Measures", "assess", "is_flat", "measure", "what_would_help", "with_motion"]

POOR = 0.5
"""Scores below it are poor, and worth a word."""

_ROWS = 32
"""Rows looked at, whole: pixels picked one by one would each cost a line of the cache."""
_EVERY = 8
"""Of these rows, one in so many is looked at first."""
_FLAT_STANDARD_DEVIATION = 2.0
"""In grey levels. Noise of a capture card without a signal stays below; the darkest real frames
that were looked at (2,440 obstetric ones) lie above 17."""

_FINE, _COARSE = 112, 56
"""Sides of the thumbnails, for detail and for all else."""
_DETAIL = (5, 5)

# Where a score is 0, a half and 1. Of the train frames of the four standard planes in the subset
# of FETAL_PLANES_DB (no test frame was looked at) the worst 2 % lie beyond the half, where "poor"
# begins, and the worst 20 % below 1, on each scale; HC18's train frames have nearly the same
# quantiles. The zeros are chosen. `python -m benchmarks.quality` tells the quantiles.
_DARK = (5.0, 23.5, 34.5)
_BRIGHT = (160.0, 81.0, 57.0)
_DETAILED = (0.04, 0.132, 0.19)
_SHADOWED = (0.4, 0.159, 0.067)

_SURE = 0.8
"""Confidence from which on a plane counts as seen; see `Checklist`."""

_MOVING = "moving: hold the probe still"


@dataclass(frozen=True, slots=True)
class Measures:
    """What scores are made of.

    Attributes:
        brightness: mean grey level within the picture's outline, 0 to 255.
        detail: mean difference of a pixel and its surroundings, as a share of the brightness.
        shadow: share of the picture that lies in shadow, 0 to 1.
    """

    brightness: float
    detail: float
    shadow: float


def is_flat(image: NDArray[np.uint8], mask: NDArray[np.uint8] | None = None) -> bool:
    """Whether a frame shows nothing: one colour, but for slight noise.

    Args:
        image: `(H, W)` or `(H, W, 3)`.
        mask: `(H, W)`; what lies where it is 0 is no part of the picture. None for all.
    """
    step = max(1, image.shape[0] // _ROWS)
    rows = image[step // 2 :: step]
    shown = None if mask is None else mask[step // 2 :: step]
    # The variance of all is at least that of a part, times its share. A few rows of most pictures
    # vary so much that no others need be read.
    few = rows[_EVERY // 2 :: _EVERY]
    few_shown = None if shown is None else np.ascontiguousarray(shown[_EVERY // 2 :: _EVERY])
    seen = few.shape[0] * few.shape[1] if few_shown is None else cv2.countNonZero(few_shown)
    if seen:
        share = seen / (rows.shape[0] * rows.shape[1])
        if _deviation(few, few_shown) >= _FLAT_STANDARD_DEVIATION / share**0.5:
            return False
    return _deviation(rows, shown) < _FLAT_STANDARD_DEVIATION


def assess(inputs: NDArray[Any], spec: PreprocessSpec) -> Quality:
    """The quality of one frame. Motion takes two, see `with_motion`.

    Args:
        inputs: what the model is given for the frame, `(1, C, S, S)`.
        spec: how that was made.
    """
    return judge(measure(inputs, spec))


def measure(inputs: NDArray[Any], spec: PreprocessSpec) -> Measures:
    """What there is to judge in one frame; arguments as of `assess`."""
    fine = _grey_levels(inputs, spec)
    coarse = cv2.resize(fine, (_COARSE, _COARSE), interpolation=cv2.INTER_AREA)
    sector = picture_outline(coarse)
    brightness = cv2.mean(coarse, sector)[0]
    differences = cv2.absdiff(fine, cv2.blur(fine, _DETAIL))
    differences = cv2.resize(differences, (_COARSE, _COARSE), interpolation=cv2.INTER_AREA)
    detail = cv2.mean(differences, sector)[0] / max(brightness, 1.0)
    return Measures(brightness, detail, shadowed_share(coarse, sector))


def judge(measures: Measures) -> Quality:
    """Scores of what was measured, and the worst fault in words."""
    dark, bright = _graded(measures.brightness, _DARK), _graded(measures.brightness, _BRIGHT)
    contrast, shadow = _graded(measures.detail, _DETAILED), _graded(measures.shadow, _SHADOWED)
    share = _in_words(measures.shadow)
    worst, reason = min(
        (dark, "too dark: turn the gain up"),
        (bright, "too bright: turn the gain down"),
        (shadow, f"shadow over {share} of the picture: move the probe"),
        (contrast, "little contrast: more gel, or set the focus"),
    )
    return Quality(
        overall=worst,
        gain=min(dark, bright),
        contrast=contrast,
        shadow=shadow,
        reason=reason if worst < POOR else None,
    )


def with_motion(quality: Quality, motion: float) -> Quality:
    """The same of a frame of a film, whose score of motion is known, 0 to 1."""
    if motion >= quality.overall:
        return replace(quality, motion=motion)
    reason = _MOVING if motion < POOR else quality.reason
    return replace(quality, motion=motion, overall=motion, reason=reason)


def what_would_help(result: Result) -> str | None:
    """The reason why a picture is poor, where there is no sure answer to it; None otherwise."""
    unsure = result.state == StreamState.OUT_OF_DOMAIN or (
        result.state == StreamState.LIVE
        and (result.plane.label == "other" or result.plane.confidence < _SURE)
    )
    return result.quality.reason if unsure and result.quality is not None else None


def _grey_levels(inputs: NDArray[Any], spec: PreprocessSpec) -> NDArray[np.float32]:
    """A thumbnail `(112, 112)` of the middle channel, not normalised: grey pictures have no other.

    Args:
        inputs: `(1, C, S, S)`.
        spec: how that was made.
    """
    channel = spec.channels // 2
    plane = inputs[0, channel]
    if plane.dtype == np.float16:  # which OpenCV does not resize
        plane = plane.astype(np.float32)
    small = cv2.resize(plane, (_FINE, _FINE), interpolation=cv2.INTER_AREA)
    levels: NDArray[np.float32] = small.astype(np.float32)
    if spec.dtype != "uint8":
        levels *= 255 * spec.std[channel]
        levels += 255 * spec.mean[channel]
    return levels


def _graded(value: float, scale: tuple[float, float, float]) -> float:
    """A score, linear between the values at which it is 0, a half and 1, in either order."""
    none, poor, good = scale
    if none > good:
        value, none, poor, good = -value, -none, -poor, -good
    if value < poor:
        return POOR * max(0.0, value - none) / (poor - none)
    return POOR + (1 - POOR) * min(1.0, (value - poor) / (good - poor))


def _in_words(share: float) -> str:
    if share < 0.2:
        return "part"
    if share < 0.29:
        return "a quarter"
    if share < 0.42:
        return "a third"
    return "half" if share < 0.6 else "most"


def _deviation(rows: NDArray[np.uint8], mask: NDArray[np.uint8] | None = None) -> float:
    """The standard deviation of the channel that varies most, in grey levels."""
    shown = None if mask is None else np.ascontiguousarray(mask)
    _, deviations = cv2.meanStdDev(np.ascontiguousarray(rows), mask=shown)
    return float(deviations.max())
