"""Limits and temperatures for a model whose patients only its twin has not learned from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from export.fitting import Fitted, Seen, fit, fit_by_twin
from fetalclip_edge.results import BRAIN_PLANES, PLANES
from training.datasets import Example
from training.facts import Facts

WIDTH = 12
KINDS = [Facts(p) for p in PLANES if p != "brain"] + [Facts("brain", p) for p in BRAIN_PLANES]
AXES = np.eye(len(KINDS), WIDTH, dtype=np.float32)
PROMPTS = {"planes": np.eye(6, WIDTH, dtype=np.float32), "brain_planes": AXES[5:8]}


def images(count: int) -> list[Example]:
    """Of every kind as many, of patients of one data set."""
    return [
        Example(Path("none"), 0, 0, f"{i}.png", KINDS[i % len(KINDS)], f"planes/{i}", "train", 0, 1)
        for i in range(count)
    ]


def seen(examples: Sequence[Example], spread: float, seed: int) -> Seen:
    """Embeddings that lie around the axis of their kind, and as many features likewise."""
    rng = np.random.default_rng(seed)
    kinds = np.array([KINDS.index(example.facts) for example in examples])
    around = AXES[kinds] + spread * rng.normal(size=(len(kinds), WIDTH)).astype(np.float32)
    rows = around / np.linalg.norm(around, axis=1, keepdims=True)
    features = 5 + rng.normal(size=(len(kinds), WIDTH)).astype(np.float32) * spread
    return Seen(examples, {"embedding": rows.astype(np.float32), "domain_features": features})


def accepted(fitted: Fitted, others: Seen) -> float:
    return float((fitted.domain.distances(others.encoded) <= fitted.domain_distance).mean())


def test_a_model_that_is_its_own_twin_gets_what_it_would_get_alone() -> None:
    # Given images learned from, and those of patients held out, who lie farther
    learned, held = seen(images(400), 0.05, seed=1), seen(images(160), 0.08, seed=2)
    # When a model is judged by itself
    alone = fit(learned, held, PROMPTS)
    by_twin = fit_by_twin(learned, learned, held, PROMPTS)
    # Then nothing differs
    assert by_twin.temperatures == alone.temperatures
    assert by_twin.domain_distance == pytest.approx(alone.domain_distance, rel=1e-4)
    new = seen(images(80), 0.08, seed=3)
    np.testing.assert_allclose(
        by_twin.domain.distances(new.encoded), alone.domain.distances(new.encoded), rtol=1e-4
    )


def test_new_patients_are_accepted_though_the_model_knows_all_it_was_fitted_to() -> None:
    # Given a model that learned from 560 images, to which new patients lie 1.6 times as far, and
    # a twin for which it is the same at another scale
    learned = seen(images(560), 0.05, seed=1)
    twin = seen(images(400), 0.025, seed=2), seen(images(160), 0.04, seed=3)
    # When limits are fitted by the twin
    fitted = fit_by_twin(learned, *twin, PROMPTS)
    # Then about 97 % of new patients pass, of whom few would by the learned images alone
    new = seen(images(2000), 0.08, seed=4)
    assert 0.94 < accepted(fitted, new) < 0.99
    assert accepted(fit(learned, learned, PROMPTS), new) < 0.5
    # And what lies elsewhere does not
    assert accepted(fitted, seen(images(200), 0.3, seed=5)) < 0.01
