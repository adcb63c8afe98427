"""Shared fixtures. Tests marked `data` read the real ultrasound images, not ours to ship."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

from .command_line import CommandLine, make_command_line

# Workers share the cores: with more threads than cores they only wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Some CI systems force colours and progress bars upon programs that write to no terminal.
for _name in ("FORCE_COLOR", "PY_COLORS", "TTY_COMPATIBLE"):
    os.environ.pop(_name, None)

# How long an example takes hangs on what else the machine does; speed is measured in benchmarks/.
settings.register_profile("without deadline", deadline=None)
settings.load_profile("without deadline")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line in this process."""
    return make_command_line(monkeypatch, capfd)


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


@pytest.fixture(scope="session")
def clip_images() -> list[NDArray[np.uint8]]:
    """The grey frames of the shipped clip, as PyAV decodes them."""
    with av.open(str(REPOSITORY / "fetalclip_edge" / "assets" / "simulated_head.mp4")) as container:
        return [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own: what the user has tuned decides nothing here."""
    folder = tmp_path_factory.getbasetemp() / f"cache-{uuid.uuid4().hex}" / "fetalclip-edge"
    monkeypatch.setattr("fetalclip_edge.cache.cache_folder", lambda: folder)
    return folder


@pytest.fixture
def edited_bundle(tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], object]], Path]:
    """Copies the shipped bundle, changes its manifest, and puts the checksum right again."""

    def edit(change: Callable[[dict[str, Any]], object]) -> Path:
        shipped = REPOSITORY / "fetalclip_edge" / "bundles" / "default"
        folder = Path(tempfile.mkdtemp(dir=tmp_path)) / "bundle"
        shutil.copytree(shipped, folder)
        manifest = json.loads((folder / "manifest.json").read_bytes())
        change(manifest)
        text = json.dumps(manifest).encode()
        (folder / "manifest.json").write_bytes(text)
        digest = hashlib.sha256(text).hexdigest()
        (folder / "manifest.sha256").write_text(f"{digest}  manifest.json\n")
        return folder

    return edit
