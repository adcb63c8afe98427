"""Compiled engines, kept in a folder that only the user can write.

An engine is code for the GPU, and whoever can write it can run what they like there. So the folder
is closed to others (0700), and one that is not is refused. Against accidents, not attackers, each
file begins with the key it was made for and the sha256 of the engine: what is truncated, corrupt,
of another device or of another version is compiled anew, never loaded. What a runtime compiles as
it loads an engine, its kernels, lies beside it in the same way.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from fetalclip_edge import cache
from fetalclip_edge.errors import BackendError

__all__ = ["CachedEngine", "EngineCache", "EngineKey"]

_MAGIC = b"fetalclip-edge engine 1\n"
_LONGEST_HEADER = 65536

_log = logging.getLogger("fetalclip_edge")


@dataclass(frozen=True, slots=True)
class EngineKey:
    """What an engine was compiled from and for. It serves nothing that differs in any of these.

    Attributes:
        graph_sha256: of the ONNX graph.
        precision: of the graph, such as "int8".
        shapes: of the input, smallest, fastest and largest.
        runtime: name and version of the runtime, such as "tensorrt 10.3.0".
        gpu: name of the GPU.
        capability: its compute capability, such as "8.7".
        driver: version of the driver, and of the CUDA that it knows.
    """

    graph_sha256: str
    precision: str
    shapes: str
    runtime: str
    gpu: str
    capability: str
    driver: str

    @property
    def file_name(self) -> str:
        """A name of which every field is part, and nothing else."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.engine"


@dataclass(frozen=True, slots=True)
class CachedEngine:
    """An engine, ready to be deserialised.

    Attributes:
        data: the serialised engine.
        path: where it is kept, or None when it could not be.
        compiled: whether it was compiled just now.
    """

    data: bytes
    path: Path | None
    compiled: bool


class EngineCache:
    """The folder of engines.

    Args:
        folder: made with mode 0700 where it is missing; None for `engines` in the user's cache
            folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def get(
        self,
        key: EngineKey,
        build: Callable[[], bytes],
        waiting: Callable[[], object] | None = None,
    ) -> CachedEngine:
        """The engine of a key, compiled when it is not there.

        Where another process or thread is compiling it, wait and take theirs. The lock is the
        kernel's, and ends with the process that holds it. Where the folder cannot be written to,
        or is full, the engine is used from memory, and a warning says so.

        Args:
            key: what it must be for.
            build: compiles it.
            waiting: called once when another is compiling it.

        Raises:
            BackendError: the folder is another user's, or others can write it.
        """
        try:
            folder = self._open_folder()
        except OSError as error:
            return self._unkept(build(), error)
        path = folder / key.file_name
        data = _load(path, key)
        if data is not None:
            return CachedEngine(data, path, compiled=False)
        try:
            held = _lock(path.with_suffix(".lock"), waiting)
            with held:
                data = _load(path, key)
                if data is not None:
                    return CachedEngine(data, path, compiled=False)
                data = build()
                return self._keep(path, key, data)
        except _LockError as error:
            return self._unkept(build(), error)

    def discard(self, key: EngineKey) -> None:
        """Forget an engine that does not load, so that it is compiled anew."""
        try:
            (self._open_folder() / key.file_name).unlink(missing_ok=True)
        except OSError as error:
            _log.warning("the engine %s cannot be removed: %s", key.file_name, error)

    def kernels(self, key: EngineKey) -> bytes | None:
        """What the runtime made of an engine when it was last loaded; None where that is not there.

        Raises:
            BackendError: the folder is another user's, or others can write it.
        """
        try:
            return _load(self._kernels_of(key), key)
        except OSError:
            return None

    def keep_kernels(self, key: EngineKey, data: bytes) -> None:
        """Keep what the runtime made of an engine; where that fails, a warning says so.

        Raises:
            BackendError: the folder is another user's, or others can write it.
        """
        try:
            path = self._kernels_of(key)
            with _lock(path.with_suffix(".lock"), None):
                _write(path, key, data)
        except OSError as error:
            _log.warning("kernels are not kept, and will be made again next time: %s", str(error))

    def _kernels_of(self, key: EngineKey) -> Path:
        return (self._open_folder() / key.file_name).with_suffix(".kernels")

    def _keep(self, path: Path, key: EngineKey, data: bytes) -> CachedEngine:
        try:
            _write(path, key, data)
        except OSError as error:
            return self._unkept(data, error)
        return CachedEngine(data, path, compiled=True)

    def _unkept(self, data: bytes, error: OSError) -> CachedEngine:
        _log.warning("the engine is not kept, and will be compiled again next time: %s", error)
        return CachedEngine(data, None, compiled=True)

    def _open_folder(self) -> Path:
        folder = self._folder or cache.cache_folder() / "engines"
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise BackendError(f"{folder} must be a folder, and no link, to keep engines in")
        if found.st_uid != os.geteuid():
            raise BackendError(
                f"{folder} belongs to user {found.st_uid}, who could put anything on the GPU; "
                "remove it, or set XDG_CACHE_HOME to a folder of your own"
            )
        if found.st_mode & 0o022:
            raise BackendError(
                f"others can write {folder}, and so put anything on the GPU; remove it, or, if you "
                f"trust what is in it: chmod 700 {folder}"
            )
        return folder


class _LockError(OSError):
    """The lock's file cannot be made."""


@contextmanager
def _lock(path: Path, waiting: Callable[[], object] | None) -> Iterator[None]:
    """Hold a lock that ends with this process. Its file stays: removing it would be a race."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _LockError(error.errno, error.strerror, error.filename) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is not None:
                waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems have no locks
            raise _LockError(error.errno, error.strerror, str(path)) from error
        yield
    finally:
        os.close(handle)


def _write(path: Path, key: EngineKey, data: bytes) -> None:
    """Write a file that `_load` reads; we hold its lock."""
    header = {"key": asdict(key), "sha256": hashlib.sha256(data).hexdigest()}
    _sweep(path)
    cache.write_whole(path, _MAGIC + json.dumps(header).encode() + b"\n" + data)


def _sweep(path: Path) -> None:
    """Remove what a process left that was killed while it wrote this file; we hold its lock."""
    for left in path.parent.glob(f".{path.name}.*"):
        left.unlink(missing_ok=True)


def _load(path: Path, key: EngineKey) -> bytes | None:
    """The engine, or None when there is none that can be trusted."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("%s cannot be read: %s", path, error)
        return None
    why, engine = _check(data, key)
    if why is not None:
        _log.warning("%s is not used, and compiled anew: %s", path, why)
        return None
    return engine


def _check(data: bytes, key: EngineKey) -> tuple[str | None, bytes]:
    if not data.startswith(_MAGIC):
        return "it is none of this version", b""
    line_end = data.find(b"\n", len(_MAGIC), _LONGEST_HEADER)
    try:
        header = json.loads(data[len(_MAGIC) : line_end])
        made_for, digest = header["key"], header["sha256"]
    except (ValueError, KeyError, TypeError):
        return "its header cannot be read", b""
    if made_for != asdict(key):
        return "it was made for something else", b""
    engine = data[line_end + 1 :]
    if line_end < 0 or hashlib.sha256(engine).hexdigest() != digest:
        return "it differs from its checksum", b""
    return None, engine
