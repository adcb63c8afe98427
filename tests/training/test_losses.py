"""Contrastive and distillation losses, against open_clip, torch and numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.special import log_softmax, softmax
from torch import Tensor

import training.models  # noqa: F401  (makes open_clip importable beside a CPU torch)
from training.losses import contrastive_loss, feature_loss, repulsive_loss

from open_clip.loss import ClipLoss, DistillClipLoss  # isort: skip

SCALE = torch.tensor(14.3)


def pairs(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    images, captions = torch.randn((2, count, 16), generator=rng)
    return F.normalize(images, dim=-1), F.normalize(captions, dim=-1)


def one_to_one(count: int) -> Tensor:
    return 2 * torch.eye(count, dtype=torch.int8) - 1


@pytest.mark.parametrize("count", [2, 7, 64])
def test_one_to_one_pairs_give_clips_loss(count: int) -> None:
    images, captions = pairs(count)
    expected = ClipLoss()(images, captions, SCALE)
    torch.testing.assert_close(
        contrastive_loss(images, captions, SCALE, one_to_one(count)), expected
    )


def test_several_true_captions_share_the_target() -> None:
    images, captions = pairs(3, seed=4)
    relations = torch.tensor([[1, 1, -1], [-1, 1, 0], [1, -1, 1]], dtype=torch.int8)
    logits = float(SCALE) * images.double().numpy() @ captions.double().numpy().T
    rows = log_softmax(logits, axis=1)
    row1 = log_softmax(logits[1, [0, 1]])  # caption 2 is unknown to image 1
    columns = log_softmax(logits, axis=0)
    column2 = log_softmax(logits[[0, 2], 2])
    image_to_text = np.mean(
        [-(rows[0, 0] + rows[0, 1]) / 2, -row1[1], -(rows[2, 0] + rows[2, 2]) / 2]
    )
    text_to_image = np.mean(
        [-(columns[0, 0] + columns[2, 0]) / 2, -(columns[0, 1] + columns[1, 1]) / 2, -column2[1]]
    )
    loss = contrastive_loss(images, captions, SCALE, relations)
    assert float(loss) == pytest.approx((image_to_text + text_to_image) / 2, rel=1e-5)


def test_captions_that_nobody_knows_change_nothing() -> None:
    images, captions = pairs(5)
    relations = one_to_one(5)
    relations[:4, 4] = 0
    relations[4, :4] = 0
    other_images, other_captions = images.clone(), captions.clone()
    # The last pair knows nothing of the others: alone with itself, it costs nothing at all.
    other_images[4], other_captions[4] = -images[4], pairs(1, seed=9)[1][0]
    loss = contrastive_loss(images, captions, SCALE, relations)
    torch.testing.assert_close(
        contrastive_loss(other_images, other_captions, SCALE, relations), loss, rtol=0, atol=0
    )
    alone = contrastive_loss(images[:4], captions[:4], SCALE, one_to_one(4))
    torch.testing.assert_close(loss, alone * 4 / 5)


def test_the_order_of_the_batch_does_not_matter() -> None:
    images, captions = pairs(6)
    relations = one_to_one(6)
    relations[0, 3], relations[2, 1], relations[5, 4] = 1, 0, 0
    shuffled = torch.tensor([3, 5, 0, 1, 4, 2])
    torch.testing.assert_close(
        contrastive_loss(
            images[shuffled], captions[shuffled], SCALE, relations[shuffled][:, shuffled]
        ),
        contrastive_loss(images, captions, SCALE, relations),
    )


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_gradients_are_finite_and_none_flows_from_unknown_pairs(scale: float) -> None:
    images, captions = pairs(6)
    images.requires_grad_(True)
    captions.requires_grad_(True)
    temperature = torch.tensor(scale, requires_grad=True)
    relations = one_to_one(6)
    relations[5, :5] = 0
    relations[:5, 5] = 0
    contrastive_loss(images, captions, temperature, relations).backward()
    for tensor in (images, captions, temperature):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
    assert images.grad is not None
    assert captions.grad is not None
    assert images.grad[:5].abs().sum() > 0
    assert not images.grad[5].any()
    assert not captions.grad[5].any()


def logits(count: int, seed: int) -> Tensor:
    return 3 * torch.randn((count, count), generator=torch.Generator().manual_seed(seed))


def test_static_distillation_is_open_clips() -> None:
    student, teacher = logits(8, 1), logits(8, 2)
    loss = DistillClipLoss()
    expected = (loss.dist_loss(teacher, student) + loss.dist_loss(teacher.T, student.T)) / 2
    torch.testing.assert_close(repulsive_loss(student, teacher, one_to_one(8), 1.0), expected)


@pytest.mark.parametrize("off_diagonal", [2.0, 0.0, -0.8])
def test_matched_pairs_keep_their_weight_and_wrong_ones_have_theirs(off_diagonal: float) -> None:
    student, teacher = logits(4, 1), logits(4, 2)
    weights = np.where(np.eye(4) == 1, 1.0, off_diagonal)
    both = []
    for axis in (1, 0):
        targets = softmax(teacher.double().numpy(), axis=axis)
        chances = log_softmax(student.double().numpy(), axis=axis)
        both.append(-(weights * targets * chances).sum(axis=axis).mean())
    loss = repulsive_loss(student, teacher, one_to_one(4), off_diagonal)
    assert float(loss) == pytest.approx(np.mean(both), rel=1e-5)


def test_what_nobody_knows_is_always_learned_from_the_teacher() -> None:
    student = torch.zeros((2, 2), requires_grad=True)
    teacher = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    relations = torch.tensor([[1, 0], [0, 1]], dtype=torch.int8)
    repulsive_loss(student, teacher, relations, -0.8).backward()
    assert student.grad is not None
    assert student.grad[0, 1] < 0  # a step down the gradient raises what the teacher favours
    known = torch.tensor([[1, -1], [-1, 1]], dtype=torch.int8)
    student.grad = None
    repulsive_loss(student, teacher, known, -0.8).backward()
    assert student.grad[0, 1] > 0  # a known confusion is pushed away


def test_the_feature_loss_is_one_minus_the_cosine() -> None:
    one, other = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    assert float(feature_loss(one, other)) == pytest.approx((0 + 0.2) / 2)
