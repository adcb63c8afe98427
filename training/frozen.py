"""What the frozen stages of an image tower make of a view, kept on disk.

Stages that do not learn see the same view alike in every epoch and every run. On a workstation
without a GPU they, and drawing the views, cost as much as learning does; so each view goes through
them once, however many runs learn from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.lanes import Draw
from training.learner import Images
from training.models.towers import ImageTower
from training.sparse_file import check_room, full_batches, sparse_array
from training.view_set import ViewSet, tensors_sha256

__all__ = ["KeptMaps", "frozen_sha256"]


def frozen_sha256(tower: ImageTower) -> str:
    """Hash over all that the maps of frozen stages depend on, besides the views."""
    return tensors_sha256((tower.config.mean, tower.config.std), tower.early_state())


class _Kept(NamedTuple):
    """What is on disk of one size: maps `(images, views, C, H, W)`, zooms `(images, views)`."""

    maps: NDArray[np.float16]
    zooms: NDArray[np.float32]

    def holds(self, draw: Draw) -> bool:
        # Maps of zeros: the machine stopped when the zoom had reached the disk and they had not.
        at = draw.index, draw.view
        return bool(self.zooms[at] != 0 and self.maps[at].any())


class KeptMaps:
    """The maps that the frozen stages make of views, computed when first asked for and kept.

    For every size a file in half precision, and one of the views' zooms; where that is zero
    nothing has been computed. The name of a file holds all that the maps depend on.

    Args:
        root: folder of all caches, on a disk of this machine.
        tower: with frozen stages.
        views: which they look at.

    Attributes:
        computed: how many views the frozen stages have looked at.
    """

    def __init__(self, root: Path, tower: ImageTower, views: ViewSet) -> None:
        self.root, self.tower, self.views, self.computed = root, tower, views, 0
        self._digest = tensors_sha256((frozen_sha256(tower), views.sha256))[:32]
        self._files: dict[int, _Kept] = {}

    def prepare(self, sizes: Sequence[int]) -> None:
        """Open the files for views of these sizes, in pixels.

        Raises:
            ValueError: the disk has no room for all views.
        """
        new = [size for size in dict.fromkeys(sizes) if size not in self._files]
        shapes = {self._path(s): (*self.views.shape, *self.tower.early_shape(s)) for s in new}
        if shapes:
            room = {path: 2 * math.prod(shape) for path, shape in shapes.items()}
            check_room(room, "what frozen stages make", self.views.views)
        for size, (path, shape) in zip(new, shapes.items(), strict=True):
            maps = sparse_array(path, np.float16, shape)
            zooms = sparse_array(path.with_suffix(".zoom"), np.float32, shape[:2])
            self._files[size] = _Kept(maps, zooms)

    def _path(self, size: int) -> Path:
        return self.root / f"{self._digest}-{size}.maps"

    def __call__(self, images: Images, draws: Sequence[Draw], size: int) -> tuple[Tensor, Tensor]:
        """The maps `(N, C, H, W)`, and the zoom of each view."""
        self.prepare([size])
        kept = self._files[size]
        missing = [draw for draw in dict.fromkeys(draws) if not kept.holds(draw)]
        for part in full_batches(missing):
            self._compute(images, part, size)
        at = [draw.index for draw in draws], [draw.view for draw in draws]
        return torch.from_numpy(kept.maps[at].astype(np.float32)), torch.from_numpy(kept.zooms[at])

    @torch.no_grad()
    def _compute(self, images: Images, draws: list[Draw], size: int) -> None:
        kept = self._files[size]
        views, zoom = images.views(draws, size, self.views.seed)
        device = next(self.tower.parameters()).device
        levels = views.to(device, memory_format=torch.channels_last)
        early = self.tower.early(levels).float().cpu().contiguous().numpy()
        for draw, row in zip(draws, early, strict=True):
            kept.maps[draw.index, draw.view] = row
        # Last: it tells others that the maps are there.
        for draw, value in zip(draws, zoom.tolist(), strict=True):
            kept.zooms[draw.index, draw.view] = value
        self.computed += len(set(draws))
