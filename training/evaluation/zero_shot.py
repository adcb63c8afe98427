"""Recognition without training: the class whose prompts are nearest, and how often it is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, top_k_accuracy_score

from training.evaluation.intervals import patient_bootstrap
from training.evaluation.scores import drawn_scores, score

__all__ = ["measure_recognition"]

_LARGEST_K = 3


def measure_recognition(
    similarities: NDArray[np.floating[Any]],
    labels: Sequence[str],
    truth: Sequence[str | None],
    groups: Sequence[str],
    scored: Sequence[str],
) -> dict[str, Any]:
    """Score images against every class, and count the classes that have enough images.

    Args:
        similarities: `(N, C)`, of each image with each class.
        labels: the C classes that may be answered.
        truth: the class of each image; images of none of `scored` are left out.
        groups: the patient of each image.
        scored: the classes over which is averaged, all of them in `labels`. One that no image
            shows has no F1 and is left out of the average.

    Returns:
        Macro-F1 and accuracy with 95 % intervals by patient, balanced accuracy (the mean of the
        classes' own, which FetalCLIP's tables call accuracy), top-2 and top-3 accuracy likewise,
        F1, recall and images of each class, which classes are absent, and the confusion (rows are
        the scored classes, columns all `labels`).

    Raises:
        ValueError: a scored class is not among `labels`, or no image shows one.
    """
    if missing := [name for name in scored if name not in labels]:
        raise ValueError(f"the prompts lack the classes {', '.join(missing)}")
    kept = [row for row, name in enumerate(truth) if name in scored]
    if not kept:
        raise ValueError(f"no image is labelled with any of {', '.join(scored)}")
    index = {name: i for i, name in enumerate(labels)}
    right = np.array([index[str(truth[i])] for i in kept])
    scores = np.asarray(similarities, dtype=np.float64)[kept]
    found = scores.argmax(axis=1)
    patients = np.array([groups[i] for i in kept])
    there = [name for name in scored if name in truth]
    classes = [index[name] for name in there]
    once = score(right, found, classes)
    intervals = patient_bootstrap(drawn_scores(right, found, classes), patients)
    confusion = confusion_matrix(right, found, labels=range(len(labels)))
    return {
        "images": len(kept),
        "patients": len(set(patients)),
        "scored": there,
        "absent": [name for name in scored if name not in there],
        "candidates": list(labels),
        "macro_f1": once.macro_f1,
        "macro_f1_interval": intervals[0],
        "accuracy": once.accuracy,
        "accuracy_interval": intervals[1],
        "balanced_accuracy": float(
            accuracy_score(right, found, sample_weight=_class_weights(right))
        ),
        **_top_k(right, scores),
        "classes": {
            name: {
                "images": int((right == index[name]).sum()),
                "f1": float(once.f1[i]),
                "f1_interval": intervals[2 + i],
                "recall": float(once.recall[i]),
            }
            for i, name in enumerate(there)
        },
        "confusion": {
            name: dict(zip(labels, map(int, confusion[index[name]]), strict=True)) for name in there
        },
    }


def _class_weights(right: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weights with which every class counts the same, whatever the number of its images.

    scikit-learn's own balanced accuracy warns of answers that are nobody's truth, which
    candidates may well be.
    """
    weights: NDArray[np.float64] = 1 / np.bincount(right)[right]
    return weights


def _top_k(right: NDArray[np.int64], scores: NDArray[np.float64]) -> dict[str, float]:
    """Top-k accuracy over images, and with every class counting the same."""
    weights = _class_weights(right)
    result = {}
    for k in range(2, min(_LARGEST_K, scores.shape[1] - 1) + 1):
        for prefix, weight in (("", None), ("balanced_", weights)):
            result[f"{prefix}top_{k}_accuracy"] = float(
                top_k_accuracy_score(
                    right, scores, k=k, labels=range(scores.shape[1]), sample_weight=weight
                )
            )
    return result
