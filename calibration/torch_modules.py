"""A tower in PyTorch as quantisers want it: every product a convolution or a linear layer.

Batch normalisation goes into the convolution before it, padding as TensorFlow pads is told apart
from the convolution, and attention, which PyTorch computes in one piece, is two linear layers with
the products between them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import training.torchvision_ops  # noqa: F401  (before timm)
from export.graph import Tower
from export.published import PublishedTower

from timm.layers.conv2d_same import Conv2dSame  # isort: skip
from timm.layers.padding import get_same_padding  # isort: skip

__all__ = ["Attention", "prepared"]

_NEAR = 1e-3


def prepared(tower: Tower) -> Tower:
    """A copy of a tower that gives the same, in layers that can be quantised.

    Args:
        tower: a module in evaluation mode.

    Raises:
        ValueError: the copy would not give the same.
    """
    found = copy.deepcopy(cast(nn.Module, tower)).eval().requires_grad_(False)
    if isinstance(found, PublishedTower):
        found.forget_original()
    _fold_batch_norms(found)
    _replace(found, _without_same_padding)
    _replace(found, _in_linear_layers)
    size = tower.config.image_size
    noise = torch.randn(2, 1, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted, given = (t.embed_and_characterise(noise)[0] for t in (tower, cast(Tower, found)))
    if not torch.allclose(wanted, given, atol=_NEAR):
        off = float((wanted - given).abs().max())
        raise ValueError(
            f"{tower.config.backbone} cannot be quantised in PyTorch: without batch normalisation "
            f"its embeddings differ by {off:.2g}; choose another method"
        )
    return cast(Tower, found)


class Attention(nn.Module):
    """What `nn.MultiheadAttention` gives where query, key and value are one, batch first."""

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        width, self.heads = original.embed_dim, original.num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        weight, bias = original.in_proj_weight, original.in_proj_bias
        with torch.no_grad():
            self.qkv.weight.copy_(weight)
            self.qkv.bias.copy_(bias)
            self.out.weight.copy_(original.out_proj.weight)
            self.out.bias.copy_(original.out_proj.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, **_told: object
    ) -> tuple[Tensor, None]:
        """Attention of `(N, L, C)` to itself; other arguments are those of an encoder."""
        count, length, width = query.shape
        parts = self.qkv(query).reshape(count, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(count, length, width)), None


def _in_linear_layers(module: nn.Module) -> nn.Module:
    plain = isinstance(module, nn.MultiheadAttention) and module.batch_first
    if not plain:
        return module
    original = cast(nn.MultiheadAttention, module)
    if original.in_proj_weight is None or original.in_proj_bias is None:
        return module
    return Attention(original)


def _without_same_padding(module: nn.Module) -> nn.Module:
    """A plain convolution that pads before it is called, so that a quantiser can sit in it."""
    if type(module) is not Conv2dSame:
        return module
    same: Any = module
    plain = nn.Conv2d(
        same.in_channels,
        same.out_channels,
        same.kernel_size,
        same.stride,
        dilation=same.dilation,
        groups=same.groups,
        bias=same.bias is not None,
    )
    plain.load_state_dict(module.state_dict())
    plain.register_forward_pre_hook(_pad_as_tensorflow)
    return plain.eval().requires_grad_(False)


def _pad_as_tensorflow(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    conv = cast(nn.Conv2d, module)
    high, wide = (
        get_same_padding(int(size), conv.kernel_size[i], conv.stride[i], conv.dilation[i])
        for i, size in enumerate(given[0].shape[-2:])
    )
    pads = (wide // 2, wide - wide // 2, high // 2, high - high // 2)
    return (F.pad(given[0], pads), *given[1:])


def _replace(parent: nn.Module, convert: Callable[[nn.Module], nn.Module]) -> None:
    for name, child in list(parent.named_children()):
        new = convert(child)
        if new is child:
            _replace(child, convert)
        else:
            setattr(parent, name, new)


def _fold_batch_norms(parent: nn.Module) -> None:
    """Fold those that are defined right after their convolution, as timm's all are."""
    before: tuple[str, nn.Conv2d] | None = None
    for name, child in list(parent.named_children()):
        if isinstance(child, nn.BatchNorm2d) and before is not None:
            where, conv = before
            if conv.out_channels == child.num_features:
                setattr(parent, where, fuse_conv_bn_eval(conv, child))
                setattr(parent, name, _after_norm(child))
                before = None
                continue
        _fold_batch_norms(child)
        if isinstance(child, nn.Conv2d):
            before = (name, child)
        elif not isinstance(child, nn.Identity):
            before = None


def _after_norm(norm: nn.BatchNorm2d) -> nn.Module:
    """The activation that timm keeps in its batch normalisation."""
    activation = getattr(norm, "act", None)
    return nn.Identity() if activation is None else cast(nn.Module, activation)
