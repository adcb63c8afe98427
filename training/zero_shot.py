"""Recognition by cosine with prompt embeddings, and the metrics the papers report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.metrics import f1_score, log_loss
from torch import Tensor

from training.models import ImageTextModel
from training.prompts import PromptSet

__all__ = ["SCORED_PLANES", "embed_images", "embed_prompts", "macro_f1", "recognition_log_loss"]

SCORED_PLANES = ("abdomen", "brain", "femur", "thorax")
"""The planes with enough images to be scored; cervix and other have too few."""


@torch.inference_mode()
def embed_prompts(model: ImageTextModel, prompts: PromptSet) -> Tensor:
    """One embedding a class: the mean over its sentences, L2-normalised, `(classes, D)`."""
    model.eval()
    means = [model.text(texts).mean(dim=0) for texts in prompts.prompts.values()]
    return F.normalize(torch.stack(means), dim=-1)


@torch.inference_mode()
def embed_images(tower: torch.nn.Module, images: Tensor, batch_size: int = 64) -> Tensor:
    """Embeddings `(N, D)` of grey levels `(N, 1, S, S)`."""
    tower.eval()
    device = next(tower.parameters()).device
    return torch.cat([tower(batch.to(device).float()) for batch in images.split(batch_size)])


def macro_f1(truth: Sequence[str], answers: Sequence[str], labels: Sequence[str]) -> float:
    """Macro-F1 over those of `labels` that occur, on the images whose truth is one of them; 0 to 1.

    Raises:
        ValueError: no image is labelled with any of them.
    """
    kept = [(t, a) for t, a in zip(truth, answers, strict=True) if t in labels]
    if not kept:
        raise ValueError(f"no image is labelled with any of {', '.join(labels)}")
    known, found = zip(*kept, strict=True)
    there = [label for label in labels if label in known]
    return float(f1_score(known, found, labels=there, average="macro", zero_division=0))


def recognition_log_loss(
    logits: NDArray[np.floating], truth: Sequence[str | None], labels: Sequence[str]
) -> float:
    """Log loss, in nats, on the images whose truth is one of the labels.

    Args:
        logits: `(N, labels)`: cosines with the prompts, times the logit scale.
        truth: what each image shows.
        labels: the classes.

    Raises:
        ValueError: no image is labelled with any of them.
    """
    known = {row: labels.index(name) for row, name in enumerate(truth) if name in labels}
    if not known:
        raise ValueError(f"no image is labelled with any of {', '.join(labels)}")
    scores = softmax(logits[list(known)].astype(np.float64), axis=1)
    return float(log_loss(list(known.values()), scores, labels=range(len(labels))))
