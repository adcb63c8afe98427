"""The published architectures at small sizes: the same classes, quick to train and to export."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import training.torchvision_ops  # noqa: F401  (before open_clip)
from training.models.architectures import FETALCLIP, MOBILE_FETALCLIP, Architecture
from training.models.published import PublishedModel

from open_clip import CustomTextCLIP  # isort: skip

_TEXT = {"context_length": 117, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}


def _small(architecture: Architecture, vision: dict[str, object], size: int) -> Architecture:
    text = {**architecture.config["text_cfg"], **_TEXT}
    config = {"embed_dim": 16, "vision_cfg": {**vision, "image_size": size}, "text_cfg": text}
    return replace(
        architecture, config=config, preprocess=replace(architecture.preprocess, size=size)
    )


SMALL_FETALCLIP = _small(
    FETALCLIP, {"layers": 2, "width": 64, "head_width": 32, "patch_size": 14}, 56
)
"""A ViT of two layers on 56 pixels, embedding of 16."""

SMALL_MOBILE = _small(MOBILE_FETALCLIP, MOBILE_FETALCLIP.config["vision_cfg"], 64)
"""The whole FastViT on 64 pixels, embedding of 16."""


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the test the published architectures, and so the files that fit them, are small."""
    both = (SMALL_FETALCLIP, SMALL_MOBILE)
    monkeypatch.setattr("training.models.published.FETALCLIP", SMALL_FETALCLIP)
    monkeypatch.setattr("training.models.published.MOBILE_FETALCLIP", SMALL_MOBILE)
    monkeypatch.setattr("training.models.published.ARCHITECTURES", both)
    monkeypatch.setattr("training.models.untrained.ARCHITECTURES", both)


def small_fetalclip() -> PublishedModel:
    """That ViT with random weights."""
    return _made(SMALL_FETALCLIP)


def small_mobile() -> PublishedModel:
    """That FastViT with random weights, and batch statistics of its own."""
    model = _made(SMALL_MOBILE)
    for module in model.image.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def _made(small: Architecture) -> PublishedModel:
    torch.manual_seed(0)
    return PublishedModel(small, CustomTextCLIP(**small.config)).eval().requires_grad_(False)
