"""The cache of engines, with real processes, signals and files; only the compiler is made up."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest

from fetalclip_edge.engines import cache as cache_module
from fetalclip_edge.engines.cache import EngineCache, EngineKey
from fetalclip_edge.errors import BackendError

KEY = EngineKey("ab" * 32, "int8", "1x1x4x4", "tensorrt 10.3.0", "Orin", "8.7", "CUDA 12.6")
ENGINE = bytes(range(256)) * 64


class Builder:
    """Counts how often it is asked to compile."""

    def __init__(self, engine: bytes = ENGINE) -> None:
        self.engine, self.calls = engine, 0

    def __call__(self) -> bytes:
        self.calls += 1
        return self.engine


def never() -> bytes:
    raise AssertionError("compiled again")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "engines"


@pytest.fixture
def engines(folder: Path) -> EngineCache:
    return EngineCache(folder)


def test_an_engine_is_compiled_once(engines: EngineCache, folder: Path) -> None:
    first = engines.get(KEY, Builder())
    assert (first.data, first.compiled) == (ENGINE, True)
    again = engines.get(KEY, never)
    assert (again.data, again.compiled, again.path) == (ENGINE, False, first.path)
    assert first.path is not None
    assert first.path.parent == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(first.path.stat().st_mode) == 0o600


def test_an_engine_lies_in_the_users_cache_folder(own_cache: Path) -> None:
    found = EngineCache().get(KEY, Builder())
    assert found.path is not None
    assert found.path.parent == own_cache / "engines"


@pytest.mark.parametrize("field", [field.name for field in fields(EngineKey)])
def test_what_differs_in_anything_is_another_engine(engines: EngineCache, field: str) -> None:
    engines.get(KEY, Builder())
    other = engines.get(replace(KEY, **{field: "other"}), Builder(b"another"))
    assert (other.data, other.compiled) == (b"another", True)
    assert engines.get(KEY, never).data == ENGINE


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:20],
        lambda data: data[:200],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:-10] + b"X" + data[-9:],
        lambda data: data.replace(b"Orin", b"Nano"),
        lambda data: data.replace(b"engine 1\n", b"engine 0\n"),
        lambda data: data.replace(b'"sha256"', b'"sha512"'),
        lambda data: data[: data.index(b"{")] + b"[]\n" + ENGINE,
        lambda data: data[: data.index(b"{")] + b"\xff\xfe\n" + ENGINE,
        lambda data: ENGINE,
    ],
    ids=[
        *("empty", "half a magic", "half a header", "truncated", "longer", "a changed byte"),
        *("another gpu", "another version", "no checksum", "a header of another kind"),
        *("a header that is no text", "a bare engine"),
    ],
)
def test_what_cannot_be_trusted_is_compiled_anew(
    engines: EngineCache, spoil: object, caplog: pytest.LogCaptureFixture
) -> None:
    path = engines.get(KEY, Builder()).path
    assert path is not None
    assert callable(spoil)
    path.write_bytes(spoil(path.read_bytes()))
    builder = Builder(b"anew")
    assert engines.get(KEY, builder).data == b"anew"
    assert builder.calls == 1
    assert "is not used, and compiled anew" in caplog.text
    assert engines.get(KEY, never).data == b"anew"


def test_the_engine_of_another_key_under_this_name_is_not_used(engines: EngineCache) -> None:
    other = engines.get(replace(KEY, driver="CUDA 11.4"), Builder(b"old")).path
    mine = engines.get(KEY, Builder()).path
    assert other is not None
    assert mine is not None
    mine.write_bytes(other.read_bytes())
    assert engines.get(KEY, Builder(b"anew")).data == b"anew"


def test_a_discarded_engine_is_compiled_anew(engines: EngineCache) -> None:
    engines.get(KEY, Builder())
    engines.discard(KEY)
    engines.discard(KEY)
    assert engines.get(KEY, Builder(b"anew")).data == b"anew"


# A folder that is not the user's alone


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_can_write_is_refused(
    engines: EngineCache, folder: Path, mode: int
) -> None:
    engines.get(KEY, Builder())
    folder.chmod(mode)
    with pytest.raises(BackendError, match=f"others can write {folder}.*chmod 700"):
        engines.get(KEY, never)


def test_a_folder_of_another_user_is_refused(
    engines: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines.get(KEY, Builder())
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(BackendError, match=f"belongs to user {os.getuid()}"):
        engines.get(KEY, never)


def test_a_link_to_a_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.parent.mkdir(parents=True)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BackendError, match="no link"):
        EngineCache(folder).get(KEY, never)


# A folder that cannot be written to


def test_where_no_folder_can_be_made_the_engine_is_used_from_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    engines = EngineCache(tmp_path / "file" / "engines")
    for _ in range(2):
        found = engines.get(KEY, Builder())
        assert (found.data, found.path, found.compiled) == (ENGINE, None, True)
    assert caplog.text.count("the engine is not kept") == 2


def test_a_full_disk_leaves_nothing_and_the_engine_is_used_from_memory(
    engines: EngineCache,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        found = engines.get(KEY, Builder())
    assert (found.data, found.path) == (ENGINE, None)
    assert "No space left on device" in caplog.text
    assert [path.suffix for path in folder.iterdir()] == [".lock"]
    assert engines.get(KEY, Builder()).path is not None


def test_engines_are_read_from_a_folder_that_is_read_only(
    engines: EngineCache, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines.get(KEY, Builder())

    def refuse(path: Path, waiting: object) -> None:
        raise cache_module._LockError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(cache_module, "_lock", refuse)
    assert engines.get(KEY, never).data == ENGINE
    other = engines.get(replace(KEY, precision="fp16"), Builder(b"other"))
    assert (other.data, other.path) == (b"other", None)


# Several processes

WORKER = """
import sys, time
from pathlib import Path
from fetalclip_edge.engines.cache import EngineCache, EngineKey
folder, seconds, mark = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
def build():
    with (folder.parent / "compiled").open("a") as file:
        file.write(mark + "\\n")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not (folder.parent / "go").exists():
        time.sleep(0.02)
    return mark.encode() * 1000
