"""The dual encoder: an image tower for the device and a text tower that stays behind."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import training.torchvision_ops  # noqa: F401  (before timm and open_clip)
from fetalclip_edge.preprocess import PreprocessSpec
from training.models.imagenet import imagenet_weights
from training.models.text import MAX_LOGIT_SCALE, VOCABULARY, TextEncoder

import timm  # isort: skip
from open_clip.transformer import TextTransformer  # isort: skip

__all__ = ["DualEncoder", "ImageTower", "ModelConfig", "TextTower"]

_TEXT_SIZES = ("text_context", "text_width", "text_heads", "text_layers")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shape of a dual encoder.

    Attributes:
        image_size: side of the square input, in pixels.
        embed_dim: length of the embedding.
        backbone: name of the timm model of the image tower.
        mean: grey level, in units of 0 to 1, that the network sees as zero.
        std: grey levels, in units of 0 to 1, per unit of the network's input.
        text_context, text_width, text_heads, text_layers: shape of the text transformer.
    """

    image_size: int = 224
    embed_dim: int = 256
    backbone: str = "tf_efficientnet_lite0"
    mean: float = 127 / 255
    std: float = 128 / 255
    text_context: int = 48
    text_width: int = 256
    text_heads: int = 4
    text_layers: int = 4

    def __post_init__(self) -> None:
        for name in ("image_size", "embed_dim", *_TEXT_SIZES):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.text_width % self.text_heads:
            raise ValueError(
                f"text_heads must divide text_width {self.text_width}, not {self.text_heads}"
            )
        if not 0 <= self.mean <= 1:
            raise ValueError(f"mean must lie between 0 and 1, not {self.mean}")
        if not 0 < self.std < math.inf:
            raise ValueError(f"std must be above 0 and finite, not {self.std}")
        if not timm.is_model(self.backbone):
            raise ValueError(f"backbone must be the name of a timm model, not {self.backbone!r}")

    @property
    def preprocess(self) -> PreprocessSpec:
        """How a frame becomes the input: the graph takes grey levels and normalises inside."""
        return PreprocessSpec(
            size=self.image_size,
            color="gray",
            mean=(self.mean,),
            std=(self.std,),
            interpolation="bicubic",
            dtype="uint8",
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON and checkpoints."""
        return asdict(self)


class ImageTower(nn.Module):
    """Grey image to embedding.

    The backbone sees one channel: ultrasound is grey, and the three equal channels of ImageNet's
    first convolution add up to one exactly.

    Attributes:
        frozen_stages: stages that learn nothing, nor does the stem then; see `freeze`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = timm.create_model(config.backbone, in_chans=1, num_classes=0)
        self.projection = nn.Linear(self.backbone.num_features, config.embed_dim, bias=False)
        self.frozen_stages = 0

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings `(N, D)`, L2-normalised, of grey levels 0 to 255 `(N, 1, S, S)`."""
        return self._embed(self.backbone(self.normalised(images)))

    def early(self, images: Tensor) -> Tensor:
        """Maps `(N, C, H, W)` that the frozen stages make of grey levels `(N, 1, S, S)`."""
        maps = self.normalised(images)
        for part in self._frozen():
            maps = part(maps)
        return maps

    def late(self, maps: Tensor) -> Tensor:
        """Embeddings, as of `forward`, of what `early` made."""
        for stage in self.backbone.blocks[self.frozen_stages :]:
            maps = stage(maps)
        return self._head(maps)

    @property
    def has_stages(self) -> bool:
        """Whether the backbone is stage after stage between a stem and a head, as EfficientNet."""
        parts = ("conv_stem", "bn1", "blocks", "conv_head", "bn2", "forward_head")
        return all(hasattr(self.backbone, part) for part in parts)

    def embed_and_characterise(self, normalised: Tensor) -> tuple[Tensor, ...]:
        """Embeddings, and what tells ultrasound of the fetus from other pictures.

        An embedding is made to tell planes apart; learning to recognise by prompts draws pictures
        of something else to one of them, too. The maps of the last stage still tell them apart.

        Args:
            normalised: `(N, 1, S, S)`, as the backbone wants it.

        Returns:
            Embeddings `(N, D)`, L2-normalised; and, where the backbone has stages, mean and
            standard deviation over all pixels of the channels of the last, `(N, 2 C)`.
        """
        if not self.has_stages:
            return (self._embed(self.backbone(normalised)),)
        return self.characterise(self.pyramid(normalised)[-1])

    def pyramid(self, normalised: Tensor) -> tuple[Tensor, ...]:
        """The last maps of every size from stride 4 on, the finest first.

        Args:
            normalised: `(N, 1, S, S)`, as the backbone wants it.

        Returns:
            Maps `(N, C, S / 4, S / 4)` and so on to those of the last stage, at stride 32.
        """
        maps = self.backbone.bn1(self.backbone.conv_stem(normalised))
        last: dict[int, Tensor] = {}
        for stage in self.backbone.blocks:
            maps = stage(maps)
            last[int(maps.shape[-1])] = maps  # in a trace, shapes are no numbers
        return tuple(last.values())[1:]

    def characterise(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """As `embed_and_characterise`, of the maps of the last stage."""
        mean = maps.mean(dim=(2, 3), keepdim=True)
        deviation = (maps - mean).square().mean(dim=(2, 3), keepdim=True).sqrt()
        return self._head(maps), torch.cat([mean, deviation], dim=1).flatten(1)

    def normalised(self, images: Tensor) -> Tensor:
        """Grey levels 0 to 255 as the backbone wants them."""
        return (images / 255 - self.config.mean) / self.config.std

    def early_shape(self, size: int) -> tuple[int, ...]:
        """`(C, H, W)` of the maps of images of `size` pixels."""
        with torch.no_grad():
            device = next(self.parameters()).device
            return tuple(self.early(torch.zeros(1, 1, size, size, device=device)).shape[1:])

    def early_state(self) -> dict[str, Tensor]:
        """The weights and statistics that `early` depends on, besides the normalisation."""
        return {
            f"{position}.{name}": value
            for position, part in enumerate(self._frozen())
            for name, value in part.state_dict().items()
        }

    def _head(self, maps: Tensor) -> Tensor:
        maps = self.backbone.bn2(self.backbone.conv_head(maps))
        return self._embed(self.backbone.forward_head(maps))

    def _embed(self, pooled: Tensor) -> Tensor:
        return F.normalize(self.projection(pooled).float(), dim=-1)

    def _frozen(self) -> list[nn.Module]:
        if not self.frozen_stages:
            return []
        stages = self.backbone.blocks[: self.frozen_stages]
        return [self.backbone.conv_stem, self.backbone.bn1, *stages]

    def load_imagenet(self) -> None:
        """Start from the backbone's ImageNet weights.

        Raises:
            ValueError: there are none at hand for this backbone.
        """
        published = imagenet_weights(self.config.backbone)
        own = self.backbone.state_dict()
        matched = dict(zip(own, published, strict=True))
        first = next(iter(own))
        matched[first] = matched[first].sum(dim=1, keepdim=True)
        self.backbone.load_state_dict(matched)

    def freeze(self, stages: int) -> None:
        """Leave the stem and the first stages as they are: they learn nothing any more.

        Args:
            stages: how many of the backbone's stages; of none the stem learns, too.

        Raises:
            ValueError: the backbone has no such stages.
        """
        known = len(self.backbone.blocks) if self.has_stages else 0
        if stages > known:
            raise ValueError(
                f"frozen_stages must be at most the {known} of {self.config.backbone}, not {stages}"
            )
        self.frozen_stages = stages
        for part in self._frozen():
            part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> ImageTower:
        """Frozen stages stay in evaluation mode: their statistics are those they came with."""
        super().train(mode)
        for part in self._frozen():
            part.eval()
        return self


class TextTower(TextEncoder):
    """Sentences to embeddings: a small CLIP text transformer with CLIP's tokenizer."""

    def __init__(self, config: ModelConfig) -> None:
        transformer = TextTransformer(
            context_length=config.text_context,
            vocab_size=VOCABULARY,
            width=config.text_width,
            heads=config.text_heads,
            layers=config.text_layers,
            output_dim=config.embed_dim,
        )
        super().__init__(transformer)


class DualEncoder(nn.Module):
    """FetalCLIP's shape in small: two towers and a learned temperature.

    Args:
        config: its shape.
        text: the text tower; a new one when not given.
    """

    def __init__(self, config: ModelConfig, text: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.image = ImageTower(config)
        self.text = TextTower(config) if text is None else text
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def preprocess(self) -> PreprocessSpec:
        """How a frame becomes the input of the image tower."""
        return self.config.preprocess

    @property
    def embed_dim(self) -> int:
        """Length of the embedding."""
        return self.config.embed_dim

    @property
    def scale(self) -> Tensor:
        """The logit scale, at most 100 as in CLIP."""
        return self.log_scale.exp().clamp(max=MAX_LOGIT_SCALE)
