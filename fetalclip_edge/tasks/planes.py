"""The standard plane of a frame, and its brain sub-plane."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BundleError
from fetalclip_edge.results import BRAIN_PLANES, PLANES, BrainPlaneScores, PlaneScores
from fetalclip_edge.tasks.zero_shot import ZeroShotClassifier

__all__ = ["PlanesTask", "brain_plane_scores", "plane_scores"]


class PlanesTask:
    """Recognises the standard plane from an embedding.

    Raises:
        BundleError: the bundle lacks the prompts of the planes, or names other planes.
    """

    def __init__(self, bundle: ModelBundle) -> None:
        embeddings = bundle.prompt_embeddings()
        self._planes = _classifier(bundle, embeddings, "planes", PLANES)
        self._brain_planes = _classifier(bundle, embeddings, "brain_planes", BRAIN_PLANES)

    def __call__(
        self, embedding: NDArray[np.float32], *, abstain: bool = False
    ) -> tuple[PlaneScores, BrainPlaneScores | None]:
        """Recognise the plane of one embedding `(D,)`.

        Args:
            embedding: L2-normalised.
            abstain: withhold the labels; the scores are given all the same.

        Returns:
            The plane, and the brain sub-plane (None unless `brain` scores highest).
        """
        found = self._planes(embedding)
        plane = plane_scores(found.scores, abstain=abstain)
        if found.label != "brain":
            return plane, None
        return plane, brain_plane_scores(self._brain_planes(embedding).scores, abstain=abstain)


def plane_scores(scores: dict[str, float], *, abstain: bool) -> PlaneScores:
    """The plane with the highest of the scores, or `other` when abstaining."""
    label = "other" if abstain else max(scores, key=scores.__getitem__)
    return PlaneScores(label, scores[label], scores)


def brain_plane_scores(scores: dict[str, float], *, abstain: bool) -> BrainPlaneScores:
    """The sub-plane with the highest of the scores, or none when abstaining."""
    if abstain:
        return BrainPlaneScores(None, 0.0, scores)
    label = max(scores, key=scores.__getitem__)
    return BrainPlaneScores(label, scores[label], scores)


def _classifier(
    bundle: ModelBundle,
    embeddings: dict[str, NDArray[np.float32]],
    task: str,
    labels: tuple[str, ...],
) -> ZeroShotClassifier:
    prompts = bundle.prompt_sets.get(task)
    if prompts is None or set(prompts.labels) != set(labels):
        raise BundleError(f"manifest: prompt_sets.{task} must have the classes {', '.join(labels)}")
    return ZeroShotClassifier(prompts.labels, embeddings[task], prompts.temperature)
