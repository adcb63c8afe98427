"""The calibration set: real frames, every kind of plane among them."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.datasets import Example, square
from training.zero_shot import SCORED_PLANES

__all__ = [
    "calibration_set",
    "demand_planes",
    "hash_of",
    "read_frames",
    "scanners",
    "without_repeats",
]


def without_repeats(examples: Sequence[Example]) -> list[Example]:
    """The examples whose pixels no example before them has."""
    found: dict[str, Example] = {}
    for example in examples:
        image = example.open()
        digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
        found.setdefault(digest, example)
    return list(found.values())


def demand_planes(examples: Sequence[Example]) -> None:
    """See to it that every standard plane is in the calibration set.

    Raises:
        ValueError: one is not.
    """
    there = {example.facts.plane for example in examples}
    if missing := [plane for plane in SCORED_PLANES if plane not in there]:
        raise ValueError(
            f"the calibration set has no image of {', '.join(missing)}, so ranges would not cover "
            "it; add labelled images to the sources of python -m training.data"
        )


def calibration_set(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """Choose frames in turn from every plane and scanner of every data set: rare ones are there.

    Images with nothing but a caption count as a plane of their own, and those whose scanner the
    shards do not tell as of one scanner.

    Args:
        examples: training images, of patients that are not used for validation.
        count: how many to choose.
        seed: of the choice within a plane.

    Raises:
        ValueError: there are fewer examples than that.
    """
    if len(examples) < count:
        raise ValueError(f"{count} calibration frames are wanted, only {len(examples)} are there")
    kinds: dict[tuple[str | None, ...], list[Example]] = defaultdict(list)
    for example in examples:
        data_set = example.group.partition("/")[0]
        facts = example.facts
        kinds[data_set, facts.plane, facts.brain_plane, example.scanner].append(example)
    rng = random.Random(seed)
    queues = [rng.sample(kinds[kind], len(kinds[kind])) for kind in sorted(kinds, key=str)]
    chosen: list[Example] = []
    while len(chosen) < count:
        chosen += [queue.pop() for queue in queues if queue]
    return chosen[:count]


def scanners(examples: Sequence[Example]) -> dict[str, int]:
    """Scanner -> how many examples are of it, most first; "unknown" where shards do not tell."""
    counts = Counter(example.scanner or "unknown" for example in examples)
    return dict(counts.most_common())


def read_frames(
    examples: Sequence[Example], size: int, interpolation: str = "bicubic"
) -> NDArray[np.uint8]:
    """The frames as a graph sees them, by Pillow: uint8 `(N, 1, size, size)`."""
    return np.stack([square(e.open(), size, interpolation) for e in examples])[:, None]


def hash_of(frames: NDArray[np.uint8]) -> str:
    """Sha256 of a calibration set `(N, 1, S, S)`, by which it is known again."""
    return hashlib.sha256(f"{frames.shape}".encode() + frames.tobytes()).hexdigest()
