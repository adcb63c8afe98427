"""Noise in the layout of the real images, as shards, and a tiny experiment on it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from training.shards import write_shards
from training.sources import read_source

from .cutting import cutting_off_at

TINY = {"image_size": 64, "embed_dim": 16, "text_width": 32, "text_heads": 2, "text_layers": 1}
EXPERIMENT = {
    "seed": 3,
    "augmentation_seed": 5,
    "views": 4,
    "holdout": 0.3,
    "holdout_seed": 1,
    "canvas": 64,
    "batch_size": 6,
    "lanes": 2,
    "accumulate": 1,
    "precision": "no",
    "learning_rate": 0.001,
    "weight_decay": 0.05,
    "warmup_steps": 2,
    "average_decay": 0.9,
    "checkpoint_steps": 3,
    "stages": [{"epochs": 1, "image_size": 32}, {"epochs": 1, "image_size": 64}],
    "model": TINY,
}
KINDS = [
    ("Fetal abdomen", ""),
    ("Fetal femur", ""),
    ("Fetal thorax", ""),
    ("Fetal brain", "Trans-thalamic"),
    ("Fetal brain", "Trans-cerebellum"),
    ("Fetal brain", "Trans-ventricular"),
]


def _write_table(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of noise: 12 patients and 8 heads, of whom 2 and 1 are for testing."""
    root = tmp_path_factory.mktemp("drawn")
    rng = np.random.default_rng(0)
    for name in ("planes", "hc18"):
        (root / name / "images").mkdir(parents=True)

    def picture(path: Path) -> None:
        Image.fromarray(rng.integers(0, 256, (50, 70)).astype(np.uint8)).save(path)

    planes: list[dict[str, object]] = []
    for patient in range(12):
        split = "test" if patient in (4, 9) else "train"
        for index, (plane, part) in enumerate(KINDS if patient % 2 else KINDS[3:]):
            file = f"images/p{patient}_{index}.jpg"
            picture(root / "planes" / file)
            row = {"file": file, "patient": patient, "plane": plane, "brain_plane": part}
            planes.append({**row, "split": split})
    _write_table(root / "planes" / "labels.csv", planes)
    heads: list[dict[str, object]] = []
    for subject in range(8):
        file = f"images/{subject:03d}_HC.jpg"
        picture(root / "hc18" / file)
        row = {"file": file, "subject": f"{subject:03d}", "pixel_size_mm": 0.2}
        split = "test" if subject == 5 else "train"
        heads.append({**row, "head_circumference_mm": 150 + 10 * subject, "split": split})
    _write_table(root / "hc18" / "labels.csv", heads)
    shards = root / "shards"
    write_shards(read_source(root), shards, images_per_shard=7)
    return shards


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The YAML of a tiny experiment."""
    path = tmp_path_factory.mktemp("experiment") / "tiny.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENT))
    return path


@pytest.fixture(scope="session")
def tiny_model() -> dict[str, Any]:
    """The shape of a tiny model."""
    return dict(TINY)


@pytest.fixture
def tiny_experiment() -> dict[str, Any]:
    """What the YAML of the tiny experiment holds, to be changed at will."""
    return {**EXPERIMENT, "model": dict(TINY), "stages": [dict(s) for s in EXPERIMENT["stages"]]}  # type: ignore[attr-defined]


@pytest.fixture
def cut_off_at() -> Callable[[int], AbstractContextManager[None]]:
    """As `cutting_off_at`."""
    return cutting_off_at


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The order of sums, and with it the last bit, depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
