"""The labelled images: which there are, what is known of each, and their pixels.

Reads the folder layout of `docs/data.md`: `planes/labels.csv` (a subset of FETAL_PLANES_DB) and
`hc18/labels.csv` (HC18), images with a longest side of 448 pixels.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track

from fetalclip_edge.tasks.gestational_age import (
    MAX_DAYS,
    MIN_DAYS,
    head_circumference_quantile,
)
from training.facts import Facts

__all__ = [
    "Example",
    "hc18_examples",
    "holdout_by_group",
    "load_images",
    "planes_examples",
    "square",
]

T = TypeVar("T")

_PLANES = {
    "Fetal abdomen": "abdomen",
    "Fetal brain": "brain",
    "Fetal femur": "femur",
    "Fetal thorax": "thorax",
    "Maternal cervix": "cervix",
    "Other": "other",
}

_BRAIN_PLANES = {
    "Trans-thalamic": "trans-thalamic",
    "Trans-cerebellum": "trans-cerebellum",
    "Trans-ventricular": "trans-ventricular",
    "Other": "other",
    "": None,
}


_HC18_COLUMNS = ("file", "subject", "head_circumference_mm", "pixel_size_mm")


@dataclass(frozen=True, slots=True)
class Example:
    """One image, what is known of it, and the patient whom a split must not tear apart.

    `facts.pixel_size_mm` is that of the stored image.
    """

    path: Path
    facts: Facts
    group: str


def planes_examples(root: Path, split: str) -> list[Example]:
    """Standard planes of one split ("train" or "test"), from `root/planes/labels.csv`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it lacks a column or rows of the split, or holds a name that is unknown.
    """
    folder = root / "planes"
    return [
        Example(
            folder / row["file"],
            Facts(
                _named(row, "plane", _PLANES),
                _named(row, "brain_plane", _BRAIN_PLANES),
            ),
            f"planes/{row['patient']}",
        )
        for row in _rows(folder / "labels.csv", split, ("file", "patient", "plane", "brain_plane"))
    ]


def hc18_examples(root: Path, split: str) -> list[Example]:
    """Heads of one split, gestational age derived from the circumference by the WHO chart."""
    folder = root / "hc18"
    return [
        Example(
            folder / row["file"],
            Facts(
                "brain",
                gestational_age_days=age_from_circumference(float(row["head_circumference_mm"])),
                pixel_size_mm=float(row["pixel_size_mm"]),
            ),
            f"hc18/{row['subject']}",
        )
        for row in _rows(folder / "labels.csv", split, _HC18_COLUMNS)
    ]


def age_from_circumference(head_circumference_mm: float) -> float | None:
    """The day whose median circumference is nearest, or None beyond the chart's ends."""
    days = np.arange(MIN_DAYS, MAX_DAYS + 1)
    medians = np.array([head_circumference_quantile(float(day), 0.5) for day in days])
    if not medians[0] <= head_circumference_mm <= medians[-1]:
        return None
    return float(days[np.abs(medians - head_circumference_mm).argmin()])


def _rows(path: Path, split: str, columns: tuple[str, ...]) -> list[dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; give the folder of docs/data.md with --data")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        lacking = [name for name in (*columns, "split") if name not in (reader.fieldnames or ())]
        if lacking:
            raise ValueError(f"{path} lacks the columns {', '.join(lacking)}")
        rows = [row for row in reader if row["split"] == split]
    if not rows:
        raise ValueError(f"{path} has no rows of split {split!r}")
    return rows


def _named(row: dict[str, str], column: str, names: Mapping[str, T]) -> T:
    if row[column] not in names:
        raise ValueError(
            f"labels.csv: {column} of {row['file']} must be one of {sorted(names)}, "
            f"not {row[column]!r}"
        )
    return names[row[column]]


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


def square(path: Path, size: int) -> np.ndarray:
    """An image as the network sees it, by Pillow: grey, zero-padded to a square, resized.

    Returns:
        uint8 `(size, size)`.
    """
    with Image.open(path) as image:
        grey = image.convert("L")
    side = max(grey.size)
    canvas = Image.new("L", (side, side))
    canvas.paste(grey, ((side - grey.width) // 2, (side - grey.height) // 2))
    return np.asarray(canvas.resize((size, size), Image.Resampling.BICUBIC))


def load_images(examples: Sequence[Example], size: int, title: str) -> torch.Tensor:
    """All images in memory, uint8 `(N, 1, size, size)`, with a progress bar on stderr."""
    console = Console(stderr=True)
    images = torch.empty((len(examples), 1, size, size), dtype=torch.uint8)
    for index, example in enumerate(track(examples, title, console=console)):
        images[index, 0] = torch.from_numpy(square(example.path, size).copy())
    return images


def stored_side(example: Example) -> int:
    """The longest side of the stored image, in pixels."""
    with Image.open(example.path) as image:
        return int(max(image.size))
