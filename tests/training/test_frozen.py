"""Stages that do not learn: they stay as they were, and what they make of a view is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from training.frozen import KeptMaps
from training.lanes import Draw
from training.learner import Images
from training.models import ImageTower, ModelConfig
from training.pretrain import main
from training.shards import read_examples
from training.view_set import ViewSet

pytestmark = pytest.mark.usefixtures("one_thread")

FROZEN = 2
DRAWS = [Draw(0, 1), Draw(5, 2), Draw(0, 1), Draw(7, 0)]


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def tower(tiny_model: dict[str, Any]) -> ImageTower:
    torch.manual_seed(0)
    made = ImageTower(ModelConfig(**tiny_model))
    made.load_imagenet()
    made.freeze(FROZEN)
    return made.train()


@pytest.fixture
def images(drawn: Path) -> Images:
    examples = read_examples(drawn, "train")
    return Images.load(examples, range(len(examples)), 64)


def keep(folder: Path, tower: ImageTower, images: Images, **changed: Any) -> KeptMaps:
    settings = {"canvas": 64, "views": 3, "seed": 0, "data_sha256": "d", **changed}
    return KeptMaps(folder, tower, ViewSet(images.examples, **settings))


def frozen_names(tower: ImageTower) -> set[str]:
    stages = tuple(f"backbone.blocks.{k}." for k in range(FROZEN))
    return {
        name
        for name in tower.state_dict()
        if name.startswith(("backbone.conv_stem.", "backbone.bn1.", *stages))
    }


@pytest.mark.parametrize("stages", [1, 3, 7])
def test_early_and_late_stages_make_the_whole(tower: ImageTower, stages: int) -> None:
    tower.freeze(stages)
    tower.eval()
    pictures = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (2, 1, 64, 64)).astype(np.float32)
    )
    with torch.no_grad():
        maps = tower.early(pictures)
        torch.testing.assert_close(tower.late(maps), tower(pictures))
    assert maps.shape[1:] == tower.early_shape(64)


def test_what_is_frozen_has_no_gradient_and_no_new_statistics(tower: ImageTower) -> None:
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    tower(torch.full((4, 1, 64, 64), 77.0)).sum().backward()
    learned = {name for name, p in tower.named_parameters() if p.grad is not None}
    frozen = frozen_names(tower)
    # Stem: 1 convolution and 5 of its normalisation; a separable block and two inverted ones.
    assert len(frozen) == (1 + 5) + 2 * (1 + 5) + 2 * 3 * (1 + 5)
    assert not learned & frozen
    assert learned | frozen >= {name for name, _ in tower.named_parameters()}
    after = tower.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    moved = [name for name in after if not torch.equal(before[name], after[name])]
    assert any("blocks.4" in name and "running_mean" in name for name in moved)


def test_a_backbone_has_only_so_many_stages(tower: ImageTower) -> None:
    with pytest.raises(ValueError, match="at most the 7 of tf_efficientnet_lite0, not 8"):
        tower.freeze(8)


@pytest.mark.parametrize("size", [32, 64])
def test_maps_are_made_once_and_kept(
    tmp_path: Path, tower: ImageTower, images: Images, size: int
) -> None:
    first = keep(tmp_path, tower, images)
    maps, zooms = first(images, DRAWS, size)
    views, expected_zooms = images.views(DRAWS, size, seed=0)
    with torch.no_grad():
        expected = tower.early(views)
    torch.testing.assert_close(maps, expected, atol=0.01, rtol=0.002)  # kept in half precision
    torch.testing.assert_close(zooms, expected_zooms)
    assert first.computed == 3

    again = keep(tmp_path, tower, images)
    torch.testing.assert_close(again(images, DRAWS, size)[0], maps, rtol=0, atol=0)
    assert again.computed == 0
    again(images, [Draw(1, 1)], size)
    assert again.computed == 1


def test_maps_lost_in_a_power_cut_are_made_again(
    tmp_path: Path, tower: ImageTower, images: Images
) -> None:
    first = keep(tmp_path, tower, images)
    whole = first(images, [Draw(0, 0)], 32)[0]
    first._files[32].maps[0, 0] = 0
    second = keep(tmp_path, tower, images)
    torch.testing.assert_close(second(images, [Draw(0, 0)], 32)[0], whole)
    assert second.computed == 1


def test_a_backbone_of_another_make_has_no_stages_to_freeze(tiny_model: dict[str, Any]) -> None:
    other = ImageTower(ModelConfig(**{**tiny_model, "backbone": "vit_tiny_patch16_224"}))
    with pytest.raises(ValueError, match="at most the 0 of vit_tiny_patch16_224"):
        other.freeze(1)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"data_sha256": "e"}, {"canvas": 32}])
def test_other_views_are_kept_elsewhere(
    tmp_path: Path, tower: ImageTower, images: Images, changed: dict[str, Any]
) -> None:
    keep(tmp_path, tower, images)(images, DRAWS, 32)
    other = keep(tmp_path, tower, images, **changed)
    other(images, DRAWS, 32)
    assert other.computed == 3


def test_other_frozen_stages_are_kept_elsewhere(
    tmp_path: Path, tower: ImageTower, images: Images
) -> None:
    keep(tmp_path, tower, images)(images, DRAWS, 32)
    with torch.no_grad():
        tower.backbone.conv_stem.weight[0, 0, 0, 0] += 1
    other = keep(tmp_path, tower, images)
    other(images, DRAWS, 32)
    assert other.computed == 3


def test_more_views_than_the_disk_holds_are_refused(
    tmp_path: Path, tower: ImageTower, images: Images
) -> None:
    kept = keep(tmp_path, tower, images, views=10**9)
    with pytest.raises(ValueError, match=r"frozen stages make in 1000000000 .* lower `views`"):
        kept.prepare([32])
    assert not list(tmp_path.iterdir())


def test_a_run_with_frozen_stages_goes_on_to_the_same_weights(
    drawn: Path,
    tmp_path: Path,
    tiny_experiment: dict[str, Any],
    tower: ImageTower,
    cut_off_at: Callable[[int], AbstractContextManager[None]],
) -> None:
    config, cache = tmp_path / "frozen.yaml", tmp_path / "cache"
    config.write_text(yaml.safe_dump({**tiny_experiment, "frozen_stages": FROZEN}))
    main(config, tmp_path / "whole", drawn, cache=cache)
    with cut_off_at(7):
        main(config, tmp_path / "cut", drawn, cache=cache)
    main(config, tmp_path / "cut", drawn, cache=cache)
    main(config, tmp_path / "other", drawn, cache=cache, seed=tiny_experiment["seed"] + 1)

    other = load_file(tmp_path / "other" / "image_tower.safetensors")
    whole, cut = (load_file(tmp_path / run / "image_tower.safetensors") for run in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    began = tower.state_dict()
    for name in frozen_names(tower):
        value = began[name]
        assert torch.equal(whole[name], value.half() if value.is_floating_point() else value), name
    assert not torch.equal(
        whole["backbone.conv_head.weight"], began["backbone.conv_head.weight"].half()
    )
    assert not torch.equal(whole["backbone.conv_head.weight"], other["backbone.conv_head.weight"])
    # One file of maps and one of zooms for each of the two sizes, for all runs.
    assert sorted(path.suffix for path in cache.iterdir()) == [".maps", ".maps", ".zoom", ".zoom"]
