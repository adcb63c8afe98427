"""The calibration set: every kind of plane, the same each time, and no held-out patient."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calibration.frames import calibration_set, read_frames, scanners
from training.config import load_config
from training.datasets import Example, holdout_by_group
from training.facts import Facts
from training.sources import read_source


def example(name: str, facts: Facts, group: str = "g", archive: Path = Path("none.tar")) -> Example:
    length = archive.stat().st_size if archive.is_file() else 0
    return Example(archive, 0, length, name, facts, group, "train", 0, 60)


def examples(**counts: int) -> list[Example]:
    return [
        example(f"{plane}{i}.jpg", Facts(plane))
        for plane, count in counts.items()
        for i in range(count)
    ]


def planes(chosen: list[Example]) -> dict[str, int]:
    return dict(Counter(e.facts.plane for e in chosen if e.facts.plane))


def test_every_plane_is_there_in_equal_parts_as_far_as_it_goes() -> None:
    chosen = calibration_set(examples(brain=500, femur=50, cervix=3), 23, seed=0)
    assert planes(chosen) == {"brain": 10, "femur": 10, "cervix": 3}


def test_brain_sub_planes_and_heads_without_one_count_as_kinds() -> None:
    given = [
        example(f"{part}{i}.jpg", Facts("brain", part))
        for part, count in (("trans-thalamic", 90), ("other", 20), (None, 4))
        for i in range(count)
    ]
    chosen = calibration_set(given, 12, seed=0)
    parts = Counter(e.facts.brain_plane for e in chosen)
    assert parts == {"trans-thalamic": 4, "other": 4, None: 4}


def test_images_with_nothing_but_a_caption_count_as_a_kind() -> None:
    captioned = [example(f"{i}.jpg", Facts(None, caption=f"Picture {i}.")) for i in range(50)]
    chosen = calibration_set(examples(brain=50) + captioned, 10, seed=0)
    assert Counter(e.facts.plane for e in chosen) == {"brain": 5, None: 5}


def test_every_scanner_is_there_with_every_plane_in_equal_parts_as_far_as_it_goes() -> None:
    # Given a machine that made nearly all of it, and images of which nobody knows the machine
    given = [
        replace(example(f"{plane}{scanner}{i}.jpg", Facts(plane)), scanner=scanner)
        for plane in ("femur", "brain")
        for scanner, count in (("Voluson E6", 90), ("Aloka", 4), (None, 1))
        for i in range(count)
    ]
    chosen = calibration_set(given, 24, seed=0)
    assert scanners(chosen) == {"Voluson E6": 14, "Aloka": 8, "unknown": 2}
    assert list(scanners(chosen)) == ["Voluson E6", "Aloka", "unknown"]
    assert planes(chosen) == {"femur": 12, "brain": 12}


def test_shards_that_tell_no_scanner_give_the_frames_they_always_gave() -> None:
    given = [example(f"{i}.jpg", Facts(p)) for i, p in enumerate(["brain", "femur", "other"] * 20)]
    # Recorded before there were scanners.
    names = [e.name for e in calibration_set(given, 6, seed=3)]
    assert names == ["24.jpg", "16.jpg", "41.jpg", "9.jpg", "43.jpg", "53.jpg"]


def test_no_frame_is_chosen_twice_and_all_may_be() -> None:
    given = examples(brain=7, femur=4)
    chosen = calibration_set(given, 11, seed=1)
    assert sorted(e.name for e in chosen) == sorted(e.name for e in given)


def test_the_seed_decides() -> None:
    given = examples(brain=100, femur=100)
    assert calibration_set(given, 20, seed=1) == calibration_set(given, 20, seed=1)
    assert calibration_set(given, 20, seed=1) != calibration_set(given, 20, seed=2)


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="8 calibration frames are wanted, only 7"):
        calibration_set(examples(brain=7), 8, seed=0)


def test_frames_are_pillows_padded_squares(tmp_path: Path) -> None:
    Image.new("L", (60, 30), 80).save(tmp_path / "wide.png")
    Image.new("L", (30, 60), 160).save(tmp_path / "tall.png")
    names = ("wide.png", "tall.png")
    listed = [example(n, Facts("femur"), archive=tmp_path / n) for n in names]
    frames = read_frames(listed, 60)
    assert frames.dtype == np.uint8
    assert frames.shape == (2, 1, 60, 60)
    assert (frames[0, 0, 15:45] == 80).all()
    assert (frames[1, 0, :, 15:45] == 160).all()
    assert frames[0, 0, :15].max() == frames[0, 0, 45:].max() == 0
    assert frames[1, 0, :, :15].max() == frames[1, 0, :, 45:].max() == 0


@pytest.mark.parametrize(
    ("interpolation", "pillows"),
    [("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)],
)
def test_frames_are_resized_as_the_model_wants(
    tmp_path: Path, interpolation: str, pillows: Image.Resampling
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    listed = [example("noise", Facts("femur"), archive=tmp_path / "noise.png")]
    expected = np.asarray(Image.fromarray(noise).resize((24, 24), pillows))
    np.testing.assert_array_equal(read_frames(listed, 24, interpolation)[0, 0], expected)


@pytest.mark.data
def test_real_calibration_frames_show_every_kind_and_no_validation_patient(
    data_root: Path, repository: Path
) -> None:
    config = load_config(repository / "training" / "configs" / "student.yaml")
    records = [record for release in read_source(data_root) for record in release.records]
    train = [example(r.name, r.facts, r.group) for r in records if r.split == "train"]
    learn, held = holdout_by_group(train, config.holdout, config.holdout_seed)
    chosen = calibration_set(learn, 256, seed=0)
    assert not {e.group for e in chosen} & {e.group for e in held}
    assert {(e.facts.plane, e.facts.brain_plane) for e in chosen} == {
        (e.facts.plane, e.facts.brain_plane) for e in learn
    }
