"""The published architectures without published weights: to pretrain them, and to write files."""

from __future__ import annotations

from torch import Tensor

import training.torchvision_ops  # noqa: F401  (before open_clip)
from training.models.architectures import ARCHITECTURES, Architecture
from training.models.published import PublishedModel

from open_clip import CLIP, CustomTextCLIP  # isort: skip

__all__ = ["architecture_of", "as_published", "untrained_model"]


def architecture_of(name: str) -> Architecture:
    """A published architecture by its name.

    Raises:
        ValueError: there is none of that name.
    """
    for architecture in ARCHITECTURES:
        if architecture.name == name:
            return architecture
    known = " or ".join(architecture.name for architecture in ARCHITECTURES)
    raise ValueError(f"published must be {known}, not {name!r}")


def untrained_model(name: str) -> PublishedModel:
    """A model of exactly that architecture with random weights, as open_clip draws them."""
    architecture = architecture_of(name)
    return PublishedModel(architecture, CustomTextCLIP(**architecture.config))


def as_published(model: PublishedModel) -> dict[str, Tensor]:
    """The model's tensors under the names that its authors' file has."""
    text = "" if architecture_of(model.name).layout is CLIP else "text."
    tensors = {"logit_scale": model.logit_scale.detach()}
    tensors |= {f"visual.{k}": v for k, v in model.image.network.state_dict().items()}
    tensors |= {f"{text}{k}": v for k, v in model.text.transformer.state_dict().items()}
    return tensors
