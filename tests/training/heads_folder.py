"""Drawn heads in the layout of the subset of HC18: grey ellipses in a noisy picture."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT, PIXEL_MM = 96, 72, 0.5


def write_heads(root: Path, train: int, test: int) -> Path:
    """As many heads, each an examination of its own; the last tell nothing of the others."""
    folder, rng = root / "hc18", np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    rows = []
    for number in range(train + test):
        y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
        major, ratio = rng.uniform(24, 32), rng.uniform(0.7, 0.85)
        right, down = rng.uniform(42, 54), rng.uniform(32, 40)
        inside = np.hypot((x - right) / major, (y - down) / (ratio * major)) <= 1
        picture = np.where(inside, 150, 30) + rng.normal(0, 12, inside.shape)
        name = f"{number:03d}_HC"
        image = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
        image.save(folder / "images" / f"{name}.png")
        Image.fromarray(inside).save(folder / "masks" / f"{name}.png")
        h = ((1 - ratio) / (1 + ratio)) ** 2
        around = np.pi * major * (1 + ratio) * (1 + 3 * h / (10 + np.sqrt(4 - 3 * h)))
        rows.append(
            {
                "file": f"images/{name}.png",
                "subject": f"{number:03d}",
                "pixel_size_mm": PIXEL_MM,
                "head_circumference_mm": PIXEL_MM * around,
                "split": "train" if number < train else "test",
            }
        )
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root
