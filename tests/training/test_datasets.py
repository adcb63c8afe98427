"""Examples and their pixels, checked against labels.csv read by hand and Pillow."""

from __future__ import annotations

import csv
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError

from training.config import load_config
from training.datasets import Example, holdout_by_group, load_images, square
from training.facts import Facts
from training.session import train_and_validation
from training.shards import write_shards
from training.sources import read_source


def examples(groups: list[str]) -> list[Example]:
    return [
        Example(Path("x.tar"), 0, 1, f"{i}.jpg", Facts("brain"), group, "train", 0, 100)
        for i, group in enumerate(groups)
    ]


def stored(path: Path, picture: Image.Image) -> Example:
    """The file itself serves as the archive."""
    picture.save(path)
    length = path.stat().st_size
    side = max(picture.size)
    return Example(path, 0, length, path.name, Facts("femur"), "p", "train", 0, side)


@pytest.mark.data
def test_no_patient_is_learned_from_and_validated_or_tested_on(
    data_root: Path, repository: Path, tmp_path: Path
) -> None:
    write_shards(read_source(data_root), tmp_path / "shards")
    config = load_config(repository / "training" / "configs" / "teacher.yaml")
    learn, held = train_and_validation(tmp_path / "shards", config)
    labels = {}
    for folder, column in (("planes", "patient"), ("hc18", "subject")):
        with (data_root / folder / "labels.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                labels[f"{folder}/{row['file']}"] = (folder, row[column], row["split"])
    test_patients = {(f, patient) for f, patient, split in labels.values() if split == "test"}
    learned = {labels[example.name] for example in learn}
    validated = {labels[example.name] for example in held}
    assert {split for _, _, split in learned | validated} == {"train"}
    assert not {p[:2] for p in learned} & {p[:2] for p in validated}
    assert not {p[:2] for p in learned | validated} & test_patients
    # Nothing is lost, and the share is that of the configuration.
    assert len(learn) + len(held) == 1123 + 646
    patients = len({p[:2] for p in learned | validated})
    assert len({p[:2] for p in validated}) == round(config.holdout * patients)


def test_all_compared_experiments_hold_out_the_same_patients(repository: Path) -> None:
    configs = [load_config(p) for p in (repository / "training" / "configs").rglob("*.yaml")]
    assert len(configs) == 6
    assert len({(c.holdout, c.holdout_seed) for c in configs}) == 1


@pytest.mark.parametrize("shape", [(50, 90), (91, 50), (64, 64), (33, 64)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_square_is_pillows_padding_and_resizing(shape: tuple[int, int], interpolation: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    grey = np.asarray(Image.fromarray(noise).convert("L"))
    side = max(shape)
    top, left = (side - shape[0]) // 2, (side - shape[1]) // 2
    padded = np.zeros((side, side), np.uint8)
    padded[top : top + shape[0], left : left + shape[1]] = grey
    name = Image.Resampling[interpolation.upper()]
    expected = np.asarray(Image.fromarray(padded).resize((48, 48), name))
    np.testing.assert_array_equal(square(Image.fromarray(noise), 48, interpolation), expected)


def test_images_are_loaded_in_order(tmp_path: Path) -> None:
    # Sizes that differ, so that decoding ends in another order than it starts.
    levels = [int(level) for level in np.random.default_rng(0).permutation(256)]
    drawn = [
        stored(tmp_path / f"{level}.png", Image.new("L", (40 + 2 * level, 200 + level), level))
        for level in levels
    ]
    images = load_images([*drawn, *drawn[:50]], 32, "reading")
    assert images.shape == (306, 1, 32, 32)
    assert images[:, 0, 16, 16].tolist() == [*levels, *levels[:50]]


def test_no_examples_make_no_images() -> None:
    assert load_images([], 32, "reading").shape == (0, 1, 32, 32)


@pytest.mark.parametrize(("quiet", "shown"), [(False, 1), (True, 0)])
def test_progress_is_shown_unless_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quiet: bool, shown: int
) -> None:
    example = stored(tmp_path / "a.png", Image.new("L", (40, 30)))
    load_images([example] * 3, 32, "reading heads", quiet=quiet)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("reading heads") == captured.err.count("3/3") == shown


def test_the_first_damaged_image_is_named_and_few_are_read_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = stored(tmp_path / "whole.png", Image.new("L", (40, 30)))
    damaged = stored(tmp_path / "damaged.png", Image.new("L", (40, 30)))
    damaged.archive.write_bytes(b"x" * damaged.length)
    opened = []
    once = Example.open
    monkeypatch.setattr(Example, "open", lambda self: opened.append(self) or once(self))  # type: ignore[func-returns-value]
    with pytest.raises(ValueError, match=r"damaged\.png cannot be decoded"):
        load_images([whole, damaged] + 2000 * [whole], 32, "reading")
    assert len(opened) < 500


def flipped(place: int, bits: int) -> Callable[[bytearray], None]:
    def flip(content: bytearray) -> None:
        content[place] ^= bits

    return flip


def shortened(content: bytearray) -> None:
    content[200:] = bytes(len(content) - 200)


def enormous(content: bytearray) -> None:
    """A header that promises 60 000 x 60 000 pixels."""
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))


# What Pillow raises of each differs: the classes are part of the test's point.
@pytest.mark.parametrize(
    ("damage", "raised"),
    [
        (flipped(0, 1), UnidentifiedImageError),
        (flipped(11, 1), ValueError),  # the length of the first chunk
        (flipped(36, 0xFF), SyntaxError),  # the length of the second
        (flipped(100, 1), OSError),  # a pixel
        (shortened, OSError),
        (enormous, Image.DecompressionBombError),
    ],
)
def test_damaged_bytes_are_told_with_shard_and_image(
    tmp_path: Path, damage: Callable[[bytearray], None], raised: type[Exception]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 40)).astype(np.uint8)
    example = stored(tmp_path / "a.png", Image.fromarray(noise))
    example = replace(example, name="planes/images/head.png")
    content = bytearray(example.archive.read_bytes())
    damage(content)
    example.archive.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"a\.png: planes/images/head\.png cannot be decoded"
    ) as told:
        example.open()
    assert type(told.value.__cause__) is raised


