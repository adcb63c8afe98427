"""What fetal ultrasound looks like to the encoder, to tell when a picture is something else."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

__all__ = ["Domain", "DomainModel", "distance_threshold", "fit_domain"]


@dataclass(frozen=True, slots=True)
class DomainModel:
    """Means of the kinds of image, and what makes their common covariance the identity.

    Attributes:
        means: float32 `(kinds, D)`.
        whitening: float32 `(D, D)`.
    """

    means: NDArray[np.float32]
    whitening: NDArray[np.float32]

    def distances(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mahalanobis distance `(N,)` of embeddings `(N, D)` to the nearest mean."""
        white = embeddings @ self.whitening.T
        centres = self.means @ self.whitening.T
        squared = ((white[:, None] - centres[None]) ** 2).sum(axis=2)
        nearest: NDArray[np.float32] = np.sqrt(squared.min(axis=1))
        return nearest

    def scaled(self, unit: float) -> DomainModel:
        """The same with distances in units of `unit`, to be added to others."""
        return DomainModel(self.means, self.whitening / np.float32(unit))


@dataclass(frozen=True, slots=True)
class Domain:
    """What fetal ultrasound looks like at several depths of the encoder.

    Attributes:
        parts: name of an output of the graph -> what it is like.
    """

    parts: Mapping[str, DomainModel]

    def distances(self, outputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Sum `(N,)` of the distances that each part finds in its output `(N, length)`."""
        found = [part.distances(outputs[name]) for name, part in self.parts.items()]
        total: NDArray[np.float32] = np.sum(found, axis=0)
        return total

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """As a bundle holds it: `means` and `whitening` of every output."""
        return {
            f"{name}.{what}": tensor
            for name, part in self.parts.items()
            for what, tensor in (("means", part.means), ("whitening", part.whitening))
        }


def fit_domain(embeddings: NDArray[np.float32], kinds: Sequence[Hashable]) -> DomainModel:
    """Fit to images that the model learned from.

    Lee et al. 2018, arXiv 1807.03888, with the shrunk covariance of Ledoit and Wolf 2004: there are
    fewer images than a full covariance would need.

    Args:
        embeddings: `(N, D)`.
        kinds: what each image is.
    """
    names = sorted(set(kinds), key=str)
    index = np.array([names.index(kind) for kind in kinds])
    means = np.stack([embeddings[index == i].mean(axis=0) for i in range(len(names))])
    residuals = (embeddings - means[index]).astype(np.float64)
    precision = LedoitWolf(assume_centered=True).fit(residuals).precision_
    # In C order: safetensors writes the memory as it lies.
    whitening = np.ascontiguousarray(np.linalg.cholesky(precision).T, dtype=np.float32)
    return DomainModel(means.astype(np.float32), whitening)


def distance_threshold(distances: NDArray[np.float32], acceptance: float) -> float:
    """A distance that takes in at least a given share of validation frames.

    It is one of `distances`, and takes in at most one frame more than it must.

    Args:
        distances: `(N,)`, of frames that should be accepted.
        acceptance: share of them to accept, between 0 and 1.

    Raises:
        ValueError: there are no distances, or `acceptance` is no such share.
    """
    if len(distances) == 0:
        raise ValueError("distances must not be empty")
    if not 0 < acceptance < 1:
        raise ValueError(f"acceptance must lie between 0 and 1, not {acceptance}")
    return float(np.quantile(distances, acceptance, method="higher"))
