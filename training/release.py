"""A trained model on disk, without pickle: what `export` reads and a repository can hold."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save as encode_arrays
from safetensors.torch import load_file
from safetensors.torch import save as encode_tensors
from torch import nn

from fetalclip_edge.preprocess import PreprocessSpec
from training.models import (
    PUBLISHED,
    ImageTextModel,
    ImageTower,
    ModelConfig,
    PublishedModel,
    TextTower,
)
from training.models.untrained import as_published
from training.prompts import BRAIN_PLANE_PROMPTS, PLANE_PROMPTS, PromptSet
from training.zero_shot import embed_prompts

__all__ = [
    "CREDITS_APART",
    "PROMPTS",
    "TOGETHER",
    "Origin",
    "Release",
    "binding_license",
    "joint_credit",
    "load_published",
    "load_release",
    "save_release",
    "write_release",
]

WEIGHTS = "weights.pt"

TOGETHER, CREDITS_APART = " + ", "; "
"""Between the names of several teachers, and between whom they owe."""

_OURS = "Apache-2.0"

M = TypeVar("M", bound=nn.Module)

PROMPTS: Mapping[str, PromptSet] = {p.name: p for p in (PLANE_PROMPTS, BRAIN_PLANE_PROMPTS)}
"""Our own prompts, by the name of the task."""

_LABELS = {name: prompts.labels for name, prompts in PROMPTS.items()}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from, and under which licence it may therefore be used.

    Attributes:
        method: how it was trained, in a word: "pretrain" or "distill".
        license: SPDX identifier. The licences of a teacher and of the run it began with bind it.
        teacher: name of the teacher, or of several; None without one.
        teacher_credit: whom to credit for it, and for the run it began with.
        data_sha256: of the shards that it learned from, as their manifest has it.
    """

    method: str
    license: str = _OURS
    teacher: str | None = None
    teacher_credit: str | None = None
    data_sha256: str | None = None


def binding_license(licenses: Collection[str]) -> str:
    """The licence of what is made from weights under these; ours binds nobody.

    Raises:
        ValueError: two different ones bind.
    """
    binding = sorted(set(licenses) - {_OURS})
    if len(binding) > 1:
        raise ValueError(f"weights under {' and '.join(binding)} cannot go into one model")
    return binding[0] if binding else _OURS


def joint_credit(credits_: Sequence[str | None]) -> str | None:
    """All who are to be credited, each once; None where nobody is."""
    return CREDITS_APART.join(dict.fromkeys(c for c in credits_ if c is not None)) or None


@dataclass(frozen=True, slots=True)
class Release:
    """A trained image tower with the embeddings of its prompts.

    Attributes:
        config: shape of the model.
        tower: the image tower, in evaluation mode.
        text: the text tower, where the folder has it; None for a student of published weights,
            whose text tower is not ours to pass on.
        scale: the logit scale.
        prompts: name of the prompt set -> its description in `model.json` (labels, texts, hash).
        embeddings: name of the prompt set -> float32 `(classes, D)`, L2-normalised.
        validation: metrics on the held-out training patients.
        held_out: those patients, as `training.datasets.Example.group` names them; only they may
            be used to fit a temperature or a threshold.
        origin: where it comes from.
    """

    config: ModelConfig
    tower: ImageTower
    text: TextTower | None
    scale: float
    prompts: dict[str, dict[str, object]]
    embeddings: dict[str, NDArray[np.float32]]
    validation: dict[str, float]
    held_out: frozenset[str]
    origin: Origin

    @property
    def preprocess(self) -> PreprocessSpec:
        """How a frame becomes the input of the image tower."""
        return self.config.preprocess


def save_release(
    folder: Path,
    model: ImageTextModel,
    validation: dict[str, float],
    held_out: Collection[str],
    origin: Origin,
    prompts: Mapping[str, PromptSet] = PROMPTS,
) -> None:
    """Write `model.json`, the towers and the prompt embeddings into `folder`.

    Weights are stored in half precision: the export measures what it writes, from these. The
    text tower is written when it is of our own kind. A model of a published architecture is
    written as `weights.pt` instead, with the names of its authors' file.
    """
    if isinstance(model, PublishedModel):
        torch.save(as_published(model), folder / WEIGHTS)
        _describe(folder, {"published": model.name}, validation, held_out, origin)
        return
    text = getattr(model.text, "tower", model.text)  # a student's is its teacher's, wrapped
    described: dict[str, dict[str, object]] = {
        name: {"labels": p.labels, "texts": p.prompts, "sha256": p.sha256}
        for name, p in prompts.items()
    }
    release = Release(
        config=model.config,
        tower=model.image,
        text=text if isinstance(text, TextTower) else None,
        scale=float(model.scale.detach()),
        prompts=described,
        embeddings={name: embed_prompts(model, p).cpu().numpy() for name, p in prompts.items()},
        validation=validation,
        held_out=frozenset(held_out),
        origin=origin,
    )
    write_release(folder, release)


