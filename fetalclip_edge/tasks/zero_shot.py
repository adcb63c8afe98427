"""Recognition without a class head: cosine with prompt embeddings, calibrated to probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ZeroShot", "ZeroShotClassifier"]


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """What a classifier says of one embedding.

    Attributes:
        label: the class with the highest probability.
        scores: calibrated probability of every class, summing to 1.
    """

    label: str
    scores: dict[str, float]


class ZeroShotClassifier:
    """Compares an embedding with one prompt embedding per class.

    Args:
        labels: the classes.
        embeddings: float32 `(classes, D)`, L2-normalised.
        temperature: cosines are divided by it before the softmax.
    """

    def __init__(
        self, labels: tuple[str, ...], embeddings: NDArray[np.float32], temperature: float
    ) -> None:
        self.labels = labels
        self._embeddings = embeddings
        self._temperature = temperature

    def __call__(self, embedding: NDArray[np.float32]) -> ZeroShot:
        """Classify an embedding `(D,)`, L2-normalised."""
        cosines = self._embeddings @ embedding
        logits = (cosines - cosines.max()).astype(np.float64) / self._temperature
        weights = np.exp(logits)
        scores = (weights / weights.sum()).tolist()
        named = dict(zip(self.labels, scores, strict=True))
        # Not that of the largest cosine: rounding may make scores equal that cosines tell apart.
        return ZeroShot(max(named, key=named.__getitem__), named)
