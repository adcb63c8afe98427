"""Which views there are to learn from, and hashes of what is made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from training.augment import VIEWS_VERSION
from training.datasets import Example

__all__ = ["ViewSet", "tensors_sha256"]


@dataclass(frozen=True, slots=True)
class ViewSet:
    """Images in a number of views each, which are the same wherever they are drawn.

    Attributes:
        examples: images to learn from, the same list in every process.
        canvas: side at which they are kept in memory, in pixels.
        views: how many views of an image there are.
        seed: of the views.
        data_sha256: of the shards that the examples lie in.
    """

    examples: Sequence[Example]
    canvas: int
    views: int
    seed: int
    data_sha256: str

    @property
    def shape(self) -> tuple[int, int]:
        """Number of images, and of views of each."""
        return len(self.examples), self.views

    @property
    def sha256(self) -> str:
        """Hash over all that a view depends on, but for its size."""
        names = [example.name for example in self.examples]
        drawn = (self.data_sha256, names, VIEWS_VERSION, self.canvas, self.views, self.seed)
        return hashlib.sha256(repr(drawn).encode()).hexdigest()


def tensors_sha256(about: object, *states: Mapping[str, Tensor]) -> str:
    """Hash over names and values of tensors, and over what else makes a difference to them."""
    digest = hashlib.sha256(repr(about).encode())
    for state in states:
        for name, value in sorted(state.items()):
            digest.update(name.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
