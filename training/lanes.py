"""Which image is learned from when: a plan that does not depend on the number of processes.

The shards are dealt to lanes, and every batch takes as many images from each lane. A process works
on some of the lanes and reads their shards alone. So any number of processes that divides the
lanes sees the same batches, and a run can go on at any step, since a batch follows from its number.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from training.datasets import Example
from training.seeding import generator

__all__ = ["Draw", "Lanes"]

_EVEN = 2.0  # a lane gives as many images to a batch as any other, so theirs must be as many


@dataclass(frozen=True, slots=True)
class Draw:
    """One image of a batch: its place among the examples, and the number of the view."""

    index: int
    view: int


class Lanes:
    """The plan of a training run.

    Rare planes are drawn more often, by the inverse root of their number, and a plane counts for as
    many as it has sub-planes. Among themselves sub-planes are drawn as they come: they are easily
    mistaken for one another, and what decides then is how common each is. Draws are with
    replacement, so an epoch is as many draws as there are images, not every image once.

    Args:
        examples: all images to learn from, those of other processes too.
        lanes: how many lanes.
        batch_size: images of a batch, over all processes; a multiple of `lanes`.
        views: how many views of an image there are; a draw takes one of them.
        seed: of the plan.
        sub_plane_draws: how many times as often images labelled with a sub-plane are drawn.

    Attributes:
        steps_per_epoch: batches in an epoch.

    Raises:
        ValueError: `batch_size` is no multiple of `lanes`, there are fewer images than that, or
            the shards cannot be shared out among the lanes evenly.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        lanes: int,
        batch_size: int,
        views: int,
        seed: int,
        sub_plane_draws: float = 1.0,
    ) -> None:
        if batch_size % lanes:
            raise ValueError(f"batch_size must be a multiple of lanes ({lanes}), not {batch_size}")
        if len(examples) < batch_size:
            raise ValueError(
                f"batch_size must be at most the {len(examples)} images to learn from, "
                f"not {batch_size}"
            )
        self.members = [
            [i for i, e in enumerate(examples) if e.shard % lanes == k] for k in range(lanes)
        ]
        if not all(self.members):
            shards = len({example.shard for example in examples})
            raise ValueError(
                f"lanes must be at most the {shards} shards with images to learn from, not {lanes}"
            )
        sizes = [len(members) for members in self.members]
        if max(sizes) > _EVEN * min(sizes):
            raise ValueError(
                f"lanes ({lanes}) must share the shards evenly, but one would get {min(sizes)} "
                f"images and another {max(sizes)}: choose fewer lanes, or make smaller shards"
            )
        self.count, self.lane_size, self.views, self.seed = lanes, batch_size // lanes, views, seed
        self.steps_per_epoch = len(examples) // batch_size
        self._weights = [
            weight * (sub_plane_draws if example.facts.brain_plane else 1.0)
            for example, weight in zip(examples, _weights(examples), strict=True)
        ]
        self._epoch = lru_cache(maxsize=2 * lanes)(self._draw_epoch)

    def batch(self, step: int, lane: int) -> list[Draw]:
        """What a lane gives to a batch, counted from the start of the run."""
        epoch, position = divmod(step, self.steps_per_epoch)
        drawn, views = self._epoch(epoch, lane)
        part = slice(position * self.lane_size, (position + 1) * self.lane_size)
        return [
            Draw(self.members[lane][i], view)
            for i, view in zip(drawn[part].tolist(), views[part].tolist(), strict=True)
        ]

    def counted(self, step: int, lane: int) -> list[bool]:
        """Which images of a lane's part of a batch are learned from: all of them."""
        return [True] * self.lane_size

    def of_process(self, rank: int, processes: int) -> range:
        """The lanes of a process.

        Raises:
            ValueError: the lanes cannot be shared out evenly.
        """
        if self.count % processes:
            raise ValueError(f"lanes ({self.count}) must be a multiple of {processes} processes")
        share = self.count // processes
        return range(rank * share, (rank + 1) * share)

    def _draw_epoch(self, epoch: int, lane: int) -> tuple[Tensor, Tensor]:
        rng = generator(self.seed, epoch, lane)
        weights = torch.tensor([self._weights[index] for index in self.members[lane]])
        count = self.steps_per_epoch * self.lane_size
        drawn = torch.multinomial(weights, count, replacement=True, generator=rng)
        return drawn, torch.randint(self.views, (count,), generator=rng)


def _weights(examples: Sequence[Example]) -> list[float]:
    """How often each image is drawn, relatively."""
    plane_of = {e.facts.kind: (e.facts.plane, e.facts.pixel_size_mm is not None) for e in examples}
    shares: defaultdict[tuple[str | None, bool], float] = defaultdict(float)
    images: Counter[tuple[str | None, bool]] = Counter()
    for kind, count in Counter(example.facts.kind for example in examples).items():
        shares[plane_of[kind]] += math.sqrt(count)
        images[plane_of[kind]] += count
    planes = [plane_of[example.facts.kind] for example in examples]
    return [shares[plane] / images[plane] for plane in planes]
