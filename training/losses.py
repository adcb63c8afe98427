"""Contrastive losses over pairs of image and caption."""

from __future__ import annotations

from torch import Tensor

from training.facts import SUPPORTS, UNKNOWN

__all__ = ["contrastive_loss"]


def contrastive_loss(images: Tensor, captions: Tensor, scale: Tensor, relations: Tensor) -> Tensor:
    """CLIP's symmetric loss where several captions may be true of an image, and some unknown.

    For every row the targets are spread evenly over its true partners (as in UniCL,
    arXiv 2204.03610); pairs whose truth nobody knows are left out of the softmax.

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
