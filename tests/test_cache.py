from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

import fetalclip_edge.cache
from fetalclip_edge.cache import write_private

cache_folder = fetalclip_edge.cache.cache_folder  # before the fixtures replace it


@pytest.mark.parametrize(
    ("xdg", "expected"),
    [
        ("/var/somewhere", "/var/somewhere/fetalclip-edge"),
        (None, "/home/her/.cache/fetalclip-edge"),
        ("", "/home/her/.cache/fetalclip-edge"),
        ("relative", "/home/her/.cache/fetalclip-edge"),
    ],
)
def test_the_folder_is_where_the_xdg_specification_says(
    monkeypatch: pytest.MonkeyPatch, xdg: str | None, expected: str
) -> None:
    monkeypatch.setenv("HOME", "/home/her")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if xdg is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    assert cache_folder() == Path(expected)


def test_no_home_is_an_os_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", fail)
    with pytest.raises(OSError, match="no folder to cache in"):
        cache_folder()


def test_a_file_is_the_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_private(path, b"first")
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # A folder that others could look into is closed.
    path.parent.chmod(0o755)
    write_private(path, b"second")
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.read_bytes() == b"second"


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_private(path, b"before")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_private(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        write_private(tmp_path / "file" / "more", b"")
