"""A small head fitted to frozen embeddings: pooling, classifier, temperature and threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve
from sklearn.pipeline import Pipeline

from calibration.confidence import fit_temperature
from fetalclip_edge.tasks.class_head import Attention, ClassHead
from training.attention import FrameSets, fit_attention
from training.evaluation.encoders import Embeddings
from training.evaluation.probes import Samples, fit_probe

__all__ = ["LabelledClips", "Probabilities", "fit_head", "head_of", "probabilities"]

Probabilities = NDArray[np.float64]

_COLDEST, _HOTTEST = 0.05, 20.0


@dataclass(frozen=True, slots=True, eq=False)
class LabelledClips:
    """Clips of one split.

    Attributes:
        frames: embeddings of each one's frames, `(T, D)`; one row for a single picture.
        labels: what each shows, `(N,)`.
        groups: the patient of each, `(N,)`.
    """

    frames: Sequence[Embeddings]
    labels: NDArray[np.str_]
    groups: NDArray[np.str_]

    def truth(self, labels: Sequence[str]) -> NDArray[np.int64]:
        """Index of each one's label among `labels`."""
        return np.array([labels.index(str(label)) for label in self.labels], np.int64)


def fit_head(
    train: LabelledClips,
    validation: LabelledClips,
    labels: Sequence[str],
    pooling: str,
    *,
    advance: Callable[[], object] = lambda: None,
) -> tuple[ClassHead, dict[str, Any]]:
    """Fit a head on training patients, and its confidence on those of validation.

    Without pooling, and on the mean of a clip's frames, it is a logistic regression
    (`training.evaluation.probes`); with attention see `training.attention`. Of two classes the
    threshold is where sensitivity and specificity on validation add up to most (Youden 1950,
    Cancer 3:32), midway to the next answer below it.

    Args:
        train: with clips of every label.
        validation: likewise.
        labels: the classes; of two, the second is the one to be found.
        pooling: "none", "mean" or "attention".
        advance: called as the fitting with attention goes on.

    Returns:
        The head, and how it was chosen.
    """
    if pooling == "attention":
        sets = FrameSets(train.frames, train.truth(labels), train.groups)
        tensors, chosen = fit_attention(sets, len(labels), advance=advance)
    else:
        means = np.stack([frames.mean(axis=0) for frames in train.frames])
        probe, chosen = fit_probe(Samples(means, train.labels, train.groups))
        tensors = _linear(probe, labels)
    plain = head_of(tensors, labels, pooling, 1.0, None)
    logits = np.log(np.maximum(probabilities(plain, validation.frames), 1e-30))
    truth = validation.truth(labels)
    temperature = fit_temperature(logits, truth, between=(_COLDEST, _HOTTEST))
    calibrated = head_of(tensors, labels, pooling, temperature, None)
    threshold = None
    if len(labels) == 2:
        threshold = _threshold(probabilities(calibrated, validation.frames)[:, 1], truth)
    return head_of(tensors, labels, pooling, temperature, threshold), chosen


def head_of(
    tensors: dict[str, NDArray[np.float32]],
    labels: Sequence[str],
    pooling: str,
    temperature: float,
    threshold: float | None,
) -> ClassHead:
    """The head that the device makes of these tensors, by name as in its file."""
    attention = None
    if pooling == "attention":
        attention = Attention(
            tensors["attention.hidden"], tensors["attention.offset"], tensors["attention.query"]
        )
    return ClassHead(
        tuple(labels),
        pooling,
        tensors["weight"],
        tensors["bias"],
        temperature,
        threshold,
        attention,
    )


def probabilities(head: ClassHead, clips: Sequence[Embeddings]) -> Probabilities:
    """What a head says of clips, `(N, C)`, computed as the device does."""
    return np.array([list(head.scores(frames).values()) for frames in clips])


def _linear(probe: Pipeline, labels: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Weights of a probe, with its standardisation folded in, in the order of the labels."""
    scaler, regression = probe[0], probe[-1]
    weight, bias = regression.coef_, regression.intercept_
    if len(labels) == 2:  # one row, for the second class
        weight = np.concatenate([np.zeros_like(weight), weight])
        bias = np.concatenate([np.zeros_like(bias), bias])
    order = [list(map(str, regression.classes_)).index(label) for label in labels]
    weight = weight[order] / scaler.scale_
    bias = bias[order] - weight @ scaler.mean_
    named = {"weight": weight, "bias": bias}
    return {name: np.ascontiguousarray(value, np.float32) for name, value in named.items()}


def _threshold(scores: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    false, true, cuts = roc_curve(truth, scores, drop_intermediate=False)
    best = float(cuts[int((true - false).argmax())])
    # At the score itself, a clip that is a hair below would be missed.
    lower = scores[scores < best]
    cut = (best + float(lower.max())) / 2 if len(lower) else best / 2
    return min(max(cut, 0.0), 1.0)
