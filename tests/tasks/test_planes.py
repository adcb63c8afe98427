from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BundleError
from fetalclip_edge.results import BRAIN_PLANES, PLANES
from fetalclip_edge.tasks.planes import PlanesTask
from fetalclip_edge.tasks.quality import is_flat

BUNDLE = ModelBundle.load()
TASK = PlanesTask(BUNDLE)
PROMPTS = BUNDLE.prompt_embeddings()


def prompt(task: str, label: str) -> NDArray[np.float32]:
    return PROMPTS[task][BUNDLE.prompt_sets[task].labels.index(label)]


@pytest.mark.parametrize("label", PLANES)
def test_the_embedding_of_a_prompt_is_its_plane(label: str) -> None:
    plane, brain_plane = TASK(prompt("planes", label))
    assert plane.label == label
    assert plane.confidence == plane.scores[label] == max(plane.scores.values())
    assert (brain_plane is not None) == (label == "brain")


@pytest.mark.parametrize("label", BRAIN_PLANES)
def test_a_brain_has_the_sub_plane_it_is_nearest_to(label: str) -> None:
    embedding = prompt("planes", "brain") + 0.2 * prompt("brain_planes", label)
    plane, brain_plane = TASK(embedding / np.linalg.norm(embedding))
    assert plane.label == "brain"
    assert brain_plane is not None
    nearest = int((PROMPTS["brain_planes"] @ embedding).argmax())
    assert brain_plane.label == BUNDLE.prompt_sets["brain_planes"].labels[nearest]
    assert brain_plane.confidence == max(brain_plane.scores.values())


@given(arrays(np.float32, BUNDLE.embedding_dim, elements=st.floats(-1, 1, width=32)))
def test_abstaining_withholds_the_labels_and_keeps_the_scores(vector: NDArray[np.float32]) -> None:
    embedding = vector / max(float(np.linalg.norm(vector)), 1e-3)
    plane, brain_plane = TASK(embedding)
    withheld, brain_withheld = TASK(embedding, abstain=True)
    assert withheld.label == "other"
    assert withheld.confidence == withheld.scores["other"]
    assert withheld.scores == plane.scores
    assert sum(plane.scores.values()) == pytest.approx(1, abs=1e-9)
    assert (brain_withheld is None) == (brain_plane is None) == (plane.label != "brain")
    if brain_plane is not None and brain_withheld is not None:
        assert (brain_withheld.label, brain_withheld.confidence) == (None, 0.0)
        assert brain_withheld.scores == brain_plane.scores


@pytest.mark.parametrize("task", ["planes", "brain_planes"])
def test_a_bundle_without_the_prompts_is_refused(task: str) -> None:
    sets = {name: prompts for name, prompts in BUNDLE.prompt_sets.items() if name != task}
    with pytest.raises(BundleError, match=task):
        PlanesTask(replace(BUNDLE, prompt_sets=sets))


@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 3)])
def test_a_picture_of_one_colour_is_flat(shape: tuple[int, ...]) -> None:
    assert is_flat(np.full(shape, 77, dtype=np.uint8))


def test_one_colour_need_not_be_grey() -> None:
    blue = np.zeros((64, 64, 3), dtype=np.uint8)
    blue[..., 2] = 255
    assert is_flat(blue)


def test_a_dim_picture_is_not_flat() -> None:
    dim = np.random.default_rng(2).normal(20, 6, (240, 320)).clip(0, 255).astype(np.uint8)
    assert not is_flat(dim)
    assert not is_flat(np.dstack([dim, np.zeros_like(dim), np.zeros_like(dim)]))
