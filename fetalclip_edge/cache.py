"""The user's cache folder: what can be made again, readable and writable by the user alone."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["cache_folder", "write_private", "write_whole"]


def cache_folder() -> Path:
    """Where this package caches: `fetalclip-edge` in `$XDG_CACHE_HOME`, or else in `~/.cache`.

    Raises:
        OSError: the user has no home.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # the XDG specification says to ignore those
        try:
            base = Path.home() / ".cache"
        except RuntimeError as error:
            raise OSError(f"no folder to cache in: {error}") from error
    return base / "fetalclip-edge"


def write_private(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, in a folder that is the user's alone (0700).

    Args:
        path: of the file; its folder is made where it is missing.
        data: all of it.

    Raises:
        OSError: the folder is another user's, or cannot be written to.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    write_whole(path, data)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file in a folder that is there, all or nothing, also when the power fails.

    Until it is whole it is called `.NAME.` and something, in the same folder.

    Raises:
        OSError: the folder cannot be written to, or is full.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
