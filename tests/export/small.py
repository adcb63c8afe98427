"""The published architectures at small sizes: the same classes, quick to export."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

import training.torchvision_ops  # noqa: F401  (before open_clip)
from training.models.architectures import FETALCLIP, MOBILE_FETALCLIP, Architecture
from training.models.published import PublishedModel

from open_clip import CustomTextCLIP  # isort: skip

_TEXT = {"context_length": 117, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}


def small_fetalclip() -> PublishedModel:
    """A ViT of two layers on 56 pixels, embedding of 16."""
    vision = {"image_size": 56, "layers": 2, "width": 64, "head_width": 32, "patch_size": 14}
    return _small(FETALCLIP, {"embed_dim": 16, "vision_cfg": vision, "text_cfg": _TEXT}, 56)


def small_mobile() -> PublishedModel:
    """The whole FastViT on 64 pixels, embedding of 16, with batch statistics of its own."""
    vision = {**MOBILE_FETALCLIP.config["vision_cfg"], "image_size": 64}
    model = _small(MOBILE_FETALCLIP, {"embed_dim": 16, "vision_cfg": vision, "text_cfg": _TEXT}, 64)
    for module in model.image.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def _small(architecture: Architecture, config: dict[str, object], size: int) -> PublishedModel:
    torch.manual_seed(0)
    small = replace(
        architecture, config=config, preprocess=replace(architecture.preprocess, size=size)
    )
    return PublishedModel(small, CustomTextCLIP(**config)).eval().requires_grad_(False)
