"""A teacher, and what it saw in every view, kept on disk, so that it looks at each once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor, nn

from training.augment import VIEWS_VERSION
from training.datasets import Example
from training.lanes import Draw
from training.learner import Images
from training.models import PUBLISHED
from training.release import load_release

__all__ = ["FrozenText", "Teacher", "TeacherCache", "load_teacher"]

T = TypeVar("T")

_KEPT_CAPTIONS = 65_536
_BATCH = 16  # always full, so that what is computed does not depend on what is computed beside it


@dataclass(frozen=True, slots=True)
class Teacher:
    """A trained model that does not learn any more.

    Attributes:
        name: what to call it.
        image: grey levels 0 to 255 `(N, 1, S, S)` to embeddings `(N, D)`, L2-normalised.
        text: sentences to embeddings `(N, D)`, L2-normalised.
        text_shape: that tower's entries in `training.models.ModelConfig`, where it is of our kind.
        scale: the logit scale.
        size: side S of the input, in pixels.
        embed_dim: length D of the embedding.
        license: SPDX identifier, which binds what is distilled from it, too.
        credit: whom to name.
        sha256: of the weights of the image tower.
    """

    name: str
    image: nn.Module
    text: nn.Module
    text_shape: dict[str, int]
    scale: float
    size: int
    embed_dim: int
    license: str
    credit: str | None
    sha256: str


def load_teacher(path: Path, architecture: str = "fetalclip") -> Teacher:
    """A run's folder, or a file of published weights.

    Args:
        path: folder written by `training.pretrain`, or file as its authors publish it.
        architecture: of a file: one of `training.models.PUBLISHED`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the folder holds no text tower, or the file's weights are of another model.
    """
    if not path.is_dir():
        model = PUBLISHED[architecture](path)
        return Teacher(
            name=model.name,
            image=model.image.requires_grad_(False),
            text=model.text,
            text_shape={},
            scale=float(model.scale),
            size=model.preprocess.size,
            embed_dim=model.embed_dim,
            license=model.license,
            credit=f"{model.credit}, {model.url}",
            sha256=_weights_sha256(model.image.state_dict()),
        )
    release = load_release(path)
    if release.text is None:
        raise ValueError(
            f"{path} has no text_tower.safetensors: a teacher must embed captions as well"
        )
    return Teacher(
        name=release.config.backbone,
        image=release.tower,
        text=release.text,
        text_shape={k: v for k, v in release.config.to_dict().items() if k.startswith("text_")},
        scale=release.scale,
        size=release.config.image_size,
        embed_dim=release.config.embed_dim,
        license=release.origin.license,
        credit=release.origin.teacher_credit,
        sha256=_weights_sha256(release.tower.state_dict()),
    )


class TeacherCache:
    """Embeddings of `(image, view)`, computed when first asked for and kept.

    One file a shard, half precision, NaN where nothing has been computed. Runs side by side may
    share the files, since all write the same numbers at the same places. The folder's name holds
    all that the embeddings depend on: the teacher, the seed and number of the views, the canvas.

    Args:
        root: folder of all caches.
        teacher: whose embeddings they are.
        examples: images to learn from, the same list in every process.
        canvas: side at which they are kept in memory, in pixels.
        views: how many views of an image there are.
        seed: of the views.

    Attributes:
        computed: how many views the teacher has looked at.
    """

    def __init__(
        self,
        root: Path,
        teacher: Teacher,
        examples: Sequence[Example],
        *,
        canvas: int,
        views: int,
        seed: int,
    ) -> None:
        self.teacher, self.views, self.seed = teacher, views, seed
        identity = repr((teacher.sha256, teacher.size, VIEWS_VERSION, canvas, views, seed))
        self._folder = root / hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._folder.mkdir(parents=True, exist_ok=True)
        self._members: dict[int, list[str]] = {}
        self._places: list[tuple[int, int]] = []
        for example in examples:
            names = self._members.setdefault(example.shard, [])
            self._places.append((example.shard, len(names)))
            names.append(example.name)
        self._files: dict[int, NDArray[np.float16]] = {}
        self.computed = 0

    def _file(self, shard: int) -> NDArray[np.float16]:
        names = self._members[shard]
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
        path = self._folder / f"{shard:06d}-{digest}.npy"
        shape = (len(names), self.views, self.teacher.embed_dim)
        if not path.exists():
            temporary = path.with_suffix(".tmp")
            new = open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
            new[:] = np.nan
            new.flush()
            temporary.replace(path)
        kept = open_memmap(path, mode="r+")
        if kept.shape != shape or kept.dtype != np.float16:
            raise ValueError(f"{path} is not a teacher's cache of {shape}; delete it")
        return kept

    def embeddings(self, images: Images, draws: Sequence[Draw]) -> Tensor:
        """The teacher's embeddings of some views, float32 `(N, D)`, L2-normalised."""
        missing = [draw for draw in dict.fromkeys(draws) if np.isnan(self._kept(draw)).any()]
        for part in _full_batches(missing):
            self._compute(images, part)
        rows = np.stack([self._kept(draw) for draw in draws]).astype(np.float32)
        return nn.functional.normalize(torch.from_numpy(rows), dim=-1)

    def _kept(self, draw: Draw) -> NDArray[np.float16]:
        shard, place = self._places[draw.index]
        if shard not in self._files:
            self._files[shard] = self._file(shard)
        row: NDArray[np.float16] = self._files[shard][place, draw.view]
        return row

    @torch.no_grad()
    def _compute(self, images: Images, draws: list[Draw]) -> None:
        views, _ = images.views(draws, self.teacher.size, self.seed)
        device = next(self.teacher.image.parameters()).device
        with torch.autocast(device.type, torch.bfloat16):
            levels = views.to(device, memory_format=torch.channels_last)
            embedded = self.teacher.image(levels).float().cpu().numpy()
        for draw, row in zip(draws, embedded, strict=True):
            self._kept(draw)[:] = row
        self.computed += len(set(draws))


class FrozenText(nn.Module):
    """A teacher's text tower that does not learn; sentences seen before are remembered."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower.eval().requires_grad_(False)
        self._known: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> FrozenText:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Tensor:
        """Embeddings `(N, D)`, L2-normalised."""
        if new := [text for text in dict.fromkeys(texts) if text not in self._known]:
            if len(self._known) + len(new) > _KEPT_CAPTIONS:
                self._known.clear()
                new = list(dict.fromkeys(texts))
            device = next(self.tower.parameters()).device.type
            with torch.autocast(device, enabled=False):
                for part in _full_batches(new):
                    self._known.update(zip(part, self.tower(part), strict=True))
        return torch.stack([self._known[text] for text in texts])


def _full_batches(items: Sequence[T]) -> Iterator[list[T]]:
    """Batches of one size, the last filled up with its first item."""
    for start in range(0, len(items), _BATCH):
        part = list(items[start : start + _BATCH])
        yield part + part[:1] * (_BATCH - len(part))


def _weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Hash over names and values of some weights."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
