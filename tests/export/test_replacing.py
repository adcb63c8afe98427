"""A new bundle takes an old one's place whole, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from export.replacing import _swap, new_bundle
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BundleError, BundleIntegrityError


@pytest.fixture
def shipped(repository: Path) -> Path:
    return repository / "fetalclip_edge" / "bundles" / "default"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "precious.txt").write_text("old")
    return folder


def test_a_sound_bundle_takes_the_place(shipped: Path, old: Path) -> None:
    with new_bundle(old) as new:
        shutil.copytree(shipped, new, dirs_exist_ok=True)
        assert (old / "precious.txt").is_file()  # until the block has ended
    assert ModelBundle.load(old).sha256 == ModelBundle.load(shipped).sha256
    assert not (old / "precious.txt").exists()
    assert [path.name for path in old.parent.iterdir()] == ["bundle"]


def test_folders_above_are_made(shipped: Path, tmp_path: Path) -> None:
    with new_bundle(tmp_path / "a" / "b") as new:
        shutil.copytree(shipped, new, dirs_exist_ok=True)
    assert ModelBundle.load(tmp_path / "a" / "b").files


def test_a_link_stays_and_its_target_is_replaced(shipped: Path, old: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(old)
    with new_bundle(link) as new:
        shutil.copytree(shipped, new, dirs_exist_ok=True)
    assert link.is_symlink()
    assert ModelBundle.load(old).files


def test_what_fails_leaves_the_old_one(shipped: Path, old: Path) -> None:
    with pytest.raises(BundleError), new_bundle(old):
        pass  # nothing is written
    with pytest.raises(BundleIntegrityError), new_bundle(old) as new:
        shutil.copytree(shipped, new, dirs_exist_ok=True)
        (new / "prompts.safetensors").write_bytes(b"damaged")
    with pytest.raises(KeyboardInterrupt), new_bundle(old):
        raise KeyboardInterrupt
    assert (old / "precious.txt").read_text() == "old"
    assert [path.name for path in old.parent.iterdir()] == ["bundle"]


def test_the_old_one_comes_back_when_the_new_one_cannot_be_moved(old: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        _swap(tmp_path / "never written", old, tmp_path / "aside")
    assert (old / "precious.txt").read_text() == "old"
