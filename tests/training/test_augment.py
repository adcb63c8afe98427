"""Random views: what they may change, and that their zoom is the one the pixels show."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.augment import augment, resize_all


def disc(side: int, radius: float, count: int = 1) -> Tensor:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    picture = np.where(x**2 + y**2 <= radius**2, 255, 0).astype(np.uint8)
    return torch.from_numpy(np.repeat(picture[None, None], count, axis=0))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_zoom_above_one_makes_the_anatomy_larger_by_as_much() -> None:
    side, size, radius = 192, 128, 30
    views, zoom = augment(disc(side, radius, 300), size, rng())
    # Geometry keeps areas but for the zoom, also under rotation and aspect.
    seen = torch.sqrt((views > 10).sum(dim=(1, 2, 3)) / torch.pi) / (radius * size / side)
    ratio = seen / zoom
    # Views with a missing rectangle are the outliers below; most have none over the disc.
    assert abs(float(ratio.median()) - 1) < 0.03
    assert float(((ratio - 1).abs() < 0.06).float().mean()) > 0.7
    assert 0.8 <= float(zoom.min()) < 0.85
    assert 1.25 < float(zoom.max()) <= 1.3


def test_views_are_grey_levels_of_the_size_asked_for() -> None:
    noise = torch.randint(0, 256, (6, 1, 64, 64), generator=rng(1), dtype=torch.uint8)
    views, zoom = augment(noise, 32, rng())
    assert views.shape == (6, 1, 32, 32)
    assert views.dtype == torch.float32
    assert zoom.shape == (6,)
    assert float(views.min()) >= 0
    assert float(views.max()) <= 255
    assert float(views.max()) > 100  # grey levels, not 0 to 1


def test_a_seed_gives_the_same_views_again_and_another_seed_others() -> None:
    noise = torch.randint(0, 256, (4, 1, 64, 64), generator=rng(1), dtype=torch.uint8)
    once, again, other = (augment(noise, 32, rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(once[0], again[0])
    assert torch.equal(once[1], again[1])
    assert not torch.equal(once[0], other[0])


def test_the_images_in_memory_are_left_alone() -> None:
    images = disc(64, 20, 3)
    before = images.clone()
    augment(images, 64, rng())
    assert torch.equal(images, before)


def test_black_stays_black() -> None:
    views, _ = augment(torch.zeros((50, 1, 64, 64), dtype=torch.uint8), 64, rng())
    assert float(views.max()) <= 0.02 * 255 + 1e-4


def test_the_probe_stays_above() -> None:
    images = torch.zeros((200, 1, 96, 96), dtype=torch.uint8)
    images[:, :, 8:24, 40:56] = 255
    views, _ = augment(images, 96, rng())
    rows = torch.arange(96.0).view(1, 1, -1, 1)
    light = torch.where(views > 20, views, torch.zeros(()))
    seen = light.sum(dim=(1, 2, 3)) > 0
    height = (light * rows).sum(dim=(1, 2, 3))[seen] / light.sum(dim=(1, 2, 3))[seen]
    assert int(seen.sum()) > 150
    assert float(height.max()) < 48


def test_some_views_are_mirrored_and_some_are_not() -> None:
    images = torch.zeros((100, 1, 96, 96), dtype=torch.uint8)
    images[:, :, 40:56, 4:32] = 255
    views, _ = augment(images, 96, rng())
    left, right = views[..., :48].sum(dim=(1, 2, 3)), views[..., 48:].sum(dim=(1, 2, 3))
    assert 20 < int((left < right).sum()) < 80


def test_resizing_without_augmentation_is_pillows_to_a_grey_level() -> None:
    # Away from the ends: Pillow clips overshoot between its two passes, torch only at the end.
    noise = np.random.default_rng(0).integers(80, 176, (96, 96)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC))
    [[resized]] = resize_all(torch.from_numpy(noise)[None, None], 64).numpy()
    assert np.abs(resized - expected).max() <= 1.0


def test_an_image_of_the_right_size_is_only_made_float() -> None:
    images = disc(32, 10)
    assert torch.equal(resize_all(images, 32), images.float())
