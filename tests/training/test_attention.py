"""Attention pooling on clips of which one frame in ten carries the label."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

import training.attention
from training.attention import AttentionPooling, FrameSets, _tensors, fit_attention
from training.head_fit import LabelledClips, fit_head, head_of, probabilities

DIM = 16


def clips(number: int, seed: int) -> LabelledClips:
    """Ten to twenty frames, all of one kind but for a tenth, which tells the classes apart."""
    rng = np.random.default_rng(seed)
    labels = np.array(["no", "yes"] * (number // 2))
    frames = []
    for label in labels:
        length = int(rng.integers(10, 21))
        rows = rng.normal(0, 0.25, (length, DIM))
        rows[:, 0] += 1
        telling = rng.choice(length, max(1, length // 10), replace=False)
        rows[telling, 0] -= 1
        rows[telling, 1 if label == "yes" else 2] += 1
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        frames.append(rows.astype(np.float32))
    groups = np.array([f"{seed}/{i // 2}" for i in range(number)])
    return LabelledClips(frames, labels, groups)


def test_attention_finds_the_frames_that_tell_and_the_mean_drowns_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training.attention, "_DECAYS", (3.0, 10.0))
    train, validation, test = clips(64, 0), clips(40, 1), clips(100, 2)
    found, advanced = {}, []
    for pooling in ("mean", "attention"):
        head, chosen = fit_head(
            train, validation, ["no", "yes"], pooling, advance=lambda: advanced.append(1)
        )
        scores = probabilities(head, test.frames)[:, 1]
        found[pooling] = roc_auc_score(test.labels == "yes", scores)
    assert found["attention"] > 0.92
    assert found["attention"] > found["mean"] + 0.05
    # Three folds with each of two decays, and all of train
    assert len(advanced) == 7
    assert chosen["chosen"] == "3-fold cross-validation over training patients, by log loss"


def test_the_device_gives_what_torch_gives() -> None:
    # Given weights that were learned on standardised frames
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = AttentionPooling(DIM, 3, hidden=7).requires_grad_(False)
    nn.init.normal_(model.query.weight, std=2)
    nn.init.normal_(model.classifier.weight, std=2)
    mean, scale = rng.normal(size=DIM), rng.uniform(0.01, 2, DIM)
    head = head_of(_tensors(model, mean, scale), ["a", "b", "c"], "attention", 1.0, None)
    # When clips of several lengths are answered for together by torch and one by one in numpy
    several = [rng.normal(0, 0.2, (length, DIM)).astype(np.float32) for length in (1, 4, 30)]
    frames, there = torch.zeros(3, 30, DIM), torch.zeros(3, 30, dtype=torch.bool)
    for i, clip in enumerate(several):
        frames[i, : len(clip)] = torch.from_numpy((clip - mean) / scale)
        there[i, : len(clip)] = True
    expected = model(frames, there).softmax(dim=1).numpy()
    # Then they agree
    np.testing.assert_allclose(probabilities(head, several), expected, atol=1e-5)


@pytest.fixture
def few() -> FrameSets:
    """Clips of which those of a class are of one patient."""
    some = clips(12, 4)
    groups = np.where(some.labels == "yes", "one", some.groups)
    return FrameSets(some.frames, some.truth(["no", "yes"]), groups)


def test_a_class_of_one_patient_cannot_be_left_out(few: FrameSets) -> None:
    _, chosen = fit_attention(few, 2)
    assert chosen == {"weight_decay": 3.0, "chosen": "fixed: a class has one training patient"}


def test_the_same_clips_give_the_same_head_whatever_was_drawn_before(few: FrameSets) -> None:
    first, _ = fit_attention(few, 2)
    torch.rand(7)
    state = torch.get_rng_state()
    second, _ = fit_attention(few, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(first[name] == pytest.approx(second[name], abs=1e-6) for name in first)
