"""A light decoder on an image tower's maps: where in the picture the fetal head is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

__all__ = ["DecoderConfig", "HeadDecoder"]

_KERNEL = 5


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Shape of a decoder; one number a scale, finest first.

    Attributes:
        channels: of the maps it reads.
        widths: of its own maps at the same scales.
        depths: blocks at each scale.
        expansion: how many times wider a block is inside.
    """

    channels: tuple[int, ...]
    widths: tuple[int, ...] = (24, 64, 96, 96)
    depths: tuple[int, ...] = (1, 2, 3, 2)
    expansion: int = 2

    def __post_init__(self) -> None:
        for name in ("channels", "widths", "depths"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if not values or not all(isinstance(v, int) and v >= 1 for v in values):
                raise ValueError(f"{name} must be whole numbers of at least 1, not {values}")
        if not len(self.channels) == len(self.widths) == len(self.depths):
            raise ValueError("channels, widths and depths must have one number for each scale")
        if self.expansion < 1:
            raise ValueError(f"expansion must be at least 1, not {self.expansion}")

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


class HeadDecoder(nn.Module):
    """Maps at several scales to the head's logits at the finest of them.

    Top down as in a feature pyramid (Lin et al., arXiv 1612.03144), in blocks that cost little:
    a depthwise convolution that looks around, and two pointwise ones.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        shapes = list(zip(config.channels, config.widths, strict=True))
        self.sides = nn.ModuleList(_pointwise(inside, width) for inside, width in shapes)
        coarser = zip(config.widths[1:], config.widths, strict=False)
        self.downs = nn.ModuleList(_pointwise(above, width) for above, width in coarser)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(_Block(width, config.expansion) for _ in range(depth)))
            for width, depth in zip(config.widths, config.depths, strict=True)
        )
        self.logits = nn.Conv2d(config.widths[0], 1, 1)

    def forward(self, pyramid: tuple[Tensor, ...]) -> Tensor:
        """Logits `(N, 1, H, W)` of maps `(N, C, H, W)`, the finest first."""
        maps: Tensor | None = None
        for scale in reversed(range(len(pyramid))):
            side = self.sides[scale](pyramid[scale])
            if maps is not None:
                # Nearest: every runtime has it, and the block smooths what it leaves.
                side = side + F.interpolate(self.downs[scale](maps), scale_factor=2, mode="nearest")
            maps = self.blocks[scale](F.relu(side))
        logits: Tensor = self.logits(maps)
        return logits


def _pointwise(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, 1, bias=False), nn.BatchNorm2d(outside))


class _Block(nn.Module):
    """Looks around channel by channel, then mixes channels; added to what came in."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.around = nn.Sequential(
            nn.Conv2d(width, width, _KERNEL, padding=_KERNEL // 2, groups=width, bias=False),
            nn.BatchNorm2d(width),
        )
        self.wide = _pointwise(width, width * expansion)
        self.narrow = _pointwise(width * expansion, width)

    def forward(self, maps: Tensor) -> Tensor:
        mixed: Tensor = self.narrow(F.relu(self.wide(self.around(maps))))
        return maps + mixed