key = EngineKey(*sys.argv[4:])
found = EngineCache(folder).get(key, build, lambda: print("waiting", flush=True))
print(found.data[:1].decode(), found.compiled, flush=True)
"""


def start(folder: Path, seconds: float, mark: str) -> subprocess.Popen[str]:
    values = [getattr(KEY, field.name) for field in fields(EngineKey)]
    command = [sys.executable, "-c", WORKER, str(folder), str(seconds), mark, *values]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def compiled(folder: Path) -> list[str]:
    path = folder.parent / "compiled"
    return path.read_text().split() if path.exists() else []


def wait_until_one_compiles(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not compiled(folder):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def answer(process: subprocess.Popen[str]) -> list[str]:
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return said.splitlines()


def test_of_two_processes_one_compiles_and_the_other_takes_it(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    first = start(folder, 600, "a")
    wait_until_one_compiles(folder)
    second = start(folder, 600, "b")
    assert second.stdout is not None
    assert second.stdout.readline() == "waiting\n"
    (folder.parent / "go").touch()
    assert answer(first) == ["a True"]
    assert answer(second) == ["a False"]
    assert compiled(folder) == ["a"]


def test_a_kill_while_compiling_leaves_nothing_and_frees_the_next(folder: Path) -> None:
    # Given one that compiles for ever, and another that waits for it
    folder.parent.mkdir(parents=True)
    first = start(folder, 600, "a")
    wait_until_one_compiles(folder)
    second = start(folder, 0, "b")
    assert second.stdout is not None
    assert second.stdout.readline() == "waiting\n"
    # When it is killed
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    # Then the other compiles, and a third takes that
    assert answer(second) == ["b True"]
    assert answer(start(folder, 0, "c")) == ["b False"]
    assert compiled(folder) == ["a", "b"]


def test_what_a_killed_process_left_half_written_goes(engines: EngineCache, folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o700)
    left = folder / f".{KEY.file_name}.abc123"
    left.write_bytes(b"half an engine")
    assert engines.get(KEY, Builder()).data == ENGINE
    assert not left.exists()
    assert {path.suffix for path in folder.iterdir()} == {".engine", ".lock"}


def test_a_compiler_that_fails_frees_the_lock(engines: EngineCache) -> None:
    def fail() -> bytes:
        raise BackendError("no such layer")

    with pytest.raises(BackendError, match="no such layer"):
        engines.get(KEY, fail)
    assert engines.get(KEY, Builder()).data == ENGINE
