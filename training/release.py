"""A trained model on disk, without pickle: what `export` reads and a repository can hold."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save as encode_arrays
from safetensors.torch import load_file
from safetensors.torch import save as encode_tensors

from training.captions import BRAIN_PLANE_PROMPTS, PLANE_PROMPTS
from training.models import DualEncoder, ImageTower, ModelConfig
from training.zero_shot import embed_prompts

__all__ = ["Release", "load_release", "save_release"]

_LABELS = {prompts.name: prompts.labels for prompts in (PLANE_PROMPTS, BRAIN_PLANE_PROMPTS)}


@dataclass(frozen=True, slots=True)
class Release:
    """A trained image tower with the embeddings of its prompts.

    Attributes:
        config: shape of the model.
        tower: the image tower, in evaluation mode.
        prompts: name of the prompt set -> its description in `model.json` (labels, texts, hash).
        embeddings: name of the prompt set -> float32 `(classes, D)`, L2-normalised.
        validation: metrics on the held-out training patients.
        held_out: those patients, as `training.datasets.Example.group` names them; only they may
            be used to fit a temperature or a threshold.
    """

    config: ModelConfig
    tower: ImageTower
    prompts: dict[str, dict[str, object]]
    embeddings: dict[str, NDArray[np.float32]]
    validation: dict[str, float]
    held_out: frozenset[str]


def save_release(
    folder: Path, model: DualEncoder, validation: dict[str, float], held_out: Collection[str]
) -> None:
    """Write `model.json`, the two towers and the prompt embeddings into `folder`.

    Weights are stored in half precision: the export measures what it writes, from these.
    """
    halves = {
        "image_tower": model.image.state_dict(),
        "text_tower": model.text.state_dict(),
    }
    for name, tensors in halves.items():
        half = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
        encoded = encode_tensors({k: v.contiguous() for k, v in half.items()})
        (folder / f"{name}.safetensors").write_bytes(encoded)
    sets = (PLANE_PROMPTS, BRAIN_PLANE_PROMPTS)
    embeddings = {prompts.name: embed_prompts(model, prompts).numpy() for prompts in sets}
    (folder / "prompts.safetensors").write_bytes(encode_arrays(embeddings))
    description = {
        "model": model.config.to_dict(),
        "logit_scale": float(model.scale.detach()),
        "prompts": {
            prompts.name: {
                "labels": prompts.labels,
                "texts": prompts.prompts,
                "sha256": prompts.sha256,
            }
            for prompts in sets
        },
        "validation": validation,
        "held_out": sorted(held_out),
    }
    (folder / "model.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load_release(folder: Path) -> Release:
    """Read what `save_release` wrote.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: `model.json` is incomplete or names other classes than this version, or the
            weights or prompt embeddings do not fit the model that it describes.
    """
    path = folder / "model.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    try:
        config = ModelConfig(**description["model"])
        prompts = description["prompts"]
        validation, held_out = description["validation"], frozenset(description["held_out"])
        labels = {name: tuple(prompts[name]["labels"]) for name in _LABELS}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not what save_release wrote: {error!r}") from error
    if labels != _LABELS:
        raise ValueError(f"{path} names the classes {labels}, this version has {_LABELS}")
    return Release(
        config,
        _load_tower(config, folder / "image_tower.safetensors"),
        prompts,
        _load_embeddings(config, folder / "prompts.safetensors"),
        validation,
        held_out,
    )


def _load_tower(config: ModelConfig, path: Path) -> ImageTower:
    tower = ImageTower(config)
    tensors = load_file(path)
    full = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    try:
        tower.load_state_dict(full)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit model.json: {error}") from error
    return tower.eval().requires_grad_(False)


def _load_embeddings(config: ModelConfig, path: Path) -> dict[str, NDArray[np.float32]]:
    embeddings = dict(load_arrays(path))
    wanted = {name: (len(labels), config.embed_dim) for name, labels in _LABELS.items()}
    found = {name: array.shape for name, array in embeddings.items()}
    if found != wanted:
        raise ValueError(f"{path} must hold {wanted}, not {found}")
    return embeddings
