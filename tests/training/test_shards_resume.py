"""Shards written again: what is whole stays, what is not is mended, what is other is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from training.shards import read_examples, write_shards
from training.sources import read_source


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def source(drawn: Path, tmp_path: Path) -> Path:
    """Noise in the layout of the real images, to be changed at will."""
    copied = tmp_path / "source"
    return Path(shutil.copytree(drawn.parent, copied, ignore=shutil.ignore_patterns(drawn.name)))


_KILLED = """
import os, signal, sys
from pathlib import Path
import training.shards as shards
from training.sources import read_source

encoded, calls = shards._encoded, 0

def last(path):
    global calls
    calls += 1
    if calls == 250:
        os.kill(os.getpid(), signal.SIGKILL)
    return encoded(path)

shards._encoded = last
shards.write_shards(read_source(Path(sys.argv[1])), Path(sys.argv[2]))
"""


@pytest.mark.data
def test_killed_in_the_middle_of_a_shard_and_resumed_gives_the_same_shards(
    data_root: Path, tmp_path: Path, repository: Path
) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    data_sets = read_source(data_root)
    write_shards(data_sets, unbroken)
    command = [sys.executable, "-c", _KILLED, str(data_root), str(broken)]
    assert subprocess.run(command, cwd=repository, check=False).returncode == -9
    # Two shards of just under 100 are whole, the third is not there.
    assert {path.name for path in broken.glob("*.tar")} == {"train-000000.tar", "train-000001.tar"}
    with pytest.raises(FileNotFoundError, match=r"manifest\.json is missing; make it with"):
        read_examples(broken, "train")
    before = (broken / "train-000001.tar").stat()
    write_shards(data_sets, broken)
    after = (broken / "train-000001.tar").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert contents(broken) == contents(unbroken)


def test_the_shards_of_something_else_are_neither_overwritten_nor_mixed(
    source: Path, tmp_path: Path
) -> None:
    data_sets, out = read_source(source), tmp_path / "shards"
    write_shards(data_sets, out)
    before = contents(out)
    for again in (
        lambda: write_shards(data_sets, out, seed=1),
        lambda: write_shards(data_sets, out, images_per_shard=9),
        lambda: write_shards(data_sets[1:], out),
    ):
        with pytest.raises(ValueError, match="holds shards of other sources"):
            again()
    assert contents(out) == before


def test_only_the_shard_of_a_file_that_changed_is_written_anew(
    source: Path, tmp_path: Path
) -> None:
    data_sets, out = read_source(source), tmp_path / "shards"
    write_shards(data_sets, out, images_per_shard=5)
    before = contents(out)
    changed = next(e.name for e in read_examples(out, "train") if e.shard == 2)
    paths = {record.name: record.path for data_set in data_sets for record in data_set.records}
    Image.new("L", (70, 50), 99).save(paths[changed])
    write_shards(read_source(source), out, images_per_shard=5)
    differing = {name for name, content in contents(out).items() if before[name] != content}
    assert differing == {"manifest.json", "train-000002.tar", "train-000002.json"}


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_flipped_byte_is_found_and_mended(source: Path, tmp_path: Path) -> None:
    data_sets, out = read_source(source), tmp_path / "shards"
    write_shards(data_sets, out)
    before = contents(out)
    flip_a_byte(out / "train-000000.tar")
    with pytest.raises(ValueError, match=r"train-000000\.tar differs from its checksum"):
        read_examples(out, "train", verify=True)
    # The six and three planes of two patients, and a head.
    assert len(read_examples(out, "test", verify=True)) == 10
    write_shards(data_sets, out)
    assert contents(out) == before


@pytest.mark.parametrize(
    ("name", "spoil", "told"),
    [
        (
            "train-000000.tar",
            lambda path: path.write_bytes(path.read_bytes()[:-512]),
            r"train-000000\.tar has \d+ bytes, not \d+; give the command",
        ),
        ("train-000000.tar", Path.unlink, r"train-000000\.tar is missing, but the manifest"),
        ("train-000000.json", Path.unlink, r"train-000000\.json is missing, but the manifest"),
        ("train-000000.json", flip_a_byte, r"train-000000\.json differs from its checksum"),
        ("manifest.json", Path.unlink, r"manifest\.json is missing; make it with: python -m"),
        ("manifest.json", lambda path: path.write_text("{"), r"manifest\.json is not JSON"),
        ("manifest.json", lambda path: path.write_text("[]"), "must hold a JSON object"),
        ("manifest.json", lambda path: path.write_text("{}"), "schema_version None, not 1"),
    ],
)
def test_shards_that_do_not_agree_are_refused(
    source: Path, tmp_path: Path, name: str, spoil: Callable[[Path], object], told: str
) -> None:
    out = tmp_path / "shards"
    write_shards(read_source(source), out)
    spoil(out / name)
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        read_examples(out, "train")


def test_a_tar_is_the_same_whatever_the_clock_says(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_sets = read_source(source)
    write_shards(data_sets, tmp_path / "now")
    monkeypatch.setattr("time.time", lambda: 4_000_000_000.0)
    write_shards(data_sets, tmp_path / "later")
    assert contents(tmp_path / "now") == contents(tmp_path / "later")
