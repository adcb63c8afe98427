"""The calibration set: real frames, every kind of plane among them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.datasets import Example, square

__all__ = ["calibration_set", "read_frames"]


def calibration_set(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """Choose frames in turn from every plane, so that rare ones are there.

    Images with nothing but a caption count as a plane of their own.

    Args:
        examples: training images, of patients that are not used for validation.
        count: how many to choose.
        seed: of the choice within a plane.

    Raises:
        ValueError: there are fewer examples than that.
    """
    if len(examples) < count:
        raise ValueError(f"{count} calibration frames are wanted, only {len(examples)} are there")
    kinds: dict[tuple[str | None, str | None], list[Example]] = defaultdict(list)
    for example in examples:
        kinds[example.facts.plane, example.facts.brain_plane].append(example)
    rng = random.Random(seed)
    queues = [rng.sample(kinds[kind], len(kinds[kind])) for kind in sorted(kinds, key=str)]
    chosen: list[Example] = []
    while len(chosen) < count:
        chosen += [queue.pop() for queue in queues if queue]
    return chosen[:count]


def read_frames(
    examples: Sequence[Example], size: int, interpolation: str = "bicubic"
) -> NDArray[np.uint8]:
    """The frames as a graph sees them, by Pillow: uint8 `(N, 1, size, size)`."""
    return np.stack([square(e.open(), size, interpolation) for e in examples])[:, None]
