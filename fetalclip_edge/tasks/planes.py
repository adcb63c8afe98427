"""The standard plane of a frame, its brain sub-plane, and when to abstain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BundleError
from fetalclip_edge.results import BRAIN_PLANES, PLANES, BrainPlaneScores, PlaneScores
from fetalclip_edge.tasks.zero_shot import ZeroShotClassifier

__all__ = ["PlanesTask"]


class PlanesTask:
    """Recognises the standard plane from an embedding.

    Raises:
        BundleError: the bundle lacks the prompts of the planes, or names other planes.
    """

    def __init__(self, bundle: ModelBundle) -> None:
        embeddings = bundle.prompt_embeddings()
        self._planes = _classifier(bundle, embeddings, "planes", PLANES)
        self._brain_planes = _classifier(bundle, embeddings, "brain_planes", BRAIN_PLANES)
        if "plane_similarity" not in bundle.thresholds:
            raise BundleError("manifest: thresholds.plane_similarity is missing")
        self._least_similarity = bundle.thresholds["plane_similarity"]

    def __call__(
        self, embedding: NDArray[np.float32], *, abstain_because: str | None = None
    ) -> tuple[PlaneScores, BrainPlaneScores | None, str | None]:
        """Recognise the plane of one embedding `(D,)`.

        Args:
            embedding: L2-normalised.
            abstain_because: a reason found elsewhere to withhold the label, or None.

        Returns:
            The plane, the brain sub-plane (None unless `brain` scores highest), and why the model
            abstains (None when it does not).
        """
        found = self._planes(embedding)
        reason = abstain_because
        if reason is None and found.similarity < self._least_similarity:
            reason = (
                f"unlike the fetal ultrasound the model knows (similarity {found.similarity:.2f}, "
                f"at least {self._least_similarity:.2f} is wanted)"
            )
        label = found.label if reason is None else "other"
        plane = PlaneScores(label, found.scores[label], found.scores)
        if found.label != "brain":
            return plane, None, reason
        part = self._brain_planes(embedding)
        if reason is None:
            brain = BrainPlaneScores(part.label, part.scores[part.label], part.scores)
        else:
            brain = BrainPlaneScores(None, 0.0, part.scores)
        return plane, brain, reason


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
