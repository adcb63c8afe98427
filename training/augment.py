"""Augmentation that ultrasound allows: what another probe, gain or hand would have changed.

A view is drawn by its number alone, whatever its size: a teacher can look at the same view at its
own resolution, a cache can keep what it saw, and it matters not which process draws it. The work
is done on whole batches, since on a workstation without a GPU Python's overhead per image would
cost as much as the network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from training.seeding import generator

__all__ = ["VIEWS_VERSION", "draw_pairs", "draw_views", "resize_all"]

VIEWS_VERSION = 2
"""Counted up when the same number would draw another view; caches of views depend on it."""

_NUMBERS = 40  # uniform random numbers that a view takes at most
_GRAIN = 112  # speckle is drawn at this size, so that a view is the same at every size
_MARGIN = 1.2  # an image is first shrunk to so many times the view, against aliasing


def draw_views(
    images: Tensor, keys: Sequence[tuple[str, int]], size: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Views of images, by name and number.

    Geometry (rotation, zoom, aspect, shift, left-right flip; never upside down, the probe is
    above), tone (gamma, gain, rejection of faint echoes, time-gain compensation along depth),
    acoustic shadow, speckle, blur up to that of a coarse probe, and rectangles of missing picture.

    Args:
        images: uint8 `(N, 1, S, S)`.
        keys: for each image, its name and the number of the view.
        size: side of the views, in pixels.
        seed: of all the views.

    Returns:
        Views, float32 `(N, 1, size, size)` in grey levels 0 to 255, and the zoom `(N,)` of each:
        above 1 the anatomy looks larger, so a pixel covers less of it.
    """
    dice = _Dice([(seed, name, number) for name, number in keys])
    canvas = min(images.shape[-1], round(_MARGIN * size))
    views, zoom = _geometry(resize_all(images, canvas) / 255, size, dice)
    return _seen(views, dice), zoom


