"""Losses over pairs of image and caption: contrastive, and distillation from a teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from training.facts import CONTRADICTS, SUPPORTS, UNKNOWN

__all__ = ["contrastive_loss", "feature_loss", "recognition_loss", "repulsive_loss"]


def contrastive_loss(images: Tensor, captions: Tensor, scale: Tensor, relations: Tensor) -> Tensor:
    """CLIP's symmetric loss where several captions may be true of an image, and some unknown.

    For every row the targets are spread evenly over its true partners (as in UniCL,
    arXiv 2204.03610); pairs whose truth nobody knows are left out of the softmax. Where every
    caption is true of its own image alone this is `open_clip.loss.ClipLoss`.

    Args:
        images: `(B, D)`, L2-normalised.
        captions: `(B, D)`, L2-normalised.
        scale: the logit scale (1 / temperature).
        relations: int `(B, B)` from `training.facts.relations`, image by caption. The diagonal
            must be true: a caption describes its own image.

    Returns:
        The loss, a scalar.
    """
    logits = (scale * images @ captions.T).float()
    return (_one_way(logits, relations) + _one_way(logits.T, relations.T)) / 2


def _one_way(logits: Tensor, relations: Tensor) -> Tensor:
    logits = logits.masked_fill(relations == UNKNOWN, float("-inf"))
    positive = relations == SUPPORTS
    log_likelihood = logits.log_softmax(dim=1).masked_fill(~positive, 0.0)
    per_row: Tensor = -log_likelihood.sum(dim=1) / positive.sum(dim=1)
    return per_row.mean()


def recognition_loss(
    images: Tensor,
    classes: Tensor,
    scale: Tensor,
    relations: Tensor,
    tasks: Sequence[slice],
    offsets: Tensor,
) -> Tensor:
    """Cross entropy of zero-shot recognition: each image among the sentences of the classes.

    Args:
        images: `(B, D)`, L2-normalised.
        classes: `(C, D)`, likewise, one sentence a class.
        scale: the logit scale.
        relations: int `(B, C)` from `training.facts.relations`.
        tasks: which columns compete. An image counts for a task that it is labelled for.
        offsets: `(C,)`, added to the logits while learning alone: what common classes are given
            here, the embeddings need not give them.

    Returns:
        The loss, a scalar: of every task the mean over its images, added up.
    """
    logits = (scale * images @ classes.T).float() + offsets
    loss = 0 * logits.sum()  # with no image labelled, there is nothing to learn
    for task in tasks:
        right = relations[:, task] == SUPPORTS
        known = right.sum(dim=1) == 1
        if known.any():
            loss = loss + F.cross_entropy(logits[known, task], right[known].int().argmax(dim=1))
    return loss


def feature_loss(images: Tensor, teacher: Tensor) -> Tensor:
    """How far the student's embeddings point away from the teacher's: mean of 1 - cosine, 0 to 2.

    Args:
        images: `(B, D)`, the student's, L2-normalised.
        teacher: `(B, D)`, the teacher's of the same views, L2-normalised.
    """
    return (1 - (images * teacher).sum(dim=1)).mean()


def repulsive_loss(
    student: Tensor, teacher: Tensor, relations: Tensor, off_diagonal: float
) -> Tensor:
    """Contrastive distillation whose wrong pairs attract, or repel (arXiv 2603.05421).

    The cross entropy of the student's softmax under the teacher's is parted into matched pairs,
    whose weight stays 1, and non-targets, whose weight the caller schedules, down to a negative
    value: the student is then pushed away from the teacher's confusions between classes. In the
    paper matched pairs are the diagonal. Here several captions of a batch may be true of an image,
    and of some pairs nobody knows: only those known to be false count as non-targets, so that
    what the teacher alone can say (say, the sub-plane of an unlabelled head) is always learned.
    With `off_diagonal` 1 this is static distillation of the logits.

    Args:
        student: logits `(B, B)`, image by caption.
        teacher: likewise.
        relations: int `(B, B)` from `training.facts.relations`.
        off_diagonal: weight of the non-targets.

    Returns:
        The loss, a scalar: the mean over both directions and all rows.
    """
    weights = student.new_ones(student.shape).masked_fill(relations == CONTRADICTS, off_diagonal)
    return (
        _weighted_cross_entropy(student, teacher, weights)
        + _weighted_cross_entropy(student.T, teacher.T, weights.T)
    ) / 2


def _weighted_cross_entropy(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    targets = F.softmax(teacher.float(), dim=1)
    return -(weights * targets * F.log_softmax(student.float(), dim=1)).sum(dim=1).mean()
