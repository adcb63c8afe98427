"""Shards read once an epoch: every image once, in an order that follows from the seed."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from training.config import load_config
from training.datasets import Example
from training.facts import Facts, relations
from training.learner import Drawn, Images, make_batch
from training.losses import contrastive_loss
from training.models import DualEncoder
from training.objectives import Contrastive
from training.pretrain import main
from training.release import load_release
from training.session import start_accelerator, train_and_validation
from training.shards import read_examples
from training.streaming import ShardStream, StreamedLanes
from training.trainer import Trainer


def plan_of(examples: list[Example], lanes: int = 2, batch_size: int = 6) -> StreamedLanes:
    return StreamedLanes(examples, lanes=lanes, batch_size=batch_size, views=4, seed=3, shuffle=5)


def made_up(sizes: list[int]) -> list[Example]:
    """Shards of these sizes."""
    return [
        Example(Path(f"{shard}.tar"), 0, 1, f"{shard}/{i}", Facts("femur"), "g", "train", shard, 9)
        for shard, size in enumerate(sizes)
        for i in range(size)
    ]


@settings(max_examples=30)
@given(
    sizes=st.lists(st.integers(3, 6), min_size=4, max_size=9),
    lanes=st.sampled_from([1, 2, 4]),
    lane_size=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_every_image_is_learned_from_once_an_epoch(
    sizes: list[int], lanes: int, lane_size: int, seed: int
) -> None:
    examples = made_up(sizes + [5] * (-len(sizes) % lanes))
    plan = StreamedLanes(
        examples, lanes=lanes, batch_size=lanes * lane_size, views=3, seed=seed, shuffle=4
    )
    for epoch in range(2):
        seen: Counter[int] = Counter()
        first = epoch * plan.steps_per_epoch
        for step in range(first, first + plan.steps_per_epoch):
            for lane in range(lanes):
                draws, counted = plan.batch(step, lane), plan.counted(step, lane)
                assert len(draws) == len(counted) == lane_size
                assert all(examples[draw.index].shard % lanes == lane for draw in draws)
                seen.update(d.index for d, counts in zip(draws, counted, strict=True) if counts)
        assert seen == Counter(range(len(examples)))


def test_epochs_have_orders_of_their_own_that_come_out_again() -> None:
    examples = made_up([7] * 8)

    def order(plan: StreamedLanes, epoch: int) -> list[int]:
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        return [draw.index for step in steps for draw in plan.batch(step, 1)]

    plan = plan_of(examples)
    first, second = order(plan, 0), order(plan, 1)
    assert order(plan_of(examples), 1) == second
    assert first != second
    assert set(first) == set(second)
    # Images of a shard are mixed with those of others
    shards = [examples[index].shard for index in first]
    assert shards != sorted(shards, key=shards.index)


@pytest.fixture
def examples(drawn: Path) -> list[Example]:
    """Some of the patients are held out, so that shards hold others as well."""
    return [e for e in read_examples(drawn, "train") if e.group != "planes/1"]


def test_what_is_read_is_what_the_plan_wants(examples: list[Example]) -> None:
    plan = plan_of(examples)
    everything = Images.load(examples, range(len(examples)), 64)
    stream = ShardStream(examples, plan, range(2), 64)
    assert not all(
        plan.counted(plan.steps_per_epoch - 1, 0) + plan.counted(plan.steps_per_epoch - 1, 1)
    )
    for step in range(2 * plan.steps_per_epoch + 1):
        images = stream.of_step(step)
        assert len(images.pixels) <= 6
        read = make_batch(images, plan, range(2), step, 32, Drawn(0))
        held = make_batch(everything, plan, range(2), step, 32, Drawn(0))
        assert torch.equal(read.views, held.views)
        assert (read.texts, read.facts, read.counted) == (held.texts, held.facts, held.counted)


def test_two_processes_share_the_images_and_go_on_at_any_step(examples: list[Example]) -> None:
    # Given the streams of two processes, and one that begins in the middle of the second epoch
    plan = plan_of(examples)
    streams = [ShardStream(examples, plan_of(examples), [lane], 32) for lane in range(2)]
    middle = plan.steps_per_epoch + 2
    seen: Counter[int] = Counter()
    for step in range(plan.steps_per_epoch, 2 * plan.steps_per_epoch):
        found = [stream.of_step(step) for stream in streams]
        assert not set(found[0].rows) & set(found[1].rows)
        seen.update(index for images in found for index in images.rows)
        if step == middle:
            late = [ShardStream(examples, plan_of(examples), [lane], 32) for lane in range(2)]
            for images, other in zip(found, late, strict=True):
                again = other.of_step(step)
                assert again.rows == images.rows
                assert torch.equal(again.pixels, images.pixels)
    # Then every image is read in the epoch; more than once only those that fill up its end
    assert set(seen) == set(range(len(examples)))
    filled = plan.steps_per_epoch * 6 - len(examples)
    assert sum(seen.values()) - len(seen) <= filled


def test_a_shard_that_was_changed_is_told(examples: list[Example], tmp_path: Path) -> None:
    moved = {a: tmp_path / a.name for a in {e.archive for e in examples}}
    for archive, copy in moved.items():
        shutil.copy(archive, copy)
    copies = [replace(e, archive=moved[e.archive]) for e in examples]
    first, second = sorted(moved.values())[:2]
    shutil.copy(second, first)
    stream = ShardStream(copies, plan_of(copies), range(2), 32)
    with pytest.raises(ValueError, match="were changed while they were read"):
        for step in range(plan_of(copies).steps_per_epoch):
            stream.of_step(step)


@pytest.fixture
def streaming(tiny_experiment: dict[str, Any]) -> dict[str, Any]:
    """The tiny experiment, streamed, at one size."""
    stages = [{"epochs": 2, "image_size": 32}]
    model = {**tiny_experiment["model"], "image_size": 32}
    data = {"streaming": True, "shuffle": 8}
    return {**tiny_experiment, "stages": stages, "model": model, "data": data}


@pytest.mark.usefixtures("one_thread")
def test_what_fills_up_a_batch_is_not_learned_from(
    drawn: Path, tmp_path: Path, streaming: dict[str, Any]
) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(streaming))
    config = load_config(path)
    learn, _ = train_and_validation(drawn, config)
    torch.manual_seed(0)
    trainer = Trainer(
        config,
        DualEncoder(config.model),  # type: ignore[arg-type]
        learn,
        Contrastive(),
        start_accelerator(config, tmp_path),
        "experiment",
        Drawn(config.augmentation_seed),
        None,
    )
    trainer.learner.eval()  # so that an image's embedding does not hang on the others
    batch = trainer._make_batch(trainer.plan.steps_per_epoch - 1)
    rows = [row for row, counts in enumerate(batch.counted) if counts]
    assert 0 < len(rows) < len(batch.counted)
    with torch.no_grad():
        images = trainer.model.image(batch.views[rows])
        captions = trainer.model.text([batch.texts[row] for row in rows])
    facts, claims = ([side[row] for row in rows] for side in (batch.facts, batch.claims))
    expected = contrastive_loss(
        images, captions, trainer.model.scale, torch.from_numpy(relations(facts, claims))
    )
    found = trainer._backward(batch, 0.0)
    assert found["contrastive"] == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.usefixtures("one_thread")
def test_a_streamed_run_cut_off_goes_on_to_the_same_weights(
    drawn: Path,
    tmp_path: Path,
    streaming: dict[str, Any],
    cut_off_at: Callable[[int], AbstractContextManager[None]],
) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(streaming))
    main(path, tmp_path / "whole", drawn)
    with cut_off_at(8):  # in the second epoch, two steps after the checkpoint
        main(path, tmp_path / "cut", drawn)
    assert torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)["step"] == 6
    main(path, tmp_path / "cut", drawn)
    assert load_release(tmp_path / "cut").config.image_size == 32
    for name in ("image_tower.safetensors", "text_tower.safetensors", "log.csv"):
        whole, cut = tmp_path / "whole" / name, tmp_path / "cut" / name
        assert whole.read_bytes() == cut.read_bytes(), name


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"sub_plane_draws": 2.0}, "sub_plane_draws must be 1"),
        ({"data": {"streaming": "yes please"}}, "streaming must be of type bool"),
        ({"data": {"streaming": True, "shuffle": 0}}, "data.shuffle must be at least 1"),
        ({"data": {"buffer": 3}}, "unknown keys buffer"),
        ({"data": True}, "data must hold keys and values"),
    ],
)
def test_a_configuration_that_cannot_be_streamed_is_refused(
    tmp_path: Path, streaming: dict[str, Any], changed: dict[str, Any], told: str
) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump({**streaming, **changed}))
    with pytest.raises(ValueError, match=told):
        load_config(path)
