"""What a task may look at, and what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.results import PlaneScores, ProbeScores

__all__ = ["FrameTask", "Seen"]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What is known of one frame when the tasks are asked.

    Attributes:
        outputs: what the graph makes of the frame by name, each `(1, ...)`; `embedding` is
            float32 `(1, D)`, L2-normalised.
        plane: the standard plane.
        abstain: the picture is flat or out of domain: labels are withheld.
        pixel_size_mm: millimetres per pixel of the frame, or None when unknown.
    """

    outputs: Mapping[str, NDArray[np.float32]]
    plane: PlaneScores
    abstain: bool
    pixel_size_mm: float | None


FrameTask = Callable[[Seen], ProbeScores]
"""Answers for one frame; several threads may ask at once."""
