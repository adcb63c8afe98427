"""What the published models are: their shapes, their preprocessing, the names in their files.

From their authors' configurations: FetalCLIP_config.json (github.com/BioMedIA-MBZUAI/FetalCLIP)
and mobileclip2_s0_fetal.json (github.com/numanai/MobileFetalCLIP).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import training.torchvision_ops  # noqa: F401  (before timm and open_clip)
from fetalclip_edge.preprocess import CLIP_MEAN, CLIP_STD, PreprocessSpec

from open_clip import CLIP, CustomTextCLIP  # isort: skip
from timm.models.fastvit import checkpoint_filter_fn  # isort: skip

__all__ = ["ARCHITECTURES", "FETALCLIP", "MOBILE_FETALCLIP", "Architecture", "causal_mask"]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_CONTEXT = 117
_TRUNK = "visual.trunk."


@dataclass(frozen=True, slots=True)
class Architecture:
    """One published model.

    Attributes:
        title: its name as its authors write it.
        loader: name of the function that loads it.
        file: name of the file that its authors publish.
        config: open_clip's description of it.
        layout: the class of open_clip that names its tensors as the file does.
        translate: brings the other names that a file may use to those of `layout`.
    """

    name: str
    title: str
    loader: str
    file: str
    url: str
    credit: str
    preprocess: PreprocessSpec
    config: dict[str, Any]
    layout: type[nn.Module]
    translate: Callable[[dict[str, Tensor]], dict[str, Tensor]]

    def wanted(self) -> dict[str, Tensor]:
        """Names and shapes of the tensors of a file, without storage."""
        with torch.device("meta"):
            return dict(self.layout(**self.config).state_dict())


def causal_mask(length: int) -> Tensor:
    """What keeps a token from seeing later ones: added to the attention, `(length, length)`."""
    return torch.full((length, length), -torch.inf).triu(1)


def _without_causal_mask(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out a constant of the text tower, which open_clip does not save and others may."""
    mask = tensors.get("attn_mask")
    if mask is None or not torch.equal(mask.float(), causal_mask(_CONTEXT)):
        return tensors
    return {name: tensor for name, tensor in tensors.items() if tensor is not mask}


def _with_timms_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename an image tower that was trained with Apple's code for MCi0.

    MobileFetalCLIP's authors put Apple's module in the place of timm's: the same network, other
    names. timm keeps the table.
    """
    if f"{_TRUNK}patch_embed.0.rbr_conv.0.conv.weight" not in tensors:
        return tensors
    trunk = {
        name.removeprefix(_TRUNK): tensor
        for name, tensor in tensors.items()
        if name.startswith(_TRUNK)
    }
    renamed = checkpoint_filter_fn(trunk, None)
    others = {name: t for name, t in tensors.items() if not name.startswith(_TRUNK)}
    return others | {_TRUNK + name: tensor for name, tensor in renamed.items()}


def _preprocess(
    size: int, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> PreprocessSpec:
    return PreprocessSpec(
        size=size,
        color="rgb",
        mean=mean,
        std=std,
        interpolation="bicubic",
        padding="square",
        dtype="uint8",
    )


FETALCLIP = Architecture(
    name="fetalclip",
    title="FetalCLIP",
    loader="load_fetalclip",
    file="FetalCLIP_weights.pt",
    url="https://huggingface.co/numansaeed/fetalclip-model",
    credit=(
        "FetalCLIP, Maani, Saeed, Saleem, Farooq et al., Mohamed bin Zayed University of "
        "Artificial Intelligence and Corniche Hospital, arXiv 2502.14807"
    ),
    preprocess=_preprocess(224, CLIP_MEAN, CLIP_STD),
    config={
        "embed_dim": 768,
        "vision_cfg": {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14},
        "text_cfg": {
            "context_length": _CONTEXT,
            "vocab_size": 49408,
            "width": 768,
            "heads": 12,
            "layers": 12,
        },
    },
    layout=CLIP,
    translate=_without_causal_mask,
)

MOBILE_FETALCLIP = Architecture(
    name="mobile-fetalclip",
    title="MobileFetalCLIP",
    loader="load_mobile_fetalclip",
    file="mobile_fetal_clip_weights.pt",
    url="https://huggingface.co/numansaeed/MobileFetalCLIP",
    credit="MobileFetalCLIP, Saeed, Maani and Yaqub, arXiv 2603.05421",
    preprocess=_preprocess(256, _IMAGENET_MEAN, _IMAGENET_STD),
    config={
        "embed_dim": 512,
        "vision_cfg": {
            "timm_model_name": "fastvit_mci0",
            "timm_pool": "avg",
            "timm_proj": None,
            "timm_drop_path": 0.0,
            "image_size": 256,
        },
        "text_cfg": {
            "context_length": _CONTEXT,
            "vocab_size": 49408,
            "width": 512,
            "heads": 8,
            "layers": 12,
            "no_causal_mask": True,
        },
    },
    layout=CustomTextCLIP,
    translate=_with_timms_names,
)

ARCHITECTURES = (FETALCLIP, MOBILE_FETALCLIP)
