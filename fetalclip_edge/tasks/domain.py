"""Whether a picture is like the fetal ultrasound that the model learned from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BundleError

__all__ = ["DomainCheck"]


class DomainCheck:
    """How far what the graph makes of a frame is from every kind of training image.

    Mahalanobis distance, Lee et al. 2018, arXiv 1807.03888: kinds of image share one covariance,
    and a picture far from the mean of every kind is none of them. Distances in several outputs of
    the graph, each in a unit of its own, are added up.

    Attributes:
        largest_distance: beyond it a picture is out of domain.
        sizes: name of an output that is looked at -> its length.

    Raises:
        BundleError: the bundle lacks the tensors or a threshold above 0.
    """

    def __init__(self, bundle: ModelBundle) -> None:
        if "domain_distance" not in bundle.thresholds:
            raise BundleError("manifest: thresholds.domain_distance is missing")
        self.largest_distance = bundle.thresholds["domain_distance"]
        if not self.largest_distance > 0:
            raise BundleError("manifest: thresholds.domain_distance must be above 0")
        tensors = bundle.tensors("domain.safetensors")
        outputs = [name.removesuffix(".means") for name in tensors if name.endswith(".means")]
        if not outputs:
            raise BundleError("domain.safetensors must hold 'embedding.means'")
        self._parts = {name: _Part.read(tensors, name) for name in outputs}
        self.sizes = {name: len(part.whitening) for name, part in self._parts.items()}

    def distance(self, outputs: Mapping[str, NDArray[np.float32]]) -> float:
        """How far a frame is from what the model knows, in units of the largest accepted distance.

        Args:
            outputs: what the graph makes of the frame by name, `(1, length)`.
        """
        total = sum(part.distance(outputs[name][0]) for name, part in self._parts.items())
        return total / self.largest_distance

    @staticmethod
    def objection(distance: float) -> str | None:
        """Why a frame at a distance is out of domain, or None when it is not."""
        if distance <= 1:
            return None
        return (
            f"unlike the fetal ultrasound the model knows ({distance:.2f} times as far as accepted)"
        )


@dataclass(frozen=True, slots=True)
class _Part:
    """What is looked at in one output of the graph: whitened means `(kinds, F)`, and `(F, F)`."""

    means: NDArray[np.float32]
    whitening: NDArray[np.float32]

    @classmethod
    def read(cls, tensors: Mapping[str, NDArray[np.float32]], name: str) -> _Part:
        means, whitening = tensors[f"{name}.means"], tensors.get(f"{name}.whitening")
        if means.ndim != 2 or 0 in means.shape:
            raise BundleError(f"domain.safetensors: '{name}.means' must have rows and columns")
        size = means.shape[1]
        if whitening is None or whitening.shape != (size, size):
            raise BundleError(
                f"domain.safetensors must hold '{name}.whitening' of shape ({size}, {size})"
            )
        return cls(means @ whitening.T, whitening)

    def distance(self, row: NDArray[np.float32]) -> float:
        offsets = self.means - self.whitening @ row
        return float(np.sqrt((offsets * offsets).sum(axis=1).min()))
