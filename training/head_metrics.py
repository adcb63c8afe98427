"""How good a head is on patients it has never met, with intervals by patient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.tasks.class_head import decide
from training.evaluation.intervals import patient_bootstrap
from training.evaluation.scores import drawn_scores

__all__ = ["measure_head", "weighted_auroc"]

Floats = NDArray[np.float64]
_BINS = 15


def measure_head(
    probabilities: Floats,
    truth: NDArray[np.int64],
    groups: NDArray[np.str_],
    labels: Sequence[str],
    threshold: float | None,
) -> dict[str, Any]:
    """Figures with their 95 % intervals.

    Args:
        probabilities: of each class, `(N, C)`.
        truth: index of the right one, `(N,)`.
        groups: the patient of each, `(N,)`.
        labels: the classes.
        threshold: of two, as `fetalclip_edge.tasks.class_head.decide` takes it.

    Returns:
        `auroc` (mean over classes, each against the rest), `macro_f1` and `ece` (expected
        calibration error), each with an `..._interval`; of two classes also `sensitivity` and
        `specificity` for the second; and the same two for each of the `classes`. A figure that
        cannot be told, as a class is absent, is None; so is an interval of one patient alone.
    """
    found = np.array(
        [
            labels.index(decide(dict(zip(labels, map(float, row), strict=True)), threshold))
            for row in probabilities
        ]
    )
    figures = _figures(probabilities, truth, found, len(labels))
    values = figures(np.ones(len(truth)))
    intervals = patient_bootstrap(figures, groups)
    told = [None if np.isnan(value) else float(value) for value in values]
    pairs = list(zip(told, intervals, strict=True))
    report: dict[str, Any] = {"clips": len(truth), "groups": len(np.unique(groups))}
    for name, (value, interval) in zip(("auroc", "macro_f1", "ece"), pairs, strict=False):
        report |= {name: value, f"{name}_interval": interval}
    of_classes: dict[str, dict[str, Any]] = {}
    for index, label in enumerate(labels):
        of_classes[label] = {"clips": int((truth == index).sum())}
        for name, place in (("sensitivity", 3 + index), ("specificity", 3 + len(labels) + index)):
            value, interval = pairs[place]
            of_classes[label] |= {name: value, f"{name}_interval": interval}
    if len(labels) == 2:
        report |= {k: v for k, v in of_classes[labels[1]].items() if k != "clips"}
    return {**report, "classes": of_classes}


def weighted_auroc(positive: NDArray[np.bool_], scores: Floats) -> Callable[[Floats], float]:
    """The area under the ROC curve by how often each clip was drawn.

    Sorted once, which makes a thousand draws quick.

    Args:
        positive: `(N,)`.
        scores: likewise; higher for what is thought positive.

    Returns:
        From weights `(N,)` to the area, NaN where one side was not drawn.
    """
    levels, level = np.unique(scores, return_inverse=True)

    def area(weights: Floats) -> float:
        right = np.bincount(level, weights * positive, len(levels))
        wrong = np.bincount(level, weights * ~positive, len(levels))
        pairs = right.sum() * wrong.sum()
        if not pairs:
            return float("nan")
        # A pair of equal scores is half right.
        return float((right * (np.cumsum(wrong) - wrong / 2)).sum() / pairs)

    return area


def _figures(
    probabilities: Floats, truth: NDArray[np.int64], found: NDArray[np.int64], classes: int
) -> Callable[[Floats], Floats]:
    """From weights `(N,)` to AUROC, macro-F1, ECE, sensitivities and specificities."""
    told_apart = range(classes) if classes > 2 else (1,)  # of two, one says it for both
    areas = [weighted_auroc(truth == index, probabilities[:, index]) for index in told_apart]
    scored = np.unique(truth).tolist()
    f1 = drawn_scores(truth, found, scored)
    right, answered = np.eye(classes)[truth], np.eye(classes)[found]
    confidence = probabilities.max(axis=1)
    gaps = confidence - (probabilities.argmax(axis=1) == truth)
    bins = np.clip((confidence * _BINS).astype(int), 0, _BINS - 1)

    def figures(weights: Floats) -> Floats:
        drawn = np.array([area(weights) for area in areas])
        auroc = np.nan if np.isnan(drawn).all() else np.nanmean(drawn)
        ece = np.abs(np.bincount(bins, weights * gaps, _BINS)).sum() / weights.sum()
        hits = weights @ (right * answered)
        rejected = weights @ ((1 - right) * (1 - answered))
        there, elsewhere = weights @ right, weights @ (1 - right)
        return np.array(
            [
                auroc,
                f1(weights)[0],
                ece,
                *_share(hits, there),
                *_share(rejected, elsewhere),
            ]
        )

    return figures


def _share(part: Floats, whole: Floats) -> Floats:
    shares: Floats = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return shares
