"""The plan of a run: the same batches however many processes share them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.datasets import Example
from training.facts import Facts
from training.lanes import Draw, Lanes


def example(name: str, facts: Facts, shard: int) -> Example:
    return Example(Path("x.tar"), 0, 1, name, facts, f"planes/{name}", "train", shard, 100)


def examples(count: int, shards: int) -> list[Example]:
    return [example(str(i), Facts("femur"), i % shards) for i in range(count)]


@given(
    lanes=st.sampled_from([1, 2, 4, 6]),
    lane_size=st.integers(1, 5),
    steps=st.integers(1, 5),
    seed=st.integers(0, 2**31),
)
def test_lanes_draw_from_their_own_shards_alone(
    lanes: int, lane_size: int, steps: int, seed: int
) -> None:
    images = examples(lanes * lane_size * steps, shards=12)
    if len({e.shard for e in images}) < 12:
        images += examples(12, shards=12)
    plan = Lanes(images, lanes=lanes, batch_size=lanes * lane_size, views=3, seed=seed)
    for step in range(2 * plan.steps_per_epoch):
        for lane in range(lanes):
            draws = plan.batch(step, lane)
            assert len(draws) == lane_size
            assert all(images[draw.index].shard % lanes == lane for draw in draws)
            assert all(0 <= draw.view < 3 for draw in draws)


def test_a_batch_follows_from_its_number_alone() -> None:
    images = examples(40, shards=4)
    plans = [Lanes(images, lanes=2, batch_size=8, views=5, seed=7) for _ in range(2)]
    forwards = [plans[0].batch(step, 1) for step in range(12)]
    backwards = [plans[1].batch(step, 1) for step in reversed(range(12))]
    assert forwards == backwards[::-1]
    assert len({draw for batch in forwards for draw in batch}) > 12
    assert Lanes(images, lanes=2, batch_size=8, views=5, seed=8).batch(0, 1) != forwards[0]


def test_processes_share_the_lanes_without_overlap() -> None:
    plan = Lanes(examples(40, shards=4), lanes=4, batch_size=8, views=1, seed=0)
    assert [list(plan.of_process(rank, 2)) for rank in range(2)] == [[0, 1], [2, 3]]
    assert list(plan.of_process(0, 1)) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"lanes \(4\) must be a multiple of 3 processes"):
        plan.of_process(0, 3)


def test_rare_planes_are_drawn_more_often_and_sub_planes_as_they_come() -> None:
    # 16 femurs, 9 thalamic planes, 1 ventricular one and 1 head with a pixel size: the brain planes
    # weigh 3 + 1 together, femurs 4 and the head 1. So 4/9 : 4/9 : 1/9, and 9 to 1 in the brain.
    kinds = [Facts("femur")] * 16 + [Facts("brain", "trans-thalamic")] * 9
    kinds += [Facts("brain", "trans-ventricular"), Facts("brain", pixel_size_mm=0.2)]
    plan = Lanes(
        [example(str(i), facts, 0) for i, facts in enumerate(kinds)],
        lanes=1,
        batch_size=27,
        views=1,
        seed=0,
    )
    drawn = [draw.index for step in range(1000) for draw in plan.batch(step, 0)]
    shares = Counter(kinds[index].kind for index in drawn)
    expected = {0: 4 / 9, 16: 4 / 9 * 9 / 10, 25: 4 / 9 / 10, 26: 1 / 9}
    for first, share in expected.items():
        assert shares[kinds[first].kind] / len(drawn) == pytest.approx(share, abs=0.015)


def test_sub_planes_are_drawn_more_often_when_wanted() -> None:
    # 8 femurs and 8 thalamic planes weigh the same; drawn three times as often it is 3 to 1.
    kinds = [Facts("femur")] * 8 + [Facts("brain", "trans-thalamic")] * 8
    images = [example(str(i), facts, 0) for i, facts in enumerate(kinds)]
    plan = Lanes(images, lanes=1, batch_size=16, views=1, seed=0, sub_plane_draws=3.0)
    drawn = [draw.index for step in range(500) for draw in plan.batch(step, 0)]
    assert sum(index >= 8 for index in drawn) / len(drawn) == pytest.approx(0.75, abs=0.015)


def test_views_are_drawn_evenly() -> None:
    plan = Lanes(examples(10, shards=1), lanes=1, batch_size=10, views=4, seed=0)
    views = Counter(draw.view for step in range(400) for draw in plan.batch(step, 0))
    assert sorted(views) == [0, 1, 2, 3]
    assert all(count == pytest.approx(1000, rel=0.15) for count in views.values())
    assert isinstance(plan.batch(0, 0)[0], Draw)


@pytest.mark.parametrize(
    ("count", "shards", "lanes", "batch_size", "told"),
    [
        (40, 4, 3, 8, "batch_size must be a multiple of lanes"),
        (7, 4, 2, 8, "batch_size must be at most the 7 images"),
        (40, 2, 4, 8, "lanes must be at most the 2 shards"),
        (40, 3, 2, 8, "must share the shards evenly, but one would get 13 images and another 27"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(
    count: int, shards: int, lanes: int, batch_size: int, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        Lanes(examples(count, shards), lanes=lanes, batch_size=batch_size, views=1, seed=0)
