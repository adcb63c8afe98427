"""A model that answers at once."""

from __future__ import annotations

import numpy as np

from fetalclip_edge.results import Frame, PlaneScores, Result, StreamState, Timing


class LiveModel:
    """Calls every picture a live brain."""

    def analyze_frame(self, frame: Frame) -> Result:
        return Result(
            state=StreamState.LIVE,
            plane=PlaneScores("brain", 1.0, {"brain": 1.0}),
            brain_plane=None,
            gestational_age=None,
            head=None,
            timing=Timing(preprocess_ms=1.0, inference_ms=2.0, interpret_ms=0.5),
            embedding=np.ones(4, dtype=np.float32),
            source=frame.source,
            frame_index=frame.index,
            pts_s=frame.pts_s,
        )


class Asked(LiveModel):
    """The same, and remembers the frames that it was asked about."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def analyze_frame(self, frame: Frame) -> Result:
        self.frames.append(frame)
        return super().analyze_frame(frame)
