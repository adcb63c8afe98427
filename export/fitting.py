"""What is fitted once the graph stands: confidence, and what fetal ultrasound looks like.

Both need patients that the model did not learn from. A model that has learned from all of them has
a twin for that: trained alike, but with patients held out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.confidence import fit_temperature
from calibration.domain import Domain, DomainModel, distance_threshold, fit_domain
from export.examples import data_set
from export.graph import FEATURES, OUTPUT
from export.measure import Encoded
from fetalclip_edge.results import BRAIN_PLANES, PLANES
from training.datasets import Example
from training.zero_shot import SCORED_PLANES

__all__ = ["Fitted", "Seen", "fit", "fit_by_twin"]

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


@dataclass(frozen=True, slots=True)
class Seen:
    """Images labelled with a plane, and what a graph makes of them."""

    examples: Sequence[Example]
    encoded: Encoded

    def limit(self, distances: NDArray[np.float32]) -> float:
        """The distance that takes in 97 % of the standard planes of each data set.

        Of several data sets the one which lies farthest out decides, so that an easy one in the
        mix does not make it strict.
        """
        sets = np.array(
            [data_set(e) if e.facts.plane in SCORED_PLANES else "" for e in self.examples],
            dtype="U32",
        )
        names = np.unique(sets[sets != ""])
        return max(distance_threshold(distances[sets == name], _ACCEPTANCE) for name in names)


def fit(learned: Seen, held: Seen, prompts: Mapping[str, NDArray[np.float32]]) -> Fitted:
    """Fit the domain to images the model learned from, all else to validation patients.

    The distance is measured in every output of the graph but maps. The limit of one output is its
    unit, so that each has its say, and the limit of the sum is where the model abstains.

    Args:
        learned: images the model learned from.
        held: images of the patients held out.
        prompts: name of the prompt set -> float32 `(classes, D)`, L2-normalised.
    """
    parts = _domains(learned)
    domain = Domain(
        {name: p.scaled(held.limit(p.distances(held.encoded[name]))) for name, p in parts.items()}
    )
    return Fitted(_temperatures(held, prompts), domain, held.limit(domain.distances(held.encoded)))


def fit_by_twin(
    learned: Seen,
    learned_by_twin: Seen,
    held_by_twin: Seen,
    prompts_of_twin: Mapping[str, NDArray[np.float32]],
) -> Fitted:
    """Fit the domain to a model that learned from every patient, all else to its twin.

    A model knows the images it learned from: they lie nearer to their mean than those of new
    patients, and how much nearer, its twin can tell. So a limit is that of the learned images times
    the twin's limit on its held-out patients, over its limit on those it learned from. Temperatures
    are the twin's.

    Args:
        learned: what the model makes of all images.
        learned_by_twin: what the twin makes of the images that it learned from.
        held_by_twin: and of those of the patients that it held out.
        prompts_of_twin: name of the prompt set -> float32 `(classes, D)`, L2-normalised.
    """
    twin = fit(learned_by_twin, held_by_twin, prompts_of_twin)
    parts = _domains(learned)
    units = {
        # The twin's unit, of which its distances are multiples, is its limit on patients held out.
        name: learned.limit(part.distances(learned.encoded[name]))
        / learned_by_twin.limit(twin.domain.parts[name].distances(learned_by_twin.encoded[name]))
        for name, part in parts.items()
    }
    domain = Domain({name: part.scaled(units[name]) for name, part in parts.items()})
    farther = twin.domain_distance / learned_by_twin.limit(
        twin.domain.distances(learned_by_twin.encoded)
    )
    return Fitted(
        twin.temperatures, domain, farther * learned.limit(domain.distances(learned.encoded))
    )


def _domains(learned: Seen) -> dict[str, DomainModel]:
    kinds = [example.facts.kind for example in learned.examples]
    looked_at = [name for name in learned.encoded if name in (OUTPUT, FEATURES)]
    return {name: fit_domain(learned.encoded[name], kinds) for name in looked_at}


def _temperatures(held: Seen, prompts: Mapping[str, NDArray[np.float32]]) -> dict[str, float]:
    """Of planes over all images, of sub-planes over those labelled with one."""
    embeddings = held.encoded[OUTPUT]
    facts = [example.facts for example in held.examples]
    planes = np.array([PLANES.index(known.plane) for known in facts])
    brain = np.array([known.brain_plane in BRAIN_PLANES for known in facts])
    sub_planes = [
        BRAIN_PLANES.index(known.brain_plane)
        for known in facts
        if known.brain_plane in BRAIN_PLANES
    ]
    return {
        "planes": fit_temperature(embeddings @ prompts["planes"].T, planes),
        "brain_planes": fit_temperature(
            embeddings[brain] @ prompts["brain_planes"].T, np.array(sub_planes)
        ),
    }