def test_a_shard_that_is_gone_is_named(tmp_path: Path) -> None:
    example = stored(tmp_path / "a.png", Image.new("L", (40, 30)))
    example.archive.unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.png"):
        example.open()


@given(
    st.lists(st.sampled_from([f"p{i}" for i in range(12)]), min_size=1, max_size=60).map(
        lambda groups: groups + [f"p{i}" for i in range(12)]
    ),
    st.floats(0.05, 0.95),
    st.integers(0, 1000),
)
def test_a_holdout_never_tears_a_patient_apart(
    groups: list[str], fraction: float, seed: int
) -> None:
    given_examples = examples(groups)
    stay, held = holdout_by_group(given_examples, fraction, seed)
    assert not {e.group for e in stay} & {e.group for e in held}
    assert sorted(e.name for e in stay + held) == sorted(e.name for e in given_examples)
    assert len({e.group for e in held}) == round(12 * fraction)
    assert holdout_by_group(given_examples, fraction, seed) == (stay, held)
    # The patients count, not the order in which their images are listed.
    backwards = holdout_by_group(given_examples[::-1], fraction, seed)
    assert {e.group for e in backwards[1]} == {e.group for e in held}


@pytest.mark.parametrize("groups", [["a"], ["a", "b"]])
def test_too_few_patients_cannot_be_split(groups: list[str]) -> None:
    with pytest.raises(ValueError, match=rf"hold out 0\.1 of {len(groups)} patients"):
        holdout_by_group(examples(groups), 0.1, 0)
