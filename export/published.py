"""The published models as the exporter wants them: one grey channel, as few operations as exact."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

import training.torchvision_ops  # noqa: F401  (before timm and open_clip)
from fetalclip_edge.preprocess import PreprocessSpec
from training.models import ModelConfig, PublishedModel
from training.release import PROMPTS, Origin
from training.zero_shot import embed_prompts

from open_clip.transformer import VisionTransformer  # isort: skip
from timm.utils.model import reparameterize_model  # isort: skip

__all__ = ["PUBLISHED", "PublishedSource", "PublishedTower", "publish"]

PUBLISHED = "published"
"""The `Origin.method` of weights as their authors published them."""


_BACKBONES = {"fetalclip": "vit_large_patch14_clip_224", "mobile-fetalclip": "fastvit_mci0"}
"""The same networks by timm's names, as a manifest names architectures."""


class PublishedTower(nn.Module):
    """The image tower of a published model, made for grey frames.

    Three equal channels, each normalised in its own way, are an affine function of one. Where the
    first convolution has no padding, as the patch embedding of a ViT, that function goes into its
    weights and bias: exact, and a third of its work. Where it pads with zeros, as FastViT's stem,
    the border sees zeros and no bias, so there the arithmetic stays in the graph.

    FastViT is reparameterised: the branches it was trained with become one convolution each.

    Attributes:
        config: its size, and the normalisation of the one channel, which is that of our own
            students: mean 127 and standard deviation 128 are whole grey levels.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: PublishedModel) -> None:
        super().__init__()
        self.config = ModelConfig(
            image_size=model.preprocess.size,
            embed_dim=model.embed_dim,
            backbone=_BACKBONES[model.name],
        )
        self.preprocess = model.preprocess
        self._original: nn.Module = model.image.eval()
        mean, std = (torch.tensor(getattr(model.preprocess, name)) for name in ("mean", "std"))
        # Of channel c: (level / 255 - mean[c]) / std[c] = normalised * scale[c] + shift[c]
        self.register_buffer("scale", (self.config.std / std).reshape(-1, 1, 1))
        self.register_buffer("shift", ((self.config.mean - mean) / std).reshape(-1, 1, 1))
        network: Any = model.image.network
        vit = isinstance(network, VisionTransformer)
        self._network: nn.Module = network if vit else reparameterize_model(network)
        self._grey = _fold(self._network, self.scale.flatten(), self.shift.flatten())

    def forget_original(self) -> None:
        """Keep what `embed_and_characterise` runs, and nothing else: half the memory."""
        self._original = nn.Identity()
        if self._grey is not None:
            self._network = nn.Identity()

    @property
    def has_stages(self) -> bool:
        """Abstention looks at the embedding alone."""
        return False

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings of grey levels `(N, 1, S, S)` by the model as published, unchanged."""
        embeddings: Tensor = self._original(images)
        return embeddings

    def embed_and_characterise(self, normalised: Tensor) -> tuple[Tensor, ...]:
        """Embeddings `(N, D)`, L2-normalised, of grey `(N, 1, S, S)` as `config` normalises it."""
        if self._grey is None:
            return self.embed_channels(normalised * self.scale + self.shift)
        return (F.normalize(self._grey(normalised).float(), dim=-1),)

    def embed_channels(self, normalised: Tensor) -> tuple[Tensor, ...]:
        """The same of red, green and blue `(N, 3, S, S)` as the authors normalise them."""
        return (F.normalize(self._network(normalised).float(), dim=-1),)


def _fold(network: nn.Module, scale: Tensor, shift: Tensor) -> Any:
    """The network with one input channel; None where that would not be exact."""
    if not isinstance(network, VisionTransformer):
        return None
    first: nn.Conv2d = network.conv1
    if any(first.padding):
        return None
    grey = nn.Conv2d(1, first.out_channels, first.kernel_size, first.stride)  # type: ignore[arg-type]
    with torch.no_grad():
        weight = first.weight.double()
        per_channel = weight.sum(dim=(2, 3)) @ shift.double()
        bias = per_channel if first.bias is None else first.bias.double() + per_channel
        grey.weight.copy_((weight * scale.double().reshape(1, -1, 1, 1)).sum(dim=1, keepdim=True))
        assert grey.bias is not None
        grey.bias.copy_(bias)
    # All but the first layer is shared with the network it came from.
    folded = copy.copy(network)
    folded._modules = {**network._modules, "conv1": grey.eval().requires_grad_(False)}
    return folded


@dataclass(frozen=True, slots=True)
class PublishedSource:
    """A published model as `export.bundle` reads a release of our own.

    Attributes:
        tower: the image tower.
        prompts: name of the prompt set -> its description.
        embeddings: name of the prompt set -> float32 `(classes, D)`, L2-normalised.
        held_out: patients it did not learn from; none where nothing is known of it.
        origin: where it comes from.
        text: its text tower.
    """

    tower: PublishedTower
    prompts: dict[str, dict[str, object]]
    embeddings: dict[str, NDArray[np.float32]]
    held_out: frozenset[str]
    origin: Origin
    text: nn.Module

    @property
    def config(self) -> ModelConfig:
        """Shape of the image tower, and how its one channel is normalised."""
        return self.tower.config

    @property
    def preprocess(self) -> PreprocessSpec:
        """How a frame becomes the input: the authors' geometry, grey levels, no arithmetic."""
        return self.config.preprocess


def publish(
    model: PublishedModel, origin: Origin | None = None, held_out: frozenset[str] = frozenset()
) -> PublishedSource:
    """A published model with the embeddings of our prompts by its own text tower.

    Args:
        model: as its authors published it, or trained further.
        origin: of a model trained further; None for the authors' own weights.
        held_out: the patients that training further held out.
    """
    return PublishedSource(
        tower=PublishedTower(model),
        prompts={
            name: {"labels": p.labels, "texts": p.prompts, "sha256": p.sha256}
            for name, p in PROMPTS.items()
        },
        embeddings={name: embed_prompts(model, p).numpy() for name, p in PROMPTS.items()},
        held_out=held_out,
        origin=origin
        or Origin(
            method=PUBLISHED,
            license=model.license,
            teacher_credit=f"{model.credit}, {model.url}",
        ),
        text=model.text,
    )
