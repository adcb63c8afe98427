"""A teacher, and what it saw in every view, kept on disk, so that it looks at each once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fetalclip_edge.preprocess import PreprocessSpec
from training.lanes import Draw
from training.learner import Images
from training.models import PUBLISHED, PublishedModel
from training.release import Origin, load_published, load_release
from training.sparse_file import check_room, full_batches, sparse_array
from training.view_set import ViewSet, tensors_sha256

__all__ = ["FrozenText", "Teacher", "TeacherCache", "load_teacher"]

_KEPT_CAPTIONS = 65_536
_ROUNDING = 0.002  # of the length of an embedding in half precision


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
        held_out: patients that it did not learn from; None where nobody says.
        data_sha256: of the shards that it learned from; None where nobody says.
        sha256: of the weights of both towers and the preprocessing.
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
    held_out: frozenset[str] | None
    data_sha256: str | None
    sha256: str


def load_teacher(path: Path, architecture: str = "fetalclip") -> Teacher:
    """A run's folder, or a file of published weights.

    Args:
        path: folder written by `training.pretrain`, or file as its authors publish it.
        architecture: of a file: one of `training.models.PUBLISHED`; a folder says it itself.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is no such architecture, the folder holds no text tower, or the file's
            weights are of another model.
    """
    if architecture not in PUBLISHED:
        raise ValueError(f"--architecture must be {' or '.join(PUBLISHED)}, not {architecture!r}")
    if not path.is_dir():
        model = PUBLISHED[architecture](path)
        credit = f"{model.credit}, {model.url}"
        origin = Origin("published", model.license, model.name, credit)
        return _published_teacher(model, origin, None)
    if (found := load_published(path)) is not None:
        model, origin, held_out = found
        return _published_teacher(model, origin, held_out)
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
        held_out=release.held_out,
        data_sha256=release.origin.data_sha256,
        sha256=_sha256(release.preprocess, release.tower, release.text),
    )


def _published_teacher(
    model: PublishedModel, origin: Origin, held_out: frozenset[str] | None
) -> Teacher:
    return Teacher(
        name=model.name,
        image=model.image.requires_grad_(False),
        text=model.text,
        text_shape={},
        scale=float(model.scale.detach()),
        size=model.preprocess.size,
        embed_dim=model.embed_dim,
        license=origin.license,
        credit=origin.teacher_credit,
        held_out=held_out,
        data_sha256=origin.data_sha256,
        sha256=_sha256(model.preprocess, model.image, model.text),
    )


class TeacherCache:
    """Embeddings of `(image, view)`, computed when first asked for and kept.

    One file in half precision, sparse on the disk; a row of zeros has not been computed. Processes
    and runs side by side may share it, since all write the same numbers at the same places. Its
    name holds all that the embeddings depend on: teacher, images, views and precision.

    Args:
        root: folder of all caches, on a disk of this machine.
        teacher: whose embeddings they are.
        views: which it looks at.
        precision: in which the teacher computes: "no" (float32), "bf16" or "fp16".

    Attributes:
        computed: how many views the teacher has looked at.

    Raises:
        ValueError: the disk has no room for all views.
    """

    def __init__(self, root: Path, teacher: Teacher, views: ViewSet, precision: str) -> None:
        self.teacher, self.views, self.precision, self.computed = teacher, views, precision, 0
        shape = (*views.shape, teacher.embed_dim)
        digest = tensors_sha256((teacher.sha256, precision, views.sha256))
        path = root / f"{digest[:32]}.f16"
        check_room({path: 2 * math.prod(shape)}, "what the teacher sees", views.views)
        self._kept = sparse_array(path, np.float16, shape)

    def embeddings(self, images: Images, draws: Sequence[Draw]) -> Tensor:
        """The teacher's embeddings of some views, float32 `(N, D)`, L2-normalised."""
        # A row that another process is just writing is not yet of length 1: it is computed, too.
        missing = [draw for draw in dict.fromkeys(draws) if not self._is_there(draw)]
        for part in full_batches(missing):
            self._compute(images, part)
        rows = np.stack([self._kept[draw.index, draw.view] for draw in draws])
        return nn.functional.normalize(torch.from_numpy(rows.astype(np.float32)), dim=-1)

    def _is_there(self, draw: Draw) -> bool:
        row = self._kept[draw.index, draw.view].astype(np.float32)
        return bool(abs(np.linalg.norm(row) - 1) < _ROUNDING)

    @torch.no_grad()
    def _compute(self, images: Images, draws: list[Draw]) -> None:
        views, _ = images.views(draws, self.teacher.size, self.views.seed)
        device = next(self.teacher.image.parameters()).device
        lower = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        with torch.autocast(device.type, lower, enabled=lower is not None):
            levels = views.to(device, memory_format=torch.channels_last)
            embedded = self.teacher.image(levels).float().cpu().numpy()
        for draw, row in zip(draws, embedded, strict=True):
            self._kept[draw.index, draw.view] = row
        self.computed += len(set(draws))


class FrozenText(nn.Module):
    """A teacher's text tower that does not learn; sentences seen before are remembered."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower: Any = tower.eval().requires_grad_(False)
        self._known: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> FrozenText:
        """Stays in evaluation mode."""
        return super().train(False)

    def too_long(self, texts: Sequence[str]) -> int:
        """How many sentences do not fit the context, and are cut."""
        return int(self.tower.too_long(texts))

    @torch.inference_mode(False)  # what is remembered is used in training as well
    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Tensor:
        """Embeddings `(N, D)`, L2-normalised."""
        if new := [text for text in dict.fromkeys(texts) if text not in self._known]:
            if len(self._known) + len(new) > _KEPT_CAPTIONS:
                self._known.clear()
                new = list(dict.fromkeys(texts))
            device = next(self.tower.parameters()).device.type
            with torch.autocast(device, enabled=False):
                for part in full_batches(new):
                    self._known.update(zip(part, self.tower(part), strict=True))
        return torch.stack([self._known[text] for text in texts])


def _sha256(preprocess: PreprocessSpec, *towers: nn.Module) -> str:
    """Hash over the preprocessing and the towers' weights."""
    return tensors_sha256(preprocess, *(tower.state_dict() for tower in towers))
