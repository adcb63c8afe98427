"""Several teachers as one, who says what they say on average."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from training.captions import describe
from training.facts import Facts
from training.release import binding_license, joint_credit
from training.sparse_file import full_batches
from training.teacher import Teacher
from training.view_set import tensors_sha256

__all__ = ["as_one", "sample_captions"]


def as_one(teachers: Sequence[Teacher], sentences: Sequence[str], embed_dim: int) -> Teacher:
    """A teacher whose logits are the mean of several teachers' logits.

    Their embeddings stand side by side, each as long as the root of its share in the sum of the
    logit scales, so that an inner product is the mean of theirs weighted by the scales. All that
    sentences can say lies in a small part of that space: embeddings are projected onto it (the
    leading singular vectors) and brought to length one again. So nothing that learns from a teacher
    needs to know that there are several, and the student's embedding stays short.

    Args:
        teachers: at least one; of one, itself.
        sentences: of every kind that will be said in training.
        embed_dim: length of the embedding, at most; no longer than there are sentences.

    Raises:
        ValueError: they want images of different sizes, or their licences exclude each other.
    """
    if len(teachers) == 1:
        return teachers[0]
    if len(sizes := {teacher.size for teacher in teachers}) > 1:
        raise ValueError(f"teachers must see images of one size, not of {sorted(sizes)} pixels")
    license_ = binding_license([teacher.license for teacher in teachers])
    total = sum(teacher.scale for teacher in teachers)
    lengths = [math.sqrt(teacher.scale / total) for teacher in teachers]
    text = _TextsSideBySide([teacher.text for teacher in teachers], lengths)
    basis = _basis(text, sentences, embed_dim)
    text.basis = basis
    held_out = [teacher.held_out for teacher in teachers if teacher.held_out is not None]
    learned_from = {teacher.data_sha256 for teacher in teachers}
    return Teacher(
        name=" + ".join(
            name if count == 1 else f"{count} {name}"
            for name, count in Counter(teacher.name for teacher in teachers).items()
        ),
        image=_SideBySide([teacher.image for teacher in teachers], lengths, basis),
        text=text,
        text_shape={},
        scale=total / len(teachers),
        size=teachers[0].size,
        embed_dim=basis.shape[1],
        license=license_,
        credit=joint_credit([teacher.credit for teacher in teachers]),
        held_out=(frozenset.intersection(*held_out) if len(held_out) == len(teachers) else None),
        data_sha256=learned_from.pop() if len(learned_from) == 1 else None,
        sha256=tensors_sha256([teacher.sha256 for teacher in teachers], {"basis": basis}),
    )


def sample_captions(known: Sequence[Facts], count: int) -> list[str]:
    """So many captions, the same for the same images: a sample of what training says."""
    words = random.Random(0)
    return [describe(words.choice(known), words)[0] for _ in range(count)]


class _SideBySide(nn.Module):
    """Embeddings of several towers, each of a length of its own, turned into one."""

    basis: Tensor | None

    def __init__(
        self, towers: Sequence[nn.Module], lengths: Sequence[float], basis: Tensor | None = None
    ) -> None:
        super().__init__()
        self.towers, self.lengths = nn.ModuleList(towers), tuple(lengths)
        self.register_buffer("basis", basis)

    def forward(self, shown: Tensor | Sequence[str]) -> Tensor:
        """`(N, D)`, L2-normalised, of what the towers are shown."""
        pairs = zip(self.towers, self.lengths, strict=True)
        embedded = torch.cat([length * tower(shown).float() for tower, length in pairs], dim=1)
        return embedded if self.basis is None else F.normalize(embedded @ self.basis, dim=1)


class _TextsSideBySide(_SideBySide):
    def too_long(self, texts: Sequence[str]) -> int:
        """How many sentences do not fit the shortest context, and are cut there."""
        return max(int(tower.too_long(texts)) for tower in self.towers)  # type: ignore[operator]


@torch.no_grad()
def _basis(text: nn.Module, sentences: Sequence[str], embed_dim: int) -> Tensor:
    """Orthonormal columns `(sum of D, embed_dim)` that hold as much as can be of the sentences."""
    distinct = list(dict.fromkeys(sentences))
    said = torch.cat([text(part) for part in full_batches(distinct)])
    _, _, directions = torch.linalg.svd(said.double(), full_matrices=False)
    basis: Tensor = directions[:embed_dim].T.float().contiguous()
    return basis
