"""What a process works on: its part of a batch, and the network that embeds it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from training.augment import draw_views
from training.captions import describe
from training.datasets import Example, load_images
from training.facts import Facts
from training.lanes import Draw, Lanes
from training.models import DualEncoder, ImageTextModel, ImageTower

__all__ = [
    "Batch",
    "Drawn",
    "Images",
    "Learner",
    "Look",
    "batch_norms",
    "make_batch",
    "still_statistics",
]


@dataclass(frozen=True, slots=True)
class Images:
    """Examples of which a process holds the images in memory.

    Attributes:
        examples: all of the data set.
        rows: place among `examples` -> row of `pixels`, for those held.
        pixels: uint8 `(rows, 1, canvas, canvas)`.
    """

    examples: Sequence[Example]
    rows: dict[int, int]
    pixels: Tensor

    @classmethod
    def load(
        cls,
        examples: Sequence[Example],
        indices: Sequence[int],
        canvas: int,
        *,
        quiet: bool = False,
    ) -> Images:
        """Read the images of the examples at `indices`, without a progress bar when `quiet`."""
        own = [examples[i] for i in indices]
        pixels = load_images(own, canvas, "reading images", quiet=quiet)
        return cls(examples, {index: row for row, index in enumerate(indices)}, pixels)

    def of_step(self, step: int) -> Images:
        """The images of a step: all of them are held anyway."""
        return self

    def views(self, draws: Sequence[Draw], size: int, seed: int) -> tuple[Tensor, Tensor]:
        """Views `(N, 1, size, size)` in grey levels 0 to 255, and the zoom of each."""
        pixels = self.pixels[[self.rows[draw.index] for draw in draws]]
        keys = [(self.examples[draw.index].name, draw.view) for draw in draws]
        return draw_views(pixels, keys, size, seed)


class Look(Protocol):
    """What the part of an image tower that learns is shown of some views."""

    def __call__(self, images: Images, draws: Sequence[Draw], size: int) -> tuple[Tensor, Tensor]:
        """`(N, C, H, W)`, and the zoom `(N,)` of each view of `size` pixels."""
        ...


@dataclass(frozen=True, slots=True)
class Drawn:
    """The views themselves, drawn anew each time.

    Attributes:
        seed: of the views.
    """

    seed: int

    def __call__(self, images: Images, draws: Sequence[Draw], size: int) -> tuple[Tensor, Tensor]:
        """Grey levels 0 to 255 `(N, 1, size, size)`, and the zoom of each."""
        return images.views(draws, size, self.seed)


@dataclass(frozen=True, slots=True)
class Batch:
    """A process's part of a batch.

    Attributes:
        images: where the views were drawn from.
        draws: which images, in which views.
        views: what the part of the tower that learns is shown `(N, C, H, W)`: grey levels, or the
            maps that frozen stages made of them.
        texts: a caption for each.
        facts: what is known of each view.
        claims: what its caption says.
        counted: whether each is learned from; others fill up the batch.
    """

    images: Images
    draws: list[Draw]
    views: Tensor
    texts: list[str]
    facts: list[Facts]
    claims: list[Facts]
    counted: list[bool]

    def split(self, size: int) -> list[tuple[Tensor, list[str]]]:
        """Views and captions in pieces of `size`."""
        pieces = self.views.split(size)
        return [
            (views, self.texts[start * size : (start + 1) * size])
            for start, views in enumerate(pieces)
        ]


def make_batch(
    images: Images, plan: Lanes, lanes: Sequence[int], step: int, size: int, look: Look
) -> Batch:
    """The part of some lanes in a batch.

    Args:
        images: those of the lanes at least.
        plan: of the run.
        lanes: which of its lanes.
        step: number of the batch.
        size: side of the views, in pixels.
        look: draws the views, or looks up what frozen stages made of them.
    """
    draws = [draw for lane in lanes for draw in plan.batch(step, lane)]
    views, zooms = look(images, draws, size)
    facts = [
        _facts_of_view(images.examples[draw.index], size, zoom)
        for draw, zoom in zip(draws, zooms.tolist(), strict=True)
    ]
    texts, claims = [], []
    for position, lane in enumerate(lanes):
        words = random.Random(f"{plan.seed}/{step}/{lane}")
        for known in facts[position * plan.lane_size : (position + 1) * plan.lane_size]:
            text, claimed = describe(known, words)
            texts.append(text)
            claims.append(claimed)
    counted = [each for lane in lanes for each in plan.counted(step, lane)]
    return Batch(images, draws, views, texts, facts, claims, counted)


def _facts_of_view(example: Example, size: int, zoom: float) -> Facts:
    facts = example.facts
    if facts.pixel_size_mm is None:
        return facts
    return replace(facts, pixel_size_mm=facts.pixel_size_mm * example.side / size / zoom)


class Learner(nn.Module):
    """A model with its batch cut into lanes, as accelerate wraps it.

    Every lane goes through the image tower by itself, so that batch normalisation sees the same
    images however many processes share the batch.

    Args:
        model: what learns.
        lane_size: images of a lane in a batch.
    """

    def __init__(self, model: ImageTextModel, lane_size: int) -> None:
        super().__init__()
        self.model = model
        self.lane_size = lane_size
        # Twice as fast on a CPU; with FastViT, PyTorch 2.13 does not survive it.
        own = isinstance(model, DualEncoder)
        self.layout = torch.channels_last if own else torch.contiguous_format
        model.image.to(memory_format=self.layout)  # type: ignore[call-overload]

    def forward(self, views: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of images and captions, `(N, D)` each, and the logit scale."""
        lanes = views.contiguous(memory_format=self.layout).split(self.lane_size)
        images = torch.cat([self._embed(lane) for lane in lanes])
        return images, self.model.text(texts), self.model.scale

    def _embed(self, lane: Tensor) -> Tensor:
        tower: nn.Module = self.model.image
        if isinstance(tower, ImageTower) and tower.frozen_stages:
            return tower.late(lane)
        embedded: Tensor = tower(lane)
        return embedded


def batch_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The layers that remember statistics of what they saw."""
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@contextmanager
def still_statistics(model: nn.Module) -> Iterator[None]:
    """Keep batch normalisation's running statistics as they are, for a pass that is repeated."""
    layers = batch_norms(model)
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
