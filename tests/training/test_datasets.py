"""The labelled images, checked against labels.csv read by hand and pixels made by Pillow."""

from __future__ import annotations

import csv
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from training.config import load_config
from training.datasets import (
    Example,
    age_from_circumference,
    hc18_examples,
    holdout_by_group,
    load_images,
    planes_examples,
    square,
    stored_side,
)
from training.facts import Facts
from training.pretrain import train_and_validation


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def who_median_mm(days: float) -> float:
    t = days / 7
    b = (2.09924879247164, 0.253373656106037, -0.00605647816678282, 5.14256072059917e-5)
    return math.exp(b[0] + b[1] * t + b[2] * t**2 + b[3] * t**3)


def examples(groups: list[str]) -> list[Example]:
    return [Example(Path(f"{i}.jpg"), Facts("brain"), g) for i, g in enumerate(groups)]


@pytest.mark.data
def test_the_counts_are_those_of_the_data_readme(data_root: Path) -> None:
    counts = {
        (read.__name__, split): len(read(data_root, split))
        for read in (planes_examples, hc18_examples)
        for split in ("train", "test")
    }
    assert counts == {
        ("planes_examples", "train"): 1123,
        ("planes_examples", "test"): 523,
        ("hc18_examples", "train"): 646,
        ("hc18_examples", "test"): 148,
    }
    planes = Counter(
        e.facts.plane for s in ("train", "test") for e in planes_examples(data_root, s)
    )
    assert (planes["cervix"], planes["other"]) == (18, 31)


@pytest.mark.data
def test_no_patient_is_learned_from_and_validated_or_tested_on(
    data_root: Path, repository: Path
) -> None:
    config = load_config(repository / "training" / "configs" / "first_light.yaml")
    learn, held = train_and_validation(data_root, config)
    labels = {
        str(data_root / folder / row["file"]): (folder, row[column], row["split"])
        for folder, column in (("planes", "patient"), ("hc18", "subject"))
        for row in rows(data_root / folder / "labels.csv")
    }
    test_patients = {(f, patient) for f, patient, split in labels.values() if split == "test"}
    learned = {labels[str(e.path)] for e in learn}
    validated = {labels[str(e.path)] for e in held}
    assert {split for _, _, split in learned | validated} == {"train"}
    assert not {p[:2] for p in learned} & {p[:2] for p in validated}
    assert not {p[:2] for p in learned | validated} & test_patients
    # Nothing is lost, and the share is that of the configuration.
    assert len(learn) + len(held) == 1123 + 646
    patients = len({p[:2] for p in learned | validated})
    assert len({p[:2] for p in validated}) == round(config.holdout * patients)


@pytest.mark.data
def test_heads_get_their_age_from_the_chart_and_planes_their_sub_plane(data_root: Path) -> None:
    by_name = {row["file"]: row for row in rows(data_root / "hc18" / "labels.csv")}
    for example in hc18_examples(data_root, "test"):
        row = by_name[f"images/{example.path.name}"]
        age, known = example.facts.gestational_age_days, float(row["head_circumference_mm"])
        assert example.facts.pixel_size_mm == float(row["pixel_size_mm"])
        if age is None:
            assert not who_median_mm(98) <= known <= who_median_mm(272)
        else:
            assert who_median_mm(age - 0.51) <= known <= who_median_mm(age + 0.51)
    parts = Counter(e.facts.brain_plane for e in planes_examples(data_root, "test"))
    expected = Counter(
        row["brain_plane"].lower() or None
        for row in rows(data_root / "planes" / "labels.csv")
        if row["split"] == "test"
    )
    assert parts == expected


@given(st.integers(98, 272))
def test_the_age_of_the_median_head_is_the_charts_own(days: int) -> None:
    assert age_from_circumference(who_median_mm(days)) == days


@pytest.mark.parametrize("days", [97, 273])
def test_heads_beyond_the_chart_have_no_age(days: int) -> None:
    assert age_from_circumference(who_median_mm(days)) is None


@pytest.mark.parametrize("shape", [(50, 90), (91, 50), (64, 64), (33, 64)])
def test_square_is_pillows_padding_and_bicubic(tmp_path: Path, shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    grey = np.asarray(Image.fromarray(noise).convert("L"))
    side = max(shape)
    top, left = (side - shape[0]) // 2, (side - shape[1]) // 2
    padded = np.zeros((side, side), np.uint8)
    padded[top : top + shape[0], left : left + shape[1]] = grey
    expected = np.asarray(Image.fromarray(padded).resize((48, 48), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(square(tmp_path / "noise.png", 48), expected)


def test_images_are_loaded_in_order(tmp_path: Path) -> None:
    listed = []
    for level in (10, 200, 90):
        Image.new("L", (40, 30), level).save(tmp_path / f"{level}.png")
        listed.append(Example(tmp_path / f"{level}.png", Facts("femur"), "p"))
    images = load_images(listed, 32, "reading")
    assert images.shape == (3, 1, 32, 32)
    assert images[:, 0, 16, 16].tolist() == [10, 200, 90]
    assert stored_side(listed[0]) == 40


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
    assert sorted(e.path for e in stay + held) == sorted(e.path for e in given_examples)
    assert len({e.group for e in held}) == round(12 * fraction)
    assert holdout_by_group(given_examples, fraction, seed) == (stay, held)
    # The patients count, not the order in which their images are listed.
    backwards = holdout_by_group(given_examples[::-1], fraction, seed)
    assert {e.group for e in backwards[1]} == {e.group for e in held}


@pytest.mark.parametrize("groups", [["a"], ["a", "b"]])
def test_too_few_patients_cannot_be_split(groups: list[str]) -> None:
    with pytest.raises(ValueError, match=rf"hold out 0\.1 of {len(groups)} patients"):
        holdout_by_group(examples(groups), 0.1, 0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("file,patient,plane,split\n", "lacks the columns brain_plane"),
        ("file,patient,plane,brain_plane,split\na.jpg,1,Other,,test\n", "no rows of split 'train'"),
        (
            "file,patient,plane,brain_plane,split\na.jpg,1,Fetal elbow,,train\n",
            "plane of a.jpg must be one of .*not 'Fetal elbow'",
        ),
        (
            "file,patient,plane,brain_plane,split\na.jpg,1,Fetal brain,Sagittal,train\n",
            "brain_plane of a.jpg must be one of .*not 'Sagittal'",
        ),
    ],
)
def test_labels_that_cannot_be_read_are_named(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "planes").mkdir()
    (tmp_path / "planes" / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=told):
        planes_examples(tmp_path, "train")
