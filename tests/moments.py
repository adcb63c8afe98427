"""Results and their pictures, made up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fetalclip_edge as fe
from fetalclip_edge.results import (
    BrainPlaneScores,
    GestationalAge,
    HeadBiometry,
    PlaneScores,
    Quality,
    Timing,
)

RATE = 10
"""Frames a second, by their times."""


def picture(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (24, 32), dtype=np.uint8)


def result(
    label: str = "femur",
    confidence: float = 0.9,
    state: str = "live",
    brain_plane: str | None = None,
    **other: Any,
) -> fe.Result:
    return fe.Result(
        state=fe.StreamState(state),
        plane=PlaneScores(label, confidence, {label: confidence}),
        brain_plane=None
        if brain_plane is None
        else BrainPlaneScores(brain_plane, confidence, {brain_plane: confidence}),
        gestational_age=None,
        head=None,
        timing=Timing(1.0, 2.0, 0.5),
        embedding=np.ones(4, dtype=np.float32),
        **other,
    )


def measured() -> fe.Result:
    """A head of 176.4 mm, at 20 weeks and 1 day (19 w 0 d to 21 w 2 d)."""
    return replace(
        result("brain"),
        head=HeadBiometry(head_circumference_mm=176.4),
        gestational_age=GestationalAge(141, 133, 149, "head circumference, WHO 2017"),
        quality=GOOD,
    )


GOOD = Quality(overall=0.8, gain=0.8, contrast=0.9, shadow=1.0, motion=0.85)
DARK = Quality(0.2, 0.2, 0.9, 1.0, 0.85, reason="too dark: turn the gain up")


def frame(index: int, image: NDArray[np.uint8] | None = None, **other: Any) -> fe.Frame:
    return fe.Frame(
        image=picture(index) if image is None else image,
        color=other.pop("color", "gray"),
        index=index,
        captured_ns=other.pop("captured_ns", index * 1_000_000_000 // RATE),
        source="/scans/Jane_Doe.dcm",
        **other,
    )
