"""What a training run minimises: captions alone, or captions and a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from training.config import Distillation
from training.learner import Batch
from training.losses import contrastive_loss, feature_loss, repulsive_loss
from training.teacher import TeacherCache

__all__ = ["Contrastive", "Distilling", "Known", "Objective", "Pairs"]


@dataclass(frozen=True, slots=True)
class Pairs:
    """The batch of all processes as the model sees it.

    Attributes:
        images: `(B, D)`, L2-normalised.
        captions: `(B, D)`, likewise.
        scale: the logit scale.
    """

    images: Tensor
    captions: Tensor
    scale: Tensor


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the batch of all processes beforehand.

    Attributes:
        relations: int `(B, B)` from `training.facts.relations`, of those that are learned from.
        teacher: the teacher's embeddings of the views `(B, D)`, where there is one.
        classes: int `(B, C)`, likewise, of the sentences of the classes, where there are some.
        counted: int `(B,)`, which of the batch are learned from; None where all are.
    """

    relations: Tensor
    teacher: Tensor | None
    classes: Tensor | None
    counted: Tensor | None = None


class Objective(Protocol):
    """Losses of a batch; their sum is minimised.

    Attributes:
        identity: tells objectives apart that give other weights.
    """

    identity: str

    def teach(self, batch: Batch) -> Tensor | None:
        """The teacher's embeddings of a process's views `(N, D)`, where there is a teacher."""
        ...

    def __call__(self, pairs: Pairs, known: Known, done: float) -> dict[str, Tensor]:
        """The losses by name, when a share `done` (0 to 1) of the training is over."""
        ...


class Contrastive:
    """Captions alone, as CLIP learns."""

    identity = "captions"

    def teach(self, batch: Batch) -> None:
        """There is no teacher."""

    def __call__(self, pairs: Pairs, known: Known, done: float) -> dict[str, Tensor]:
        """The contrastive loss."""
        loss = contrastive_loss(pairs.images, pairs.captions, pairs.scale, known.relations)
        return {"contrastive": loss}


class Distilling:
    """Captions, and a teacher whose text tower embeds them for both.

    Args:
        settings: weights of the losses.
        seen: the teacher's embeddings of views.
    """

    def __init__(self, settings: Distillation, seen: TeacherCache) -> None:
        self.settings, self.seen = settings, seen
        self.scale = seen.teacher.scale
        self.identity = f"captions and teacher {seen.teacher.sha256} at {self.scale}"

    def teach(self, batch: Batch) -> Tensor:
        """The teacher's embeddings, from the cache where it has them."""
        return self.seen.embeddings(batch.images, batch.draws)

    def __call__(self, pairs: Pairs, known: Known, done: float) -> dict[str, Tensor]:
        """The contrastive loss, that of the logits and that of the features, weighted."""
        assert known.teacher is not None
        settings, captions = self.settings, pairs.captions
        logits = repulsive_loss(
            pairs.scale * pairs.images @ captions.T,
            self.scale * known.teacher @ captions.T,
            known.relations,
            settings.off_diagonal_at(done),
        )
        return {
            "contrastive": contrastive_loss(pairs.images, captions, pairs.scale, known.relations),
            "logits": settings.logits * logits,
            "features": settings.features * feature_loss(pairs.images, known.teacher),
        }
