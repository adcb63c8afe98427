"""Heads with masks drawn by a person, from HC18, to learn and to judge segmentation from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training.datasets import square
from training.sources import Record, read_source

__all__ = ["Head", "Heads", "load_heads", "mask_path", "read_heads", "read_mask"]


@dataclass(frozen=True, slots=True)
class Head:
    """One image of a head, and what a person measured in it.

    Attributes:
        image: the file.
        mask: file with the head's mask, or its outline as HC18 publishes it.
        name: the image's name in its data set.
        group: the examination, which a split must not tear apart: "hc18/520".
        split: "train" or "test".
        pixel_size_mm: of the file.
        head_circumference_mm: as published.
    """

    image: Path
    mask: Path
    name: str
    group: str
    split: str
    pixel_size_mm: float
    head_circumference_mm: float


@dataclass(frozen=True, slots=True)
class Heads:
    """Heads in memory.

    Attributes:
        heads: what is known of them.
        images: uint8 `(N, 1, S, S)`, zero-padded to a square.
        masks: likewise, 255 inside, levels between at the edge.
        frames: `(height, width)` of each image's file.
    """

    heads: Sequence[Head]
    images: Tensor
    masks: Tensor
    frames: list[tuple[int, int]]


def mask_path(image: Path) -> Path:
    """Where the mask of an image lies, in HC18's own layout or in that of its subset.

    Raises:
        FileNotFoundError: it is in neither place.
    """
    published = image.with_name(f"{image.stem}_Annotation.png")
    subset = image.parent.parent / "masks" / f"{image.stem}.png"
    for path in (subset, published):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{image} has no mask: neither {subset} nor {published} is there")


def read_heads(root: Path, split: str) -> list[Head]:
    """The heads of one split of HC18.

    Args:
        root: folder as HC18 publishes it, or of its subset, as for `training.data`.
        split: "train" or "test".

    Raises:
        FileNotFoundError: a folder, a table or a mask is missing.
        ValueError: there are no heads, or a table cannot be read.
    """
    records = [r for data_set in read_source(root) for r in data_set.records]
    heads = [_head(r) for r in records if r.group.startswith("hc18/") and r.split == split]
    if not heads:
        raise ValueError(f"{root} holds no heads of HC18 of split {split!r}")
    return heads


def _head(record: Record) -> Head:
    size, circumference = record.facts.pixel_size_mm, record.head_circumference_mm
    assert size is not None
    assert circumference is not None
    return Head(
        record.path,
        mask_path(record.path),
        record.name,
        record.group,
        record.split,
        size,
        circumference,
    )


def read_mask(path: Path) -> NDArray[np.uint8]:
    """A mask `(H, W)`, 255 inside. An outline is filled.

    Raises:
        ValueError: the file is no image.
    """
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise ValueError(f"{path} cannot be read as an image")
    mask = np.where(grey > 127, 255, 0).astype(np.uint8)
    if not path.stem.endswith("_Annotation"):
        return mask
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(mask, contours, -1, 255, cv2.FILLED), np.uint8)


def load_heads(heads: Sequence[Head], size: int) -> Heads:
    """Images and masks in memory, as a network sees them.

    Args:
        heads: which.
        size: side of the square, in pixels.
    """
    images = np.empty((len(heads), 1, size, size), np.uint8)
    masks = np.empty_like(images)
    frames = []
    for index, head in enumerate(heads):
        with Image.open(head.image) as image:
            images[index, 0] = square(image, size)
            frames.append((image.height, image.width))
        masks[index, 0] = square(Image.fromarray(read_mask(head.mask)), size, "bilinear")
    return Heads(heads, torch.from_numpy(images), torch.from_numpy(masks), frames)
