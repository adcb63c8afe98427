"""What is fitted once the INT8 graph stands: confidence, and what fetal ultrasound looks like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.confidence import fit_temperature
from calibration.domain import DomainModel, distance_threshold, fit_domain
from export.examples import data_set
from fetalclip_edge.results import BRAIN_PLANES, PLANES
from training.datasets import Example
from training.release import Release
from training.zero_shot import SCORED_PLANES

__all__ = ["Fitted", "fit"]

_ACCEPTANCE = 0.95


@dataclass(frozen=True, slots=True)
class Fitted:
    """What the bundle's answers need besides the graph.

    Attributes:
        temperatures: task -> temperature, from validation patients.
        domain: what fetal ultrasound looks like, from the images the model learned from.
        domain_distance: beyond it the model abstains, from validation patients.
    """

    temperatures: dict[str, float]
    domain: DomainModel
    domain_distance: float


def fit(
    learned: Sequence[Example],
    learned_embeddings: NDArray[np.float32],
    held: Sequence[Example],
    held_embeddings: NDArray[np.float32],
    release: Release,
) -> Fitted:
    """Fit the domain to images the model learned from, all else to validation patients.

    The distance accepts 95 % of the standard planes of every data set: that of the data set
    which lies farthest out, so that an easy one in the mix does not make it strict.

    Args:
        learned: images the model learned from, labelled with a plane.
        learned_embeddings: `(N, D)`, theirs, by the INT8 graph.
        held: images of the patients held out, labelled likewise.
        held_embeddings: `(M, D)`, theirs, likewise.
        release: the trained model, for its prompts.
    """
    domain = fit_domain(learned_embeddings, [example.facts.kind for example in learned])
    distances = domain.distances(held_embeddings)
    sets = np.array(
        [data_set(e) if e.facts.plane in SCORED_PLANES else "" for e in held], dtype="U32"
    )
    planes = np.array([PLANES.index(example.facts.plane) for example in held])
    brain = np.array([example.facts.brain_plane in BRAIN_PLANES for example in held])
    parts = [
        BRAIN_PLANES.index(example.facts.brain_plane)
        for example in held
        if example.facts.brain_plane in BRAIN_PLANES
    ]
    return Fitted(
        {
            "planes": fit_temperature(held_embeddings @ release.embeddings["planes"].T, planes),
            "brain_planes": fit_temperature(
                held_embeddings[brain] @ release.embeddings["brain_planes"].T, np.array(parts)
            ),
        },
        domain,
        max(
            distance_threshold(distances[sets == name], _ACCEPTANCE)
            for name in np.unique(sets[sets != ""])
        ),
    )
