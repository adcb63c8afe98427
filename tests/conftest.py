"""Shared fixtures. Tests marked `data` read the real ultrasound images, not ours to ship."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with `planes`, `hc18` and `native`, as docs/data.md describes it."""
    root = Path(os.environ.get("FETALCLIP_EDGE_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (root / "planes" / "labels.csv").is_file():
        pytest.skip(f"no ultrasound images at {root}; set FETALCLIP_EDGE_DATA (see docs/data.md)")
    return root.resolve()
