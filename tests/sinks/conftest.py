from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fetalclip_edge.results import (
    PLANES,
    BrainPlaneScores,
    Frame,
    PlaneScores,
    Result,
    StreamState,
    Timing,
)

MakeResult = Callable[..., Result]
MakeFrame = Callable[..., Frame]


@pytest.fixture
def make_result() -> MakeResult:
    """A result that says brain, 75 %; options replace its attributes."""

    def make(state: str = "live", **options: Any) -> Result:
        answer: dict[str, Any] = {
            "plane": PlaneScores("brain", 0.75, dict.fromkeys(PLANES, 0.05) | {"brain": 0.75}),
            "brain_plane": BrainPlaneScores("trans-thalamic", 0.5, {"trans-thalamic": 0.5}),
            "gestational_age": None,
            "head": None,
            "timing": Timing(1.0, 20.0, 0.5, 0.25, 2.0, 24.0),
            "embedding": np.ones(4, dtype=np.float32),
            "source": "script",
            "frame_index": 3,
            "pts_s": 0.5,
            "dropped": 0,
        }
        return Result(state=StreamState(state), **(answer | options))

    return make


@pytest.fixture
def make_frame() -> MakeFrame:
    """A grey frame of one level."""

    def make(level: int = 200, size: tuple[int, int] = (320, 240), **options: Any) -> Frame:
        image = np.full((size[1], size[0]), level, dtype=np.uint8)
        told: dict[str, Any] = {"color": "gray", "index": 0, "captured_ns": 0, "source": "script"}
        return Frame(image=options.pop("image", image), **(told | options))

    return make
