"""Whether a picture is like the fetal ultrasound that the model learned from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BundleError

__all__ = ["DomainCheck"]


class DomainCheck:
    """Mahalanobis distance of an embedding to the nearest kind of training image.

    Lee et al. 2018, arXiv 1807.03888: kinds of image share one covariance, and a picture far from
    the mean of every kind is none of them.

    Attributes:
        largest_distance: beyond it a picture is out of domain.

    Raises:
        BundleError: the bundle lacks the tensors or the threshold.
    """

    def __init__(self, bundle: ModelBundle) -> None:
        if "domain_distance" not in bundle.thresholds:
            raise BundleError("manifest: thresholds.domain_distance is missing")
        self.largest_distance = bundle.thresholds["domain_distance"]
        tensors = bundle.tensors("domain.safetensors")
        dim = bundle.embedding_dim
        means, whitening = tensors.get("means"), tensors.get("whitening")
        if means is None or means.ndim != 2 or means.shape[1] != dim or len(means) == 0:
            raise BundleError(f"domain.safetensors must hold 'means' of shape (kinds, {dim})")
        if whitening is None or whitening.shape != (dim, dim):
            raise BundleError(f"domain.safetensors must hold 'whitening' of shape ({dim}, {dim})")
        self._whitening = whitening
        self._means = means @ whitening.T

    def distance(self, embedding: NDArray[np.float32]) -> float:
        """Distance of an embedding `(D,)`, in standard deviations."""
        offsets = self._means - self._whitening @ embedding
        return float(np.sqrt((offsets * offsets).sum(axis=1).min()))

    def objection(self, embedding: NDArray[np.float32]) -> str | None:
        """Why an embedding `(D,)` is out of domain, or None when it is not."""
        distance = self.distance(embedding)
        if distance <= self.largest_distance:
            return None
        return (
            "unlike the fetal ultrasound the model knows "
            f"(distance {distance:.1f}, at most {self.largest_distance:.1f})"
        )
