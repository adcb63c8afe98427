"""Putting a new bundle in place of an old one, whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fetalclip_edge.bundle import ModelBundle

__all__ = ["new_bundle"]


@contextmanager
def new_bundle(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `folder` at the end of the block.

    It lies beside `folder` and is loaded as a bundle first, so no half bundle is ever seen, and an
    old one stays when anything fails.

    Args:
        folder: where the bundle belongs; it may exist.

    Raises:
        BundleError: what the block has written is not a sound bundle.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        new = Path(work) / "new"
        new.mkdir()
        yield new
        ModelBundle.load(new)
        _swap(new, folder, Path(work) / "old")


def _swap(new: Path, folder: Path, old: Path) -> None:
    if not folder.exists():
        new.replace(folder)
        return
    folder.replace(old)
    try:
        new.replace(folder)
    except OSError:
        old.replace(folder)
        raise
