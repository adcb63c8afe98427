"""What can be exported: folders that training wrote, and files that others published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export.graph import Tower
from export.published import PublishedSource, publish
from fetalclip_edge.preprocess import PreprocessSpec
from training.datasets import holdout_by_group
from training.models import PUBLISHED, ModelConfig, PublishedModel, WeightsError
from training.release import Origin, load_published, load_release
from training.shards import read_examples

__all__ = ["Source", "load_source", "load_text", "with_patients_apart"]


_HELD_SHARE = 0.2
_SAME_LANGUAGE = 0.999  # cosine of prompts embedded twice, once of them kept in half precision


class Source(Protocol):
    """What `training.release.Release` and `export.published.PublishedSource` have in common."""

    @property
    def config(self) -> ModelConfig:
        """Shape of the image tower, and how its one channel is normalised."""

    @property
    def tower(self) -> Tower:
        """The image tower."""

    @property
    def prompts(self) -> dict[str, dict[str, Any]]:
        """Name of the prompt set -> its description."""

    @property
    def embeddings(self) -> dict[str, NDArray[np.float32]]:
        """Name of the prompt set -> float32 `(classes, D)`, L2-normalised."""

    @property
    def held_out(self) -> frozenset[str]:
        """Patients that training held out."""

    @property
    def origin(self) -> Origin:
        """Where it comes from."""

    @property
    def preprocess(self) -> PreprocessSpec:
        """How a frame becomes the input of the graph."""

    @property
    def text(self) -> nn.Module | None:
        """The text tower, where it is at hand."""


def load_source(path: Path) -> Source:
    """Read a model, whichever of the three kinds it is.

    Args:
        path: a folder that `training.pretrain` or `training.distill` wrote, or the file of weights
            that FetalCLIP's or MobileFetalCLIP's authors published.

    Raises:
        FileNotFoundError: there is nothing, or a file is missing in the folder.
        ValueError: it is a model of another kind, or damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no model at {path}")
    if not path.is_dir():
        return publish(_read_file(path))
    if (found := load_published(path)) is None:
        return load_release(path)
    model, origin, held_out = found
    return publish(model, origin, held_out)


def load_text(path: Path, source: Source) -> nn.Module:
    """The text tower of a student's teacher, which a student of published weights comes without.

    Args:
        path: the teacher, as `load_source` reads it.
        source: the student.

    Raises:
        FileNotFoundError, ValueError: as for `load_source`; or the teacher has no text tower, or
            not the one that the student learned with.
    """
    text = load_source(path).text
    if text is None:
        raise ValueError(f"--text {path} has no text tower")
    for task, described in source.prompts.items():
        labels, texts = described["labels"], described["texts"]
        for label, kept in zip(labels, source.embeddings[task], strict=True):
            with torch.inference_mode():
                mean = text(list(texts[label])).float().mean(dim=0).cpu().numpy()
            cosine = 0.0
            if mean.shape == kept.shape:
                cosine = float(mean @ kept / np.linalg.norm(mean) / np.linalg.norm(kept))
            if not cosine > _SAME_LANGUAGE:
                raise ValueError(
                    f"--text {path} is not the text tower that this model learned with: its "
                    f"prompts of {label!r} have a cosine of {cosine:.3f} with those of the model"
                )
    return text


def with_patients_apart(source: Source, data: Path) -> Source:
    """A published model with patients for fitting confidence and threshold to.

    It has seen none of the shards' patients as far as its authors tell, so any will do. What was
    trained here knows its own, and is given back as it is.

    Args:
        source: the model.
        data: shards, written by `training.data`.
    """
    if source.held_out or not isinstance(source, PublishedSource):
        return source
    _, held = holdout_by_group(read_examples(data, "train"), _HELD_SHARE, seed=0)
    return replace(source, held_out=frozenset(example.group for example in held))


def _read_file(path: Path) -> PublishedModel:
    refusals: dict[str, WeightsError] = {}
    for name, load in PUBLISHED.items():
        try:
            return load(path)
        except WeightsError as error:
            if error.differences is None:  # no weights at all
                raise
            refusals[name] = error
    raise ValueError(_neither(path, refusals))


def _neither(path: Path, refusals: Mapping[str, WeightsError]) -> str:
    each = "\n".join(f"As {name}: {error}" for name, error in refusals.items())
    return f"{path} is the file of no model that can be exported ({', '.join(refusals)}).\n{each}"
