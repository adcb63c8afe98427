"""Shards, checked with tarfile, webdataset's own reader and the source's files."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from training.facts import Facts
from training.shard_plan import Planned, cut, mixed
from training.shards import read_examples, read_manifest, write_shards
from training.sources import DataSet, LeftOut, Record, read_source


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in folder.iterdir()}


def drawn(path: Path, seed: int = 0, size: tuple[int, int] = (24, 16)) -> Path:
    noise = np.random.default_rng(seed).integers(0, 256, size[::-1]).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).save(path)
    return path


def record(path: Path, split: str = "train", group: str | None = None, **facts: Any) -> Record:
    facts = {"plane": "brain", **facts}
    return Record(path, f"drawn/{path.name}", Facts(**facts), group or f"g/{path.stem}", split)


@pytest.fixture
def small(tmp_path: Path) -> DataSet:
    """30 images for training and 6 for the test, JPEG and PNG."""
    records = [
        record(
            drawn(tmp_path / "source" / f"{i}.{'png' if i % 2 else 'jpg'}", i),
            "test" if i % 6 == 5 else "train",
            brain_plane="trans-thalamic" if i % 3 else None,
        )
        for i in range(36)
    ]
    return DataSet("drawn", records)


@pytest.mark.data
def test_the_real_images_are_in_the_shards_byte_for_byte(data_root: Path, tmp_path: Path) -> None:
    data_sets = read_source(data_root)
    manifest = write_shards(data_sets, tmp_path / "shards")
    examples = {
        split: read_examples(tmp_path / "shards", split, verify=True) for split in ("train", "test")
    }
    counts = Counter(
        (example.name.split("/")[0], split) for split in examples for example in examples[split]
    )
    assert counts == {
        ("planes", "train"): 1123,
        ("planes", "test"): 523,
        ("hc18", "train"): 646,
        ("hc18", "test"): 148,
    }
    records = {record.name: record for data_set in data_sets for record in data_set.records}
    for split, listed in examples.items():
        for example in listed:
            source = records[example.name]
            with example.archive.open("rb") as file:
                file.seek(example.offset)
                assert file.read(example.length) == source.path.read_bytes()
            assert (example.facts, example.group) == (source.facts, source.group)
            assert (example.split, source.split) == (split, split)
            assert example.head_circumference_mm == source.head_circumference_mm
            assert example.side == 448
    assert manifest["left_out"] == []
    assert manifest == read_manifest(tmp_path / "shards")
    assert manifest["splits"]["train"]["images"] == 1769
    assert manifest["splits"]["train"]["planes"]["cervix"] == 7
    # A fair sample each: heads of HC18 are 646 of 1769, and so they are in every shard, by and by.
    shares = Counter(e.shard for e in examples["train"] if e.group.startswith("hc18/"))
    sizes = Counter(e.shard for e in examples["train"])
    assert len(sizes) == 18
    assert all(0.18 < shares[shard] / sizes[shard] < 0.56 for shard in sizes)


# It leaves its last file to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdatasets_own_reader_reads_the_tars(small: DataSet, tmp_path: Path) -> None:
    write_shards([small], tmp_path / "shards", images_per_shard=8)
    tars = sorted(str(path) for path in (tmp_path / "shards").glob("train-*.tar"))
    read = list(webdataset.WebDataset(tars, shardshuffle=False))
    by_name = {record.name: record for record in small.records}
    examples = read_examples(tmp_path / "shards", "train")
    assert len(read) == 30
    for sample, example in zip(read, examples, strict=True):
        described = json.loads(sample["json"])
        source = by_name[described["name"]]
        assert sample[source.path.suffix[1:]] == source.path.read_bytes()
        assert described["name"] == example.name
        assert described["group"] == source.group
        assert Facts(**described["facts"]) == source.facts == example.facts


def test_an_example_opens_as_its_file_does(small: DataSet, tmp_path: Path) -> None:
    write_shards([small], tmp_path / "shards")
    by_name = {record.name: record for record in small.records}
    for example in read_examples(tmp_path / "shards", "test"):
        with Image.open(by_name[example.name].path) as image:
            np.testing.assert_array_equal(np.asarray(example.open()), np.asarray(image))
        assert example.side == 24


def test_everything_known_of_an_image_is_read_back(tmp_path: Path) -> None:
    head = Record(
        drawn(tmp_path / "a.png"),
        "hc18/a.png",
        Facts("brain", "other", gestational_age_days=140.0, pixel_size_mm=0.1234567890123),
        "hc18/0",
        "train",
        head_circumference_mm=175.3,
    )
    captioned = record(drawn(tmp_path / "b.png", 1), plane=None, caption="Tête, «coupe» 20 SA")
    write_shards([DataSet("both", [head, captioned])], tmp_path / "shards")
    read = {e.name: e for e in read_examples(tmp_path / "shards", "train")}
    assert read["hc18/a.png"].facts == head.facts
    assert read["hc18/a.png"].head_circumference_mm == 175.3
    assert read["drawn/b.png"].facts == captioned.facts
    assert read["drawn/b.png"].head_circumference_mm is None


def test_the_scanner_is_in_the_index_and_changes_no_tar_and_no_checksum(
    small: DataSet, tmp_path: Path
) -> None:
    # Given shards made before the scanner was told
    before = write_shards([small], tmp_path / "shards")
    assert {e.scanner for e in read_examples(tmp_path / "shards", "train")} == {None}
    tars = {n: c for n, c in contents(tmp_path / "shards").items() if n.endswith(".tar")}
    # When they are made again in the same place
    told = [replace(r, scanner=f"Make {i % 2}") for i, r in enumerate(small.records)]
    after = write_shards([DataSet("drawn", told)], tmp_path / "shards")
    # Then a model that learned from the old ones knows them, and the scanner is there
    assert after["sha256"] == before["sha256"]
    assert tars == {n: c for n, c in contents(tmp_path / "shards").items() if n.endswith(".tar")}
    wanted = {r.name: r.scanner for r in told if r.split == "train"}
    assert {e.name: e.scanner for e in read_examples(tmp_path / "shards", "train")} == wanted


def test_the_order_of_the_sources_does_not_matter(small: DataSet, tmp_path: Path) -> None:
    halves = [DataSet("drawn", small.records[:20]), DataSet("drawn", small.records[20:])]
    one = write_shards(halves, tmp_path / "one")
    other = write_shards(halves[::-1], tmp_path / "other")
    assert one["sha256"] == other["sha256"]
    tars = [
        {n: c for n, c in contents(tmp_path / f).items() if n.endswith(".tar")}
        for f in ("one", "other")
    ]
    assert tars[0] == tars[1]


def test_the_data_sets_hash_tells_labels_seeds_and_pixels_apart(
    small: DataSet, tmp_path: Path
) -> None:
    first = small.records[0]
    other_label = record(first.path, first.split, plane="femur")
    hashes = [
        write_shards([small], tmp_path / "same")["sha256"],
        write_shards([small], tmp_path / "seed", seed=1)["sha256"],
        write_shards([DataSet("x", [other_label, *small.records[1:]])], tmp_path / "l")["sha256"],
    ]
    drawn(first.path, 99)
    hashes.append(write_shards([small], tmp_path / "pixels")["sha256"])
    assert len(set(hashes)) == 4


def test_the_manifest_counts_what_is_there(small: DataSet, tmp_path: Path) -> None:
    noted = DataSet("drawn", small.records, [LeftOut("drawn/rest", "no labels")], ["a note"])
    manifest = write_shards([noted], tmp_path / "shards", images_per_shard=4)
    assert manifest["splits"]["train"] == {
        "images": 30,
        "patients": 30,
        "planes": {"brain": 30},
        # Of 0 to 35 without 5, 11, 17, ..., those that three does not divide.
        "brain_planes": {"trans-thalamic": 18},
        "gestational_ages": 0,
        "captions": 0,
    }
    assert manifest["patients"]["test"] == sorted(f"g/{i}" for i in range(5, 36, 6))
    assert manifest["left_out"] == [{"file": "drawn/rest", "reason": "no labels"}]
    assert manifest["sources"] == [{"layout": "drawn", "images": 36, "notes": ["a note"]}]
    for shard in manifest["shards"]:
        path = tmp_path / "shards" / shard["file"]
        assert (shard["sha256"], shard["bytes"]) == (sha256(path), path.stat().st_size)
        with tarfile.open(path) as tar:
            assert len(tar.getnames()) == 2 * shard["images"]
            assert {member.mtime for member in tar} == {0}


def truncated_jpeg(path: Path) -> None:
    drawn(path, size=(200, 200))
    path.write_bytes(path.read_bytes()[:-400])


def sixteen_bits(path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(path)


def two_frames(path: Path) -> None:
    frames = [Image.new("L", (8, 8), level) for level in (10, 200)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def broken_chunk(path: Path) -> None:
    content = bytearray(drawn(path, size=(64, 64)).read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("bad.jpg", truncated_jpeg, "cannot be decoded: image file is truncated"),
        ("bad.png", broken_chunk, "cannot be decoded: "),
        ("bad.png", lambda path: path.write_text("<html>404</html>"), "is no image of"),
        ("bad.png", lambda path: path.write_bytes(b""), "is no image of"),
        ("bad.png", lambda path: None, "No such file or directory"),
        ("bad.png", lambda path: path.mkdir(), "Is a directory"),
        ("bad.png", sixteen_bits, "has mode 'I;16'; store it with 8 bits per channel"),
        ("bad.tiff", sixteen_bits, "has mode 'I;16'; store it with 8 bits per channel"),
        ("bad.gif", two_frames, "holds 2 frames; give each as an image of its own"),
    ],
)
def test_an_image_that_cannot_be_used_is_left_out_and_listed(
    small: DataSet, tmp_path: Path, name: str, make: Callable[[Path], object], reason: str
) -> None:
    make(tmp_path / name)
    data_set = DataSet("drawn", [*small.records, record(tmp_path / name)])
    manifest = write_shards([data_set], tmp_path / "shards")
    ((file, told),) = [tuple(left.values()) for left in manifest["left_out"]]
    assert file == f"drawn/{name}"
    assert told.startswith(reason)
    assert len(read_examples(tmp_path / "shards", "train", verify=True)) == 30


def test_other_formats_become_png_with_the_same_pixels(tmp_path: Path) -> None:
    for index, suffix in enumerate(("bmp", "tiff", "webp", "png")):
        drawn(tmp_path / f"{index}.{suffix}", index)
    paths = sorted(tmp_path.glob("*.*"))
    write_shards([DataSet("x", [record(path) for path in paths])], tmp_path / "shards")
    with tarfile.open(tmp_path / "shards" / "train-000000.tar") as tar:
        suffixes = Counter(name.split(".")[1] for name in tar.getnames())
    assert suffixes == {"png": 4, "json": 4}
    for example in read_examples(tmp_path / "shards", "train"):
        with Image.open(tmp_path / example.name.split("/")[1]) as image:
            np.testing.assert_array_equal(
                np.asarray(example.open()), np.asarray(image.convert("L"))
            )


def test_a_patient_in_two_splits_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    records = [record(drawn(tmp_path / f"{s}.png"), s, group="p/7") for s in ("train", "test")]
    with pytest.raises(ValueError, match=r"1 patients are in two splits.*: p/7\. Put all"):
        write_shards([DataSet("x", records)], tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


def test_a_source_given_twice_is_refused(small: DataSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"36 images are given twice: drawn/0\.jpg, .*, \.\.\."):
        write_shards([small, small], tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


def test_a_training_image_that_is_in_the_test_too_is_left_out(
    small: DataSet, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(small.records[5].path.read_bytes())
    data_set = DataSet("drawn", [record(copy), *small.records])
    manifest = write_shards([data_set], tmp_path / "shards")
    assert manifest["left_out"] == [
        {
            "file": "drawn/copy.png",
            "reason": f"the same image is in the test split: {small.records[5].name}",
        }
    ]
    assert {e.name for e in read_examples(tmp_path / "shards", "test")} == {
        record.name for record in small.records if record.split == "test"
    }


def test_requests_that_make_no_sense_are_told(small: DataSet, tmp_path: Path) -> None:
    only_train = DataSet("x", [r for r in small.records if r.split == "train"])
    write_shards([only_train], tmp_path / "shards")
    with pytest.raises(ValueError, match="has no images of split 'test'"):
        read_examples(tmp_path / "shards", "test")
    with pytest.raises(ValueError, match="split must be one of train, test, not 'valid'"):
        read_examples(tmp_path / "shards", "valid")
    with pytest.raises(ValueError, match="images_per_shard must be at least 1, not 0"):
        write_shards([small], tmp_path / "none", images_per_shard=0)
    with pytest.raises(ValueError, match="the sources hold no images"):
        write_shards([DataSet("x", [])], tmp_path / "none")
    with pytest.raises(ValueError, match=r"no image can be used; drawn/gone\.png: No such file"):
        write_shards([DataSet("x", [record(tmp_path / "gone.png")])], tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file; give a folder"):
        write_shards([small], tmp_path / "file")


def planned(count: int) -> list[Planned]:
    return [Planned(record(Path(f"{i}.png")), "0", None) for i in range(count)]


@given(st.integers(0, 500), st.integers(1, 200), st.sampled_from(["train", "test"]))
def test_shards_are_even_full_and_complete(count: int, size: int, split: str) -> None:
    images = planned(count)
    shards = list(cut(split, images, size))
    lengths = [len(shard.images) for shard in shards]
    assert [image for shard in shards for image in shard.images] == images
    assert [shard.number for shard in shards] == list(range(len(shards)))
    assert all(0 < length <= size for length in lengths)
    assert max(lengths, default=0) - min(lengths, default=0) <= 1
    if split == "train" and count >= 80:
        assert len(shards) >= 8


@given(st.lists(st.integers(0, 999), unique=True), st.integers(), st.randoms())
def test_the_mixture_hangs_on_names_and_seed_alone(
    numbers: list[int], seed: int, random: Any
) -> None:
    records = [record(Path(f"{i}.png")) for i in numbers]
    order = mixed(records, "train", seed)
    random.shuffle(records)
    assert mixed(records, "train", seed) == order
    # An image more does not move the others.
    more = mixed([*records, record(Path("more.png"))], "train", seed)
    assert [r for r in more if r.name != "drawn/more.png"] == order
    if len(numbers) > 20:
        assert order != mixed(records, "train", seed + 1)


def test_progress_reaches_the_end_of_both_stages(small: DataSet, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    write_shards([small], tmp_path / "s", report=lambda *state: told.append(state))
    assert [state for state in told if state[1] == state[2]] == [
        ("checking", 36, 36),
        ("writing", 36, 36),
    ]
    assert all(0 <= done <= total == 36 for _, done, total in told)
