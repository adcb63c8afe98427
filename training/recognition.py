"""Learning to recognise by prompts: one sentence of every class stands beside each batch.

Captions teach sub-planes slowly: few captions of a batch name one, and a caption that does not is
as true of an image. Zero-shot recognition asks an image for the nearest of some classes, so that is
asked in training, too.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence

from training.facts import Facts
from training.prompts import PromptSet

__all__ = ["ClassSentences"]

_TASKS = ("planes", "brain_planes")


class ClassSentences:
    """A sentence of every plane and every brain sub-plane, drawn anew for each step.

    Args:
        prompts: name of the task -> its prompts, those that the model is validated on.
        seed: of the draws.
        known: what is known of the images to learn from.
        balance: see `training.config.ExperimentConfig.sub_plane_balance`.

    Attributes:
        claims: what the sentence of each class says, in the order of `draw`.
        tasks: where in that order the classes of each task are.
        offsets: of each class, what its logit is given while learning: of a sub-plane the logarithm
            of its share of the images, times `balance` (logit adjustment, Menon et al. 2021,
            arXiv 2007.07314). Planes have none: they are drawn evenly enough.
    """

    def __init__(
        self,
        prompts: Mapping[str, PromptSet],
        seed: int,
        known: Sequence[Facts],
        balance: float,
    ) -> None:
        planes, parts = (prompts[task] for task in _TASKS)
        self._texts = [*planes.prompts.values(), *parts.prompts.values()]
        self.claims = [Facts(label) for label in planes.labels]
        self.claims += [Facts("brain", label) for label in parts.labels]
        first = len(planes.labels)
        self.tasks = (slice(0, first), slice(first, len(self.claims)))
        counts = Counter(facts.brain_plane for facts in known)
        labelled = sum(counts[label] for label in parts.labels)
        shares = [max(counts[label], 1) / max(labelled, 1) for label in parts.labels]
        self.offsets = [0.0] * first + [balance * math.log(share) for share in shares]
        self._seed = seed

    def draw(self, step: int) -> list[str]:
        """One sentence a class, the same in every process."""
        words = random.Random(f"{self._seed}/{step}/classes")
        return [words.choice(texts) for texts in self._texts]