def write_release(folder: Path, release: Release) -> None:
    """Write a model of our own shapes as `load_release` reads it, weights in half precision."""
    towers: dict[str, nn.Module | None] = {
        "image_tower": release.tower,
        "text_tower": release.text,
    }
    for name, tower in towers.items():
        if tower is None:
            continue
        half = {k: v.half() if v.is_floating_point() else v for k, v in tower.state_dict().items()}
        encoded = encode_tensors({k: v.contiguous().cpu() for k, v in half.items()})
        (folder / f"{name}.safetensors").write_bytes(encoded)
    (folder / "prompts.safetensors").write_bytes(encode_arrays(release.embeddings))
    own = {
        "model": release.config.to_dict(),
        "logit_scale": release.scale,
        "prompts": release.prompts,
    }
    _describe(folder, own, release.validation, release.held_out, release.origin)


def _describe(
    folder: Path,
    own: dict[str, object],
    validation: dict[str, float],
    held_out: Collection[str],
    origin: Origin,
) -> None:
    common = {"origin": asdict(origin), "validation": validation, "held_out": sorted(held_out)}
    text = json.dumps({**own, **common}, indent=2) + "\n"
    # At once and last of all: a folder with a model.json is taken for complete.
    temporary = folder / "model.json.tmp"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(folder / "model.json")


def load_published(folder: Path) -> tuple[PublishedModel, Origin, frozenset[str]] | None:
    """The model of a published architecture that `training.pretrain` wrote.

    Returns:
        The model, where it comes from and the patients it did not learn from; None when the
        folder holds a model of our own shapes.

    Raises:
        FileNotFoundError: there is no `model.json`.
        ValueError: it is incomplete, or the weights do not fit.
    """
    path = folder / "model.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        if "published" not in description:
            return None
        load = PUBLISHED[description["published"]]
        origin, held_out = Origin(**description["origin"]), frozenset(description["held_out"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not what save_release wrote: {error!r}") from error
    return load(folder / WEIGHTS), origin, held_out


def load_release(folder: Path) -> Release:
    """Read what `save_release` wrote of a model of our own shapes.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the model is of a published architecture; `model.json` is incomplete or names
            other classes than this version; or the weights or prompt embeddings do not fit the
            model that it describes.
    """
    path = folder / "model.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        if "published" in description:
            name = description["published"]
            raise ValueError(
                f"{folder} holds {name} in its authors' layout, not a model of our own shapes: "
                f"teach a student with training.distill --teacher {folder}, or name its file, "
                f"{folder / WEIGHTS} --architecture {name}"
            )
        config = ModelConfig(**description["model"])
        prompts = description["prompts"]
        validation, held_out = description["validation"], frozenset(description["held_out"])
        labels = {name: tuple(prompts[name]["labels"]) for name in _LABELS}
        origin, scale = Origin(**description["origin"]), float(description["logit_scale"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not what save_release wrote: {error!r}") from error
    if labels != _LABELS:
        raise ValueError(f"{path} names the classes {labels}, this version has {_LABELS}")
    text = folder / "text_tower.safetensors"
    return Release(
        config=config,
        tower=_load_tower(ImageTower(config), folder / "image_tower.safetensors"),
        text=_load_tower(TextTower(config), text) if text.exists() else None,
        scale=scale,
        prompts=prompts,
        embeddings=_load_embeddings(config, folder / "prompts.safetensors"),
        validation=validation,
        held_out=held_out,
        origin=origin,
    )


def _load_tower(tower: M, path: Path) -> M:
    try:
        tensors = load_file(path)
        full = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
        tower.load_state_dict(full)
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path} does not fit model.json: {error}") from error
    return tower.eval().requires_grad_(False)


def _load_embeddings(config: ModelConfig, path: Path) -> dict[str, NDArray[np.float32]]:
    embeddings = dict(load_arrays(path))
    wanted = {name: (len(labels), config.embed_dim) for name, labels in _LABELS.items()}
    found = {name: array.shape for name, array in embeddings.items()}
    if found != wanted:
        raise ValueError(f"{path} must hold {wanted}, not {found}")
    return embeddings
