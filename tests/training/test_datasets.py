"""Examples and their pixels, checked against labels.csv read by hand and Pillow."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

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
    configs = [load_config(p) for p in (repository / "training" / "configs").glob("*.yaml")]
    assert len(configs) == 4
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
    listed = [
        stored(tmp_path / f"{level}.png", Image.new("L", (40, 30), level))
        for level in (10, 200, 90)
    ]
    images = load_images(listed, 32, "reading")
    assert images.shape == (3, 1, 32, 32)
    assert images[:, 0, 16, 16].tolist() == [10, 200, 90]


def test_bytes_that_are_no_image_are_named(tmp_path: Path) -> None:
    example = stored(tmp_path / "a.png", Image.new("L", (40, 30)))
    (tmp_path / "a.png").write_bytes(b"x" * example.length)
    with pytest.raises(ValueError, match="a.png cannot be decoded"):
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
