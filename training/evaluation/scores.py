"""F1, recall and accuracy in one pass over the answers: the bootstrap asks for them often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support

__all__ = ["Scores", "score"]


@dataclass(frozen=True, slots=True)
class Scores:
    """Of answers, 0 to 1.

    Attributes:
        f1: of each class, `(C,)`; 0 for a class that is neither there nor answered.
        recall: likewise.
        accuracy: share of right answers.
    """

    f1: NDArray[np.float64]
    recall: NDArray[np.float64]
    accuracy: float

    @property
    def macro_f1(self) -> float:
        """The mean of the classes' F1."""
        return float(self.f1.mean())


def score(
    right: NDArray[np.int64],
    found: NDArray[np.int64],
    classes: Sequence[int],
    weights: NDArray[np.float64] | None = None,
) -> Scores:
    """Score answers by scikit-learn.

    Args:
        right: the class of each image, all of them in `classes`.
        found: the answers; they may be of other classes.
        classes: which are scored, and in which order.
        weights: how often each image counts; None for once.
    """
    _, recall, f1, support = precision_recall_fscore_support(
        right, found, labels=list(classes), average=None, zero_division=0, sample_weight=weights
    )
    return Scores(f1, recall, float(np.average(recall, weights=support)))
