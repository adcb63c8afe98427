"""The calibration set: every kind of plane, the same each time, and no held-out patient."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calibration.frames import calibration_set, read_frames
from training.config import load_config
from training.datasets import Example
from training.facts import Facts
from training.pretrain import train_and_validation


def examples(**counts: int) -> list[Example]:
    return [
        Example(Path(f"{plane}{i}.jpg"), Facts(plane), f"{plane}{i}")
        for plane, count in counts.items()
        for i in range(count)
    ]


def planes(chosen: list[Example]) -> dict[str, int]:
    return dict(Counter(example.facts.plane for example in chosen))


def test_every_plane_is_there_in_equal_parts_as_far_as_it_goes() -> None:
    chosen = calibration_set(examples(brain=500, femur=50, cervix=3), 23, seed=0)
    assert planes(chosen) == {"brain": 10, "femur": 10, "cervix": 3}


def test_brain_sub_planes_and_heads_without_one_count_as_kinds() -> None:
    given = [
        Example(Path(f"{part}{i}.jpg"), Facts("brain", part), "g")
        for part, count in (("trans-thalamic", 90), ("other", 20), (None, 4))
        for i in range(count)
    ]
    chosen = calibration_set(given, 12, seed=0)
    parts = Counter(example.facts.brain_plane for example in chosen)
    assert parts == {"trans-thalamic": 4, "other": 4, None: 4}


def test_no_frame_is_chosen_twice_and_all_may_be() -> None:
    given = examples(brain=7, femur=4)
    assert sorted(e.path for e in calibration_set(given, 11, seed=1)) == sorted(
        e.path for e in given
    )


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
    listed = [Example(tmp_path / f"{n}.png", Facts("femur"), n) for n in ("wide", "tall")]
    frames = read_frames(listed, 60)
    assert frames.dtype == np.uint8
    assert frames.shape == (2, 1, 60, 60)
    assert (frames[0, 0, 15:45] == 80).all()
    assert (frames[1, 0, :, 15:45] == 160).all()
    assert frames[0, 0, :15].max() == frames[0, 0, 45:].max() == 0
    assert frames[1, 0, :, :15].max() == frames[1, 0, :, 45:].max() == 0


@pytest.mark.data
def test_real_calibration_frames_show_every_kind_and_no_validation_patient(
    data_root: Path, repository: Path
) -> None:
    config = load_config(repository / "training" / "configs" / "first_light.yaml")
    learn, held = train_and_validation(data_root, config)
    chosen = calibration_set(learn, 256, seed=0)
    assert not {e.group for e in chosen} & {e.group for e in held}
    assert {(e.facts.plane, e.facts.brain_plane) for e in chosen} == {
        (e.facts.plane, e.facts.brain_plane) for e in learn
    }
