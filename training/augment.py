"""Augmentation that ultrasound allows: what another probe, gain or hand would have changed.

Works on whole batches of tensors, since on a workstation without a GPU Python's overhead per
image would cost as much as the network.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

__all__ = ["augment", "resize_all"]


def augment(images: Tensor, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw a random view of every image.

    Geometry (rotation, zoom, aspect, shift, left-right flip; never upside down, the probe is
    above), tone (gamma, gain, time-gain compensation along depth), acoustic shadow, speckle,
    blur, and rectangles of missing picture.

    Args:
        images: uint8 `(N, 1, S, S)`.
        size: side of the views, in pixels.
        rng: source of randomness.

    Returns:
        Views, float32 `(N, 1, size, size)` in grey levels 0 to 255, and the zoom `(N,)` of each:
        above 1 the anatomy looks larger, so a pixel covers less of it.
    """
    views, zoom = _geometry(images.float() / 255, size, rng)
    inside = views > 0.02
    views = _tone(views, rng)
    views = _shadow(views, rng)
    views = _speckle(views, rng)
    # What was black (outside the sector) stays black, as on a scanner.
    views = _blur(torch.where(inside, views, views.clamp(max=0.02)), rng)
    return _erase(views, rng).clamp(0, 1) * 255, zoom


def resize_all(images: Tensor, size: int) -> Tensor:
    """The images without augmentation, antialiased, as float32 grey levels 0 to 255."""
    if images.shape[-1] == size:
        return images.float()
    return F.interpolate(
        images.float(), size=(size, size), mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 255)


def _uniform(shape: tuple[int, ...], low: float, high: float, rng: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=rng)


def _chance(count: int, probability: float, rng: torch.Generator) -> Tensor:
    return (torch.rand((count, 1, 1, 1), generator=rng) < probability).float()


def _geometry(images: Tensor, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    count = len(images)
    angle = _uniform((count,), -25, 25, rng) * math.pi / 180
    zoom = torch.exp(_uniform((count,), math.log(0.8), math.log(1.3), rng))
    aspect = torch.exp(_uniform((count,), -0.08, 0.08, rng))
    flip = torch.where(torch.rand((count,), generator=rng) < 0.5, -1.0, 1.0)
    shift = _uniform((count, 2), -0.12, 0.12, rng)
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.stack(
        [
            torch.stack([flip * cos / (zoom * aspect), -sin / zoom, shift[:, 0]], dim=1),
            torch.stack([flip * sin / zoom, cos * aspect / zoom, shift[:, 1]], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta, [count, 1, size, size], align_corners=False)
    return F.grid_sample(images, grid, align_corners=False), zoom


def _tone(views: Tensor, rng: torch.Generator) -> Tensor:
    count = len(views)
    gamma = torch.exp(_uniform((count, 1, 1, 1), -0.45, 0.45, rng))
    gain = _uniform((count, 1, 1, 1), 0.75, 1.25, rng)
    depth = torch.linspace(-1, 1, views.shape[-2]).view(1, 1, -1, 1)
    compensation = torch.exp(_uniform((count, 1, 1, 1), -0.35, 0.35, rng) * depth)
    return views.clamp(min=1e-4) ** gamma * gain * compensation


def _shadow(views: Tensor, rng: torch.Generator) -> Tensor:
    """Darken a wedge below a point near the probe, with soft edges."""
    count, _, height, width = views.shape
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    bearing = torch.atan2(x, y + 0.25)
    centre = _uniform((count, 1, 1, 1), -0.6, 0.6, rng)
    breadth = _uniform((count, 1, 1, 1), 0.03, 0.12, rng)
    strength = _uniform((count, 1, 1, 1), 0.3, 0.9, rng) * _chance(count, 0.3, rng)
    start = _uniform((count, 1, 1, 1), 0.0, 0.6, rng)
    wedge = torch.exp(-(((bearing - centre) / breadth) ** 2)) * (y > start)
    return views * (1 - strength * wedge)


def _speckle(views: Tensor, rng: torch.Generator) -> Tensor:
    count, _, height, width = views.shape
    coarse = torch.randn((count, 1, height // 2, width // 2), generator=rng)
    grain = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    level = _uniform((count, 1, 1, 1), 0.0, 0.25, rng) * _chance(count, 0.5, rng)
    return views * (1 + level * grain)


def _blur(views: Tensor, rng: torch.Generator) -> Tensor:
    """Mix with a blurred copy; a negative share sharpens."""
    smooth = F.avg_pool2d(views, 3, stride=1, padding=1, count_include_pad=False)
    share = _uniform((len(views), 1, 1, 1), -0.4, 1.0, rng) * _chance(len(views), 0.5, rng)
    return views + share * (smooth - views)


def _erase(views: Tensor, rng: torch.Generator) -> Tensor:
    count, _, height, width = views.shape
    rows = torch.arange(height).view(1, 1, -1, 1)
    columns = torch.arange(width).view(1, 1, 1, -1)
    for _ in range(2):
        top = _uniform((count, 1, 1, 1), 0, height, rng)
        left = _uniform((count, 1, 1, 1), 0, width, rng)
        tall = _uniform((count, 1, 1, 1), 0.05, 0.3, rng) * height
        wide = _uniform((count, 1, 1, 1), 0.05, 0.3, rng) * width
        box = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
        views = torch.where(box & (_chance(count, 0.3, rng) > 0), torch.zeros(()), views)
    return views
