"""What is fitted once the INT8 graph stands: confidence, and what fetal ultrasound looks like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.confidence import fit_temperature
from calibration.domain import Domain, distance_threshold, fit_domain
from export.examples import data_set
from export.graph import FEATURES, OUTPUT
from export.measure import Encoded
from export.source import Source
from fetalclip_edge.results import BRAIN_PLANES, PLANES
from training.datasets import Example
from training.zero_shot import SCORED_PLANES

__all__ = ["Fitted", "fit"]

_ACCEPTANCE = 0.97


@dataclass(frozen=True, slots=True)
class Fitted:
    """What the bundle's answers need besides the graph.

    Attributes:
        temperatures: task -> temperature, from validation patients.
        domain: what fetal ultrasound looks like, from the images the model learned from.
        domain_distance: beyond it the model abstains, from validation patients.
    """

    temperatures: dict[str, float]
    domain: Domain
    domain_distance: float


def fit(
    learned: Sequence[Example],
    learned_encoded: Encoded,
    held: Sequence[Example],
    held_encoded: Encoded,
    release: Source,
) -> Fitted:
    """Fit the domain to images the model learned from, all else to validation patients.

    The distance is measured in every output of the graph but maps. One that takes in 97 % of the
    standard planes of a data set is the unit of that output, so that each has its say, and the sum
    of all that takes in 97 % is where the model abstains. Of several data sets the one which lies
    farthest out decides, so that an easy one in the mix does not make it strict.

    Args:
        learned: images the model learned from, labelled with a plane.
        learned_encoded: what the INT8 graph makes of them.
        held: images of the patients held out, labelled likewise.
        held_encoded: theirs, likewise.
        release: the trained model, for its prompts.
    """
    held_embeddings = held_encoded[OUTPUT]
    sets = np.array(
        [data_set(e) if e.facts.plane in SCORED_PLANES else "" for e in held], dtype="U32"
    )

    def limit(distances: NDArray[np.float32]) -> float:
        names = np.unique(sets[sets != ""])
        return max(distance_threshold(distances[sets == name], _ACCEPTANCE) for name in names)

    kinds = [example.facts.kind for example in learned]
    looked_at = [name for name in learned_encoded if name in (OUTPUT, FEATURES)]
    parts = {name: fit_domain(learned_encoded[name], kinds) for name in looked_at}
    domain = Domain(
        {name: p.scaled(limit(p.distances(held_encoded[name]))) for name, p in parts.items()}
    )
    planes = np.array([PLANES.index(example.facts.plane) for example in held])
    brain = np.array([example.facts.brain_plane in BRAIN_PLANES for example in held])
    sub_planes = [
        BRAIN_PLANES.index(example.facts.brain_plane)
        for example in held
        if example.facts.brain_plane in BRAIN_PLANES
    ]
    return Fitted(
        {
            "planes": fit_temperature(held_embeddings @ release.embeddings["planes"].T, planes),
            "brain_planes": fit_temperature(
                held_embeddings[brain] @ release.embeddings["brain_planes"].T, np.array(sub_planes)
            ),
        },
        domain,
        limit(domain.distances(held_encoded)),
    )
