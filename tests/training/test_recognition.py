"""A sentence of every class beside each batch, and what is learned from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.special import softmax
from sklearn.metrics import log_loss

from training.facts import CONTRADICTS, SUPPORTS, UNKNOWN, Facts, relations
from training.losses import recognition_loss
from training.prompts import BRAIN_PLANE_PROMPTS, PLANE_PROMPTS
from training.recognition import ClassSentences
from training.release import PROMPTS

TASKS = (slice(0, 4), slice(4, 7))

KNOWN = [
    *[Facts("brain", "trans-thalamic")] * 5,
    *[Facts("brain", "trans-ventricular")] * 3,
    *[Facts("brain", "trans-cerebellum")] * 2,
    Facts("brain", "other"),
    *[Facts("femur")] * 9,
]


def test_every_class_has_a_sentence_of_its_own_prompts() -> None:
    sentences = ClassSentences(PROMPTS, 1, KNOWN, 0.5)
    prompts = [*PLANE_PROMPTS.prompts.values(), *BRAIN_PLANE_PROMPTS.prompts.values()]
    drawn = sentences.draw(3)
    assert all(text in own for text, own in zip(drawn, prompts, strict=True))
    assert drawn == ClassSentences(PROMPTS, 1, KNOWN, 0.5).draw(3)  # in another process
    seen = {sentences.draw(step)[0] for step in range(200)}
    assert seen == set(prompts[0])


def test_what_is_common_is_given_to_sub_planes_alone() -> None:
    sentences = ClassSentences(PROMPTS, 0, KNOWN, 0.5)
    planes, parts = sentences.tasks
    offsets = np.array(sentences.offsets)
    assert not offsets[planes].any()
    shares = {"trans-thalamic": 0.5, "trans-ventricular": 0.3, "trans-cerebellum": 0.2}
    expected = [0.5 * np.log(shares[label]) for label in BRAIN_PLANE_PROMPTS.labels]
    np.testing.assert_allclose(offsets[parts], expected)
    # Nothing is known of sub-planes: nothing is given
    assert np.isfinite(ClassSentences(PROMPTS, 0, [Facts("femur")], 1.0).offsets).all()


def test_classes_are_right_or_wrong_for_what_is_known_of_an_image() -> None:
    sentences = ClassSentences(PROMPTS, 0, KNOWN, 0.5)
    planes, parts = sentences.tasks
    images = [
        Facts("femur"),
        Facts("brain", "trans-ventricular"),
        Facts("brain", "other"),
        Facts("brain", pixel_size_mm=0.2),  # a head of HC18: its sub-plane nobody knows
        Facts(None, caption="A picture."),
    ]
    table = relations(images, sentences.claims)
    right = [PLANE_PROMPTS.labels.index(name) for name in ("femur", "brain", "brain", "brain")]
    assert table[:4, planes].argmax(axis=1).tolist() == right
    assert (table[:4, planes] == SUPPORTS).sum(axis=1).tolist() == [1, 1, 1, 1]
    assert (table[0, parts] == CONTRADICTS).all()
    ventricular = BRAIN_PLANE_PROMPTS.labels.index("trans-ventricular")
    assert np.flatnonzero(table[1, parts] == SUPPORTS).tolist() == [ventricular]
    assert (table[2, parts] == CONTRADICTS).all()
    assert (table[3, parts] == UNKNOWN).all()
    assert (table[4] == UNKNOWN).all()


def test_the_loss_is_the_cross_entropy_over_the_classes_of_each_task() -> None:
    rng = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn((5, 8), generator=rng), dim=-1)
    classes = F.normalize(torch.randn((7, 8), generator=rng), dim=-1)
    known = torch.full((5, 7), CONTRADICTS, dtype=torch.int8)
    planes = [2, 1, 1, 0, 3]
    known[range(5), planes] = SUPPORTS
    known[1, 4] = known[2, 6] = SUPPORTS
    known[3, 4:] = UNKNOWN
    logits = 12 * images.double().numpy() @ classes.double().numpy().T
    # While learning, what is common is given to it: here seven classes of shares that differ.
    offsets = torch.tensor([0.4, -1.0, 0.3, -0.2, 0.0, -0.5, -2.0])
    logits += offsets.double().numpy()
    expected = log_loss(planes, softmax(logits[:, :4], axis=1), labels=range(4))
    expected += log_loss([0, 2], softmax(logits[1:3, 4:], axis=1), labels=range(3))
    loss = recognition_loss(images, classes, torch.tensor(12.0), known, TASKS, offsets)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_images_of_which_nothing_is_known_teach_nothing() -> None:
    images = F.normalize(torch.ones(2, 3), dim=-1).requires_grad_()
    known = torch.full((2, 7), UNKNOWN, dtype=torch.int8)
    loss = recognition_loss(
        images, torch.eye(7, 3), torch.tensor(10.0), known, TASKS, torch.zeros(7)
    )
    loss.backward()
    assert float(loss.detach()) == 0
    assert images.grad is not None
    assert not images.grad.any()