def draw_pairs(
    images: Tensor, masks: Tensor, keys: Sequence[tuple[str, int]], size: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Views of images as `draw_views` draws them, and of masks by the same geometry.

    Args:
        images: uint8 `(N, 1, S, S)`.
        masks: uint8 `(N, 1, S, S)`, 255 inside; levels between at the edge.
        keys: for each image, its name and the number of the view.
        size: side of the views, in pixels.
        seed: of all the views.

    Returns:
        Views, float32 `(N, 1, size, size)` in grey levels 0 to 255, and masks likewise, 0 to 1.
    """
    dice = _Dice([(seed, name, number) for name, number in keys])
    canvas = min(images.shape[-1], round(_MARGIN * size))
    both = torch.cat([resize_all(images, canvas), resize_all(masks, canvas)], dim=1) / 255
    pairs, _ = _geometry(both, size, dice)
    return _seen(pairs[:, :1], dice), pairs[:, 1:]


def _seen(views: Tensor, dice: _Dice) -> Tensor:
    """What tone, shadow, speckle, blur and missing picture make of views 0 to 1, as 0 to 255."""
    inside = views > 0.02
    views = _tone(views, dice)
    views = _shadow(views, dice)
    views = _speckle(views, dice)
    # What was black (outside the sector) stays black, as on a scanner.
    views = _blur(torch.where(inside, views, views.clamp(max=0.02)), dice)
    return _erase(views, dice).clamp(0, 1) * 255


def resize_all(images: Tensor, size: int) -> Tensor:
    """The images without augmentation, antialiased, as float32 grey levels 0 to 255."""
    if images.shape[-1] == size:
        return images.float()
    return F.interpolate(
        images.float(), size=(size, size), mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 255)


class _Dice:
    """The random numbers of a batch of views, each view's from its own key."""

    def __init__(self, keys: Sequence[tuple[int, str, int]]) -> None:
        numbers, grains = [], []
        for key in keys:
            rng = generator(*key)
            numbers.append(torch.rand(_NUMBERS, generator=rng))
            grains.append(torch.randn((1, _GRAIN, _GRAIN), generator=rng))
        self._columns = iter(torch.stack(numbers, dim=1))
        self.grain = torch.stack(grains)

    def uniform(self, low: float, high: float) -> Tensor:
        """`(N, 1, 1, 1)` numbers between `low` and `high`."""
        column: Tensor = next(self._columns)
        return (low + (high - low) * column).view(-1, 1, 1, 1)

    def chance(self, probability: float) -> Tensor:
        """`(N, 1, 1, 1)` of 1 with that probability, else 0."""
        return (self.uniform(0, 1) < probability).float()


def _geometry(images: Tensor, size: int, dice: _Dice) -> tuple[Tensor, Tensor]:
    angle = dice.uniform(-25, 25).flatten() * math.pi / 180
    zoom = torch.exp(dice.uniform(math.log(0.8), math.log(1.3)).flatten())
    aspect = torch.exp(dice.uniform(-0.08, 0.08).flatten())
    flip = 1 - 2 * dice.chance(0.5).flatten()
    right, down = (dice.uniform(-0.12, 0.12).flatten() for _ in range(2))
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.stack(
        [
            torch.stack([flip * cos / (zoom * aspect), -sin / zoom, right], dim=1),
            torch.stack([flip * sin / zoom, cos * aspect / zoom, down], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta, [*images.shape[:2], size, size], align_corners=False)
    return F.grid_sample(images, grid, align_corners=False), zoom


def _tone(views: Tensor, dice: _Dice) -> Tensor:
    gamma = torch.exp(dice.uniform(-0.5, 0.5))
    gain = dice.uniform(0.75, 1.25)
    # Scanners differ in the echo below which they show black.
    reject = dice.uniform(0.0, 0.12) * dice.chance(0.5)
    views = (views - reject).clamp(min=0) / (1 - reject)
    depth = torch.linspace(-1, 1, views.shape[-2]).view(1, 1, -1, 1)
    compensation = torch.exp(dice.uniform(-0.35, 0.35) * depth)
    return views.clamp(min=1e-4) ** gamma * gain * compensation


def _shadow(views: Tensor, dice: _Dice) -> Tensor:
    """Darken a wedge below a point near the probe, with soft edges."""
    height, width = views.shape[-2:]
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    bearing = torch.atan2(x, y + 0.25)
    centre = dice.uniform(-0.6, 0.6)
    breadth = dice.uniform(0.03, 0.12)
    strength = dice.uniform(0.3, 0.9) * dice.chance(0.3)
    start = dice.uniform(0.0, 0.6)
    wedge = torch.exp(-(((bearing - centre) / breadth) ** 2)) * (y > start)
    return views * (1 - strength * wedge)


def _speckle(views: Tensor, dice: _Dice) -> Tensor:
    grain = F.interpolate(dice.grain, size=views.shape[-2:], mode="bilinear", align_corners=False)
    level = dice.uniform(0.0, 0.25) * dice.chance(0.5)
    return views * (1 + level * grain)


def _blur(views: Tensor, dice: _Dice) -> Tensor:
    """Mix with a blurred copy, sometimes blurred again; a negative share sharpens."""
    smooth = F.avg_pool2d(views, 3, stride=1, padding=1, count_include_pad=False)
    share = dice.uniform(-0.4, 1.0) * dice.chance(0.5)
    views = views + share * (smooth - views)
    smooth = F.avg_pool2d(views, 5, stride=1, padding=2, count_include_pad=False)
    return views + dice.uniform(0.0, 1.0) * dice.chance(0.2) * (smooth - views)


def _erase(views: Tensor, dice: _Dice) -> Tensor:
    height, width = views.shape[-2:]
    rows = (torch.arange(height) / height).view(1, 1, -1, 1)
    columns = (torch.arange(width) / width).view(1, 1, 1, -1)
    for _ in range(2):
        top, left = dice.uniform(0, 1), dice.uniform(0, 1)
        tall, wide = dice.uniform(0.05, 0.3), dice.uniform(0.05, 0.3)
        box = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
        views = torch.where(box & (dice.chance(0.3) > 0), torch.zeros(()), views)
    return views
