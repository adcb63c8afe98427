"""Class activation maps: where in an image a similarity with a prompt comes from (Grad-CAM).

The maps' pictures show patients' images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from training.evaluation.encoders import NotMeasurableError
from training.evaluation.pictures import save

__all__ = ["Shown", "activation_map", "draw_activations"]


@dataclass(frozen=True, slots=True)
class Shown:
    """One image of a picture.

    Attributes:
        levels: grey levels uint8 `(S, S)`.
        weights: 0 to 1, `(S, S)`.
        title: what it is and was taken for.
    """

    levels: NDArray[np.uint8]
    weights: NDArray[np.float32]
    title: str


def activation_map(
    tower: nn.Module, levels: NDArray[np.uint8], prompt: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Where one image's cosine with a prompt comes from.

    Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) on the last map in front of the embedding:
    the last convolution's in a convolutional network. In a transformer whose class token alone
    is read, patch tokens matter last as keys and values of the last block, so its tokens before
    attention are taken.

    Args:
        tower: grey levels `(1, 1, S, S)` to an embedding `(1, D)`.
        levels: the image, `(1, 1, S, S)`.
        prompt: embedding `(D,)`, L2-normalised.

    Returns:
        float32 `(S, S)`, 0 to 1; all 0 where nothing speaks for the prompt.

    Raises:
        NotMeasurableError: the tower has no map or tokens.
    """
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad and _is_map(output):
            outputs.append(output)

    # Inside an attention there are maps of heads by tokens, which are not maps of the image.
    hooks = [
        module.register_forward_hook(keep)
        for name, module in tower.named_modules()
        if name and not any(part.startswith("attn") for part in name.split("."))
    ]
    try:
        device = next(iter(tower.parameters())).device
        pixels = torch.from_numpy(levels).to(device).float().requires_grad_()
        with torch.enable_grad():
            embedding = tower(pixels)[0]
            similarity = embedding @ torch.from_numpy(prompt).to(embedding)
    finally:
        for hook in hooks:
            hook.remove()
    # From the last on: what lies behind the one that is wanted need not be gone through again.
    for output in reversed(outputs):
        [gradient] = torch.autograd.grad(similarity, output, retain_graph=True, allow_unused=True)
        if gradient is not None and bool(_as_map(gradient).abs().any()):
            return _combine(_as_map(output.detach()), _as_map(gradient), levels.shape[-1])
    raise NotMeasurableError("the image tower has no feature map or patch tokens to look at")


def _is_map(output: Tensor) -> bool:
    if output.ndim == 4:
        return min(output.shape[2:]) > 1
    return output.ndim == 3 and output.shape[0] == 1 and math.isqrt(output.shape[1]) > 1


def _as_map(tensor: Tensor) -> Tensor:
    """A convolution's map as it is; tokens as a square map, without those ahead of the patches."""
    if tensor.ndim == 4:
        return tensor
    side = math.isqrt(tensor.shape[1])
    patches = tensor[:, tensor.shape[1] - side * side :]
    return patches.transpose(1, 2).reshape(1, -1, side, side)


def _combine(activations: Tensor, slopes: Tensor, size: int) -> NDArray[np.float32]:
    weights = slopes.mean(dim=(2, 3), keepdim=True)
    found = (weights * activations).sum(dim=1, keepdim=True).relu()
    large = F.interpolate(found, (size, size), mode="bilinear", align_corners=False)[0, 0]
    peak = float(large.max())
    scaled = large / peak if peak > 0 else large
    array: NDArray[np.float32] = scaled.float().cpu().numpy()
    return array


def draw_activations(images: Sequence[Shown], path: Path) -> None:
    """Draw each image beside itself with its map laid over. The picture shows patients' images."""
    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(4.4 * columns, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, 2 * columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        plain, overlaid = axes[row, 2 * column], axes[row, 2 * column + 1]
        for axis in (plain, overlaid):
            axis.imshow(image.levels, cmap="gray", vmin=0, vmax=255)
        overlaid.imshow(image.weights, cmap="inferno", alpha=0.5 * image.weights, vmin=0, vmax=1)
        plain.set_title(image.title, fontsize=8, loc="left")
    figure.suptitle("Shows patients' images: not to be published without the right to", fontsize=8)
    save(figure, path)
