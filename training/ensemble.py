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
from training.release import TOGETHER, binding_license, joint_credit
from training.sparse_file import full_batches
from training.teacher import Teacher
from training.view_set import tensors_sha256

__all__ = ["as_one", "sample_captions", "sentence_basis"]


def as_one(teachers: Sequence[Teacher], basis: Tensor) -> Teacher:
    """A teacher whose logits are the mean of several teachers' logits.

    Their embeddings stand side by side, each as long as the root of its share in the sum of the
    logit scales, so that an inner product is the mean of theirs weighted by the scales: the surer
    of two teachers weighs more. All that sentences can say lies in a small part of that space, so
    embeddings are projected onto it (the leading singular vectors) and brought to length one again:
    an image's logits then are the mean up to a factor, by how much of the image no sentence can
    say. So nothing that learns from a teacher needs to know that there are several, and the
    student's embedding stays short.

    Args:
        teachers: at least two. Whom they learned from is for the caller to check.
        basis: from `sentence_basis`.

    Raises:
        ValueError: they want images of different sizes, or their licences exclude each other.
    """
    if len(sizes := {teacher.size for teacher in teachers}) > 1:
        raise ValueError(f"teachers must see images of one size, not of {sorted(sizes)} pixels")
    license_ = binding_license([teacher.license for teacher in teachers])
    lengths = _lengths(teachers)
    return Teacher(
        name=TOGETHER.join(
            name if count == 1 else f"{count} {name}"
            for name, count in Counter(teacher.name for teacher in teachers).items()
        ),
        image=_SideBySide([teacher.image for teacher in teachers], lengths, basis),
        text=_TextsSideBySide([teacher.text for teacher in teachers], lengths, basis),
        text_shape={},
        scale=sum(teacher.scale for teacher in teachers) / len(teachers),
        size=teachers[0].size,
        embed_dim=basis.shape[1],
        license=license_,
        credit=joint_credit([teacher.credit for teacher in teachers]),
        held_out=None,
        data_sha256=None,
        sha256=tensors_sha256([teacher.sha256 for teacher in teachers], {"basis": basis}),
    )


def sentence_basis(teachers: Sequence[Teacher], sentences: Sequence[str], embed_dim: int) -> Tensor:
    """What holds as much as can be of what teachers side by side make of sentences.

    Args:
        teachers: their embeddings have D numbers together.
        sentences: of every kind that will be said in training.
        embed_dim: length of the embedding, at most; no longer than there are sentences, nor than D.

    Returns:
        Orthonormal columns, float32 `(D, embed_dim)`.
    """
    text = _TextsSideBySide([teacher.text for teacher in teachers], _lengths(teachers))
    distinct = list(dict.fromkeys(sentences))
    with torch.no_grad():
        said = torch.cat([text(part) for part in full_batches(distinct)])[: len(distinct)]
    _, _, directions = torch.linalg.svd(said.double(), full_matrices=False)
    basis: Tensor = directions[:embed_dim].T.float().contiguous()
    return basis


def sample_captions(known: Sequence[Facts], count: int) -> list[str]:
    """So many captions, the same for the same images: a sample of what training says."""
    words = random.Random(0)
    return [describe(words.choice(known), words)[0] for _ in range(count)]


def _lengths(teachers: Sequence[Teacher]) -> list[float]:
    total = sum(teacher.scale for teacher in teachers)
    return [math.sqrt(teacher.scale / total) for teacher in teachers]


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
        if self.basis is None:
            return embedded
        with torch.autocast(embedded.device.type, enabled=False):  # lengths must come out at one
            return F.normalize(embedded @ self.basis, dim=1)


class _TextsSideBySide(_SideBySide):
    def too_long(self, texts: Sequence[str]) -> int:
        """How many sentences do not fit the shortest context, and are cut there."""
        return max(int(tower.too_long(texts)) for tower in self.towers)  # type: ignore[operator]
