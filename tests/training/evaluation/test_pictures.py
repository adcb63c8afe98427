"""Diagrams: what they show is what they were given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from PIL import Image

from training.evaluation.encoders import NotMeasurableError
from training.evaluation.pictures import draw_ages, draw_few_shot, draw_map, embedding_map


def shades(path: Path) -> int:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0))


@pytest.fixture
def _uncompiled() -> Iterator[None]:
    """Numba takes longer to compile UMAP than Python to run it on a few points."""
    before = numba.config.DISABLE_JIT
    numba.config.DISABLE_JIT = True  # what it decorates from now on, on UMAP's first import
    yield
    numba.config.DISABLE_JIT = before


@pytest.mark.usefixtures("one_thread", "_uncompiled")
def test_a_map_keeps_far_groups_apart_and_comes_out_the_same_again() -> None:
    # Given two groups of embeddings in opposite directions
    rng = np.random.default_rng(0)
    centres = np.repeat([[1.0] * 8, [-1.0] * 8], 8, axis=0)
    embeddings = (centres + rng.normal(0, 0.1, centres.shape)).astype(np.float32)
    # When they are mapped twice
    threads = torch.get_num_threads()
    places, again = embedding_map(embeddings), embedding_map(embeddings)
    # Then every one's nearest neighbours are of its own group
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    nearest = distances.argsort(axis=1)[:, 1:6]
    assert ((nearest < 8) == (np.arange(16) < 8)[:, None]).all()
    np.testing.assert_array_equal(places, again)
    # And PyTorch still has the threads that it had
    assert torch.get_num_threads() == threads == 1


def test_too_few_images_make_no_map() -> None:
    with pytest.raises(NotMeasurableError, match="at least 10 images, not 9"):
        embedding_map(np.zeros((9, 4), np.float32))


def test_a_map_has_the_colours_of_its_classes(tmp_path: Path) -> None:
    places = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    draw_map(places, {"one": ["a"] * 30}, tmp_path / "one.png")
    draw_map(places, {"two": ["a"] * 15 + ["b"] * 14 + [""]}, tmp_path / "two.png")
    assert shades(tmp_path / "two.png") > shades(tmp_path / "one.png")


def test_few_shot_and_ages_are_drawn(tmp_path: Path) -> None:
    points = [{"shots": shots, "macro_f1_mean": 0.5, "macro_f1_std": 0.1} for shots in (1, 2, 4)]
    draw_few_shot({"planes": {"points": points}}, {"planes": 0.7}, tmp_path / "few.png")
    draw_ages([(140, 175.0, True), (250, 175.0, False)], tmp_path / "ages.png")
    assert shades(tmp_path / "few.png") > 10
    assert shades(tmp_path / "ages.png") > 10
