"""Arrays on disk that fill up as they are needed, shared by processes and runs side by side."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

__all__ = ["BATCH", "check_room", "full_batches", "sparse_array"]

T = TypeVar("T")
Number = TypeVar("Number", np.float16, np.float32)

BATCH = 16
"""What is kept is computed in batches of this size, always full, so that it does not depend on
what is computed beside it."""


def check_room(sizes: Mapping[Path, int], what: str, views: int) -> None:
    """Refuse files that would not fit once they are full.

    Args:
        sizes: of files in one folder, in bytes; what of them is there already is counted in.
        what: they keep, for the message.
        views: of every image, likewise.

    Raises:
        ValueError: the disk has no room for all of them.
    """
    folder = next(iter(sizes)).parent
    folder.mkdir(parents=True, exist_ok=True)
    there = sum(path.stat().st_blocks * 512 for path in sizes if path.exists())
    size, free = sum(sizes.values()), shutil.disk_usage(folder).free
    if size - there > free:
        raise ValueError(
            f"{what} in {views} views of every image takes {size / 1e9:.1f} GB, and "
            f"{folder} has {free / 1e9:.1f} GB left: lower `views`, or choose another --cache"
        )


def sparse_array(
    path: Path, dtype: type[Number], shape: tuple[int, ...]
) -> np.memmap[Any, np.dtype[Number]]:
    """An array of zeros where nothing was written yet; it takes room only as it is written.

    Every process that opens the same file sees what others write.
    """
    with path.open("ab") as file:
        file.truncate(np.dtype(dtype).itemsize * math.prod(shape))
    return np.memmap(path, dtype, "r+", shape=shape)


def full_batches(items: Sequence[T]) -> Iterator[list[T]]:
    """Batches of one size, the last filled up with its first item."""
    for start in range(0, len(items), BATCH):
        part = list(items[start : start + BATCH])
        yield part + part[:1] * (BATCH - len(part))
