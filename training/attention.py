"""Attention pooling: which frames of a clip tell what it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor, nn

__all__ = ["AttentionPooling", "FrameSets", "fit_attention"]

_HIDDEN = 64
_RATE, _STEPS = 5e-3, 200
_DECAYS = (0.3, 1.0, 3.0, 10.0)
_FALLBACK = 3.0
_FOLDS = 3
_SEED = 0


class AttentionPooling(nn.Module):
    """Classifies a clip by the average of its frames, weighted by `softmax(v . tanh(U h + c))`.

    Attention-based deep multiple instance learning, Ilse et al. 2018, arXiv 1802.04712: the weights
    `w = softmax(v^T tanh(U h))` are learned together with the linear classifier of the average,
    from labels of whole clips alone.

    Args:
        dim: length of an embedding.
        classes: how many.
        hidden: length of `v`.
    """

    def __init__(self, dim: int, classes: int, hidden: int = _HIDDEN) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, hidden)
        self.query = nn.Linear(hidden, 1, bias=False)
        self.classifier = nn.Linear(dim, classes)

    def forward(self, frames: Tensor, there: Tensor) -> Tensor:
        """Logits `(N, C)` of clips.

        Args:
            frames: `(N, T, D)`, clips of fewer than T frames padded with anything finite.
            there: bool `(N, T)`, False for padding; at least one frame of each clip.
        """
        scores = self.query(self.hidden(frames).tanh()).squeeze(-1)
        weights = scores.masked_fill(~there, -torch.inf).softmax(dim=1)
        logits: Tensor = self.classifier((weights[..., None] * frames).sum(dim=1))
        return logits


@dataclass(frozen=True, slots=True, eq=False)
class FrameSets:
    """Clips to learn from.

    Attributes:
        clips: embeddings of each one's frames, `(T, D)`.
        truth: index of each one's class, `(N,)`.
        groups: the patient of each, `(N,)`.
    """

    clips: Sequence[NDArray[np.float32]]
    truth: NDArray[np.int64]
    groups: NDArray[np.str_]


def fit_attention(
    train: FrameSets, classes: int, *, advance: Callable[[], object] = lambda: None
) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """Fit attention and classifier, their weight decay chosen by cross-validation over patients.

    Frames are standardised; classes weigh alike. The decay is the one of 0.3 to 10 (AdamW, 200
    steps over all clips) with the lowest log loss on patients left out. Where a class has one
    patient alone, no fold can hold it out, and the decay is 3.

    Args:
        train: with clips of every class.
        classes: how many.
        advance: called after each of the fits, thirteen at most.

    Returns:
        The tensors of the head, for embeddings as they are, and how it was chosen.
    """
    stacked = np.concatenate(train.clips).astype(np.float64)
    mean, scale = stacked.mean(axis=0), stacked.std(axis=0)
    scale[scale < 1e-8] = 1
    frames, there = _padded([(clip - mean) / scale for clip in train.clips])
    truth = torch.from_numpy(train.truth)

    def fit(rows: NDArray[np.int64], decay: float) -> AttentionPooling:
        model = _fit(frames[rows], there[rows], truth[rows], classes, decay)
        advance()
        return model

    patients = [len(set(train.groups[train.truth == index])) for index in range(classes)]
    folds = min(_FOLDS, *patients)
    decay, chosen = _FALLBACK, "fixed: a class has one training patient"
    losses: dict[float, float] = {}
    if folds > 1:
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=_SEED)
        parts = list(splitter.split(train.truth, train.truth, train.groups))
        for each in _DECAYS:
            held = [
                _loss(fit(learned, each), frames[rest], there[rest], truth[rest], classes)
                for learned, rest in parts
            ]
            losses[each] = float(np.mean(held))
        decay = min(losses, key=losses.__getitem__)
        chosen = f"{folds}-fold cross-validation over training patients, by log loss"
    model = fit(np.arange(len(truth)), decay)
    return _tensors(model, mean, scale), {
        "weight_decay": decay,
        "chosen": chosen,
        **({"cross_validated_log_loss": losses[decay]} if losses else {}),
    }


def _fit(
    frames: Tensor, there: Tensor, truth: Tensor, classes: int, decay: float
) -> AttentionPooling:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = AttentionPooling(frames.shape[-1], classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=decay)
    weights = _class_weights(truth, classes)
    for _ in range(_STEPS):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(frames, there), truth, weight=weights).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def _class_weights(truth: Tensor, classes: int) -> Tensor:
    counts = torch.bincount(truth, minlength=classes).clamp(min=1)
    return (len(truth) / (classes * counts)).float()


@torch.no_grad()
def _loss(
    model: AttentionPooling, frames: Tensor, there: Tensor, truth: Tensor, classes: int
) -> float:
    weights = _class_weights(truth, classes)
    return float(F.cross_entropy(model(frames, there), truth, weight=weights))


def _padded(clips: Sequence[NDArray[np.float64]]) -> tuple[Tensor, Tensor]:
    longest = max(len(clip) for clip in clips)
    frames = torch.zeros(len(clips), longest, clips[0].shape[1])
    there = torch.zeros(len(clips), longest, dtype=torch.bool)
    for index, clip in enumerate(clips):
        frames[index, : len(clip)] = torch.from_numpy(clip)
        there[index, : len(clip)] = True
    return frames, there


def _tensors(
    model: AttentionPooling, mean: NDArray[np.float64], scale: NDArray[np.float64]
) -> dict[str, NDArray[np.float32]]:
    """The weights with the standardisation folded in."""
    hidden = model.hidden.weight.double().numpy() / scale
    weight = model.classifier.weight.double().numpy() / scale
    named = {
        "attention.hidden": hidden,
        "attention.offset": model.hidden.bias.double().numpy() - hidden @ mean,
        "attention.query": model.query.weight.double().numpy()[0],
        "weight": weight,
        "bias": model.classifier.bias.double().numpy() - weight @ mean,
    }
    return {name: np.ascontiguousarray(value, np.float32) for name, value in named.items()}
