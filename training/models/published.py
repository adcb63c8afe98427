"""The published models, exactly: FetalCLIP (arXiv 2502.14807), MobileFetalCLIP (arXiv 2603.05421).

Nothing is downloaded. Get the files from their publishers, under their licence, and name them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import training.torchvision_ops  # noqa: F401  (before timm and open_clip)
from fetalclip_edge.preprocess import PreprocessSpec
from training.models.architectures import (
    ARCHITECTURES,
    FETALCLIP,
    MOBILE_FETALCLIP,
    Architecture,
    causal_mask,
)
from training.models.checkpoints import WeightsError, compare, read_state_dict
from training.models.text import MAX_LOGIT_SCALE, TextEncoder

from open_clip import CustomTextCLIP  # isort: skip

__all__ = ["PUBLISHED", "PublishedModel", "load_fetalclip", "load_mobile_fetalclip"]


class PublishedModel(nn.Module):
    """A published image-text model with its own preprocessing, in evaluation mode.

    Attributes:
        name: "fetalclip" or "mobile-fetalclip".
        license: SPDX identifier of the licence of the weights.
        credit: whom to name, with the paper.
        url: where the weights are published.
        preprocess: how a frame becomes the input of `image`, which normalises inside.
        embed_dim: length of the embedding.
        image: levels 0 to 255, grey `(N, 1, S, S)` or red, green, blue `(N, 3, S, S)`, to float32
            embeddings `(N, D)`, L2-normalised.
        text: a sequence of N sentences, of 115 tokens at most (the rest is cut off), to float32
            embeddings `(N, D)`, L2-normalised.
        logit_scale: logarithm of `scale`, as learned.
    """

    def __init__(self, architecture: Architecture, towers: Any) -> None:
        super().__init__()
        self.name = architecture.name
        self.license = "CC-BY-NC-4.0"
        self.credit = architecture.credit
        self.url = architecture.url
        self.preprocess = architecture.preprocess
        self.embed_dim = int(architecture.config["embed_dim"])
        self.image = _ImageTower(towers.visual, architecture.preprocess)
        self.text = TextEncoder(towers.text)
        self.logit_scale: Tensor = towers.logit_scale

    @property
    def scale(self) -> Tensor:
        """The logit scale, at most 100 as in CLIP."""
        return self.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)


class _ImageTower(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, network: Any, preprocess: PreprocessSpec) -> None:
        super().__init__()
        self.network = network
        for name in ("mean", "std"):
            channels = torch.tensor(getattr(preprocess, name)).reshape(-1, 1, 1)
            self.register_buffer(name, channels, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        # One grey channel against three means becomes three channels here.
        normalised = (images / 255 - self.mean) / self.std
        return F.normalize(self.network(normalised).float(), dim=-1)


def load_fetalclip(path: str | PathLike[str]) -> PublishedModel:
    """FetalCLIP: ViT-L/14 at 224 pixels, 427 M parameters, 1.7 GB of memory.

    Args:
        path: the published `FetalCLIP_weights.pt`, or a checkpoint of the same model.

    Raises:
        FileNotFoundError: there is no such file; says where it is published.
        WeightsError: the file cannot be read without running code, or does not fit: the first
            missing and unexpected keys and wrong shapes are listed.
    """
    return _load(FETALCLIP, path)


def load_mobile_fetalclip(path: str | PathLike[str]) -> PublishedModel:
    """MobileFetalCLIP: FastViT MCi0 at 256 pixels, 75 M parameters, 11.4 M in the image tower.

    Args:
        path: the published `mobile_fetal_clip_weights.pt`, or a checkpoint of the same model; its
            image tower may have timm's names or Apple's.

    Raises:
        FileNotFoundError, WeightsError: as for `load_fetalclip`.
    """
    return _load(MOBILE_FETALCLIP, path)


PUBLISHED: Mapping[str, Callable[[str | PathLike[str]], PublishedModel]] = {
    FETALCLIP.name: load_fetalclip,
    MOBILE_FETALCLIP.name: load_mobile_fetalclip,
}
"""Loaders by the name of the model, as command lines offer them."""


def _load(architecture: Architecture, path: str | PathLike[str]) -> PublishedModel:
    try:
        tensors = read_state_dict(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; {architecture.title}'s authors publish {architecture.file} at "
            f"{architecture.url}"
        ) from None
    found = _scalar_scale(architecture.translate(tensors))
    if differences := compare(architecture.wanted(), found):
        raise WeightsError(
            f"{path} does not fit {architecture.title}{_hint(architecture, tensors)}.\n"
            f"{differences}",
            differences,
        )
    return _build(architecture, found)


def _scalar_scale(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip writes the logit scale as `()` or, on demand, as `(1,)`."""
    scale = tensors.get("logit_scale")
    return tensors if scale is None or scale.shape != (1,) else tensors | {"logit_scale": scale[0]}


def _hint(wrong: Architecture, tensors: dict[str, Tensor]) -> str:
    for other in ARCHITECTURES:
        if other is wrong:
            continue
        if not compare(other.wanted(), _scalar_scale(other.translate(tensors))):
            return f", it is a file of {other.title}: read it with {other.loader}"
    return ""


def _build(architecture: Architecture, tensors: dict[str, Tensor]) -> PublishedModel:
    with torch.device("meta"):
        towers = CustomTextCLIP(**architecture.config)
    own = towers.state_dict()
    # Copied, and so free of the file; halves become float32.
    copies = {
        name if name in own else f"text.{name}": tensor.detach().to(dtype, copy=True)
        for name, tensor in tensors.items()
        for dtype in [torch.float32 if tensor.is_floating_point() else torch.int64]
    }
    towers.load_state_dict(copies, assign=True)
    if towers.text.attn_mask is not None:
        # The only tensor of the model that no file holds.
        towers.text.attn_mask = causal_mask(towers.text.context_length)
    return PublishedModel(architecture, towers).eval().requires_grad_(False)
