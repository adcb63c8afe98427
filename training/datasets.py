"""Images with what is known of each, read from shards, and their pixels as a network sees them."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from training.facts import Facts
from training.progress import image_progress

__all__ = ["Example", "holdout_by_group", "load_images", "square"]

_READ_AHEAD = 256
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True, slots=True)
class Example:
    """One image of a shard, what is known of it, and the patient whom a split must not tear apart.

    Attributes:
        archive: the tar that holds the image's file.
        offset: where its bytes start.
        length: how many they are.
        name: the file's name in its source.
        facts: what is known; `facts.pixel_size_mm` is that of the stored image.
        group: the patient, with the data set in front: "planes/12".
        split: "train" or "test".
        shard: number of the shard within its split.
        side: longest side of the stored image, in pixels.
        head_circumference_mm: as measured by a person, where it was.
        scanner: the ultrasound machine's make, where the shards tell.
    """

    archive: Path
    offset: int
    length: int
    name: str
    facts: Facts
    group: str
    split: str
    shard: int
    side: int
    head_circumference_mm: float | None = None
    scanner: str | None = None

    def open(self) -> Image.Image:
        """The image in grey (mode "L").

        Raises:
            FileNotFoundError: the shard is gone.
            ValueError: its bytes are not an image; the message names shard and image.
        """
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            return self.decode(file.read(self.length))

    def decode(self, content: bytes) -> Image.Image:
        """The image in grey, of the bytes of its file.

        Raises:
            ValueError: as for `open`.
        """
        try:
            with Image.open(io.BytesIO(content)) as image:
                return image.convert("L")
        # On a damaged file Pillow raises nearly anything, from SyntaxError to struct.error.
        except Exception as error:
            raise ValueError(f"{self.archive}: {self.name} cannot be decoded: {error}") from error


def holdout_by_group(
    examples: Sequence[Example], fraction: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Split off a share of the patients.

    Returns:
        The examples of the patients that stay, and of those held out. No patient is in both.

    Raises:
        ValueError: there are too few patients for both.
    """
    groups = sorted({example.group for example in examples})
    random.Random(seed).shuffle(groups)
    held = set(groups[: round(len(groups) * fraction)])
    if not 0 < len(held) < len(groups):
        raise ValueError(f"cannot hold out {fraction:g} of {len(groups)} patients")
    return (
        [example for example in examples if example.group not in held],
        [example for example in examples if example.group in held],
    )


def square(image: Image.Image, size: int, interpolation: str = "bicubic") -> NDArray[np.uint8]:
    """An image as a network sees it, by Pillow: grey, zero-padded to a square, resized.

    Args:
        image: of any mode.
        size: side of the result, in pixels.
        interpolation: "bicubic" or "bilinear".

    Returns:
        uint8 `(size, size)`.
    """
    grey = image.convert("L")
    side = max(grey.size)
    canvas = Image.new("L", (side, side))
    canvas.paste(grey, ((side - grey.width) // 2, (side - grey.height) // 2))
    return np.asarray(canvas.resize((size, size), _FILTERS[interpolation]))


def load_images(
    examples: Sequence[Example], size: int, title: str, *, quiet: bool = False
) -> torch.Tensor:
    """All images in memory, several decoded at a time.

    Args:
        examples: whose images; in this order.
        size: side of the result, in pixels.
        title: what the progress bar on stderr says.
        quiet: show no progress bar.

    Returns:
        uint8 `(N, 1, size, size)`.

    Raises:
        FileNotFoundError, ValueError: as for `Example.open`.
    """
    images = torch.empty((len(examples), 1, size, size), dtype=torch.uint8)
    pixels = images.numpy()

    def read(index: int) -> None:
        pixels[index, 0] = square(examples[index].open(), size)

    # Pillow decodes outside Python's lock, so threads do. Few wait at a time: what is waiting for
    # takes memory, and is still read when an image is damaged or somebody presses Ctrl-C.
    with (
        image_progress(Console(stderr=True), disable=quiet) as progress,
        ThreadPoolExecutor() as pool,
    ):
        task = progress.add_task(title, total=len(examples))
        for start in range(0, len(examples), _READ_AHEAD):
            indices = range(start, min(start + _READ_AHEAD, len(examples)))
            for _ in pool.map(read, indices):
                progress.advance(task)
    return images
