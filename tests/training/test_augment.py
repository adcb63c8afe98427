"""Random views: what they may change, and that their zoom is the one the pixels show."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.augment import draw_pairs, draw_views, resize_all


def disc(side: int, radius: float, count: int = 1) -> Tensor:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    picture = np.where(x**2 + y**2 <= radius**2, 255, 0).astype(np.uint8)
    return torch.from_numpy(np.repeat(picture[None, None], count, axis=0))


def augment(images: Tensor, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    return draw_views(images, [("image", number) for number in range(len(images))], size, seed)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_zoom_above_one_makes_the_anatomy_larger_by_as_much() -> None:
    side, size, radius = 192, 128, 45
    views, zoom = augment(disc(side, radius, 300), size)
    # Geometry keeps areas but for the zoom, also under rotation and aspect.
    seen = torch.sqrt((views > 25).sum(dim=(1, 2, 3)) / torch.pi) / (radius * size / side)
    ratio = seen / zoom
    # Views with a missing rectangle are the outliers below; most have none over the disc.
    assert abs(float(ratio.median()) - 1) < 0.03
    assert float(((ratio - 1).abs() < 0.06).float().mean()) > 0.7
    assert 0.8 <= float(zoom.min()) < 0.85
    assert 1.25 < float(zoom.max()) <= 1.3


def test_views_are_grey_levels_of_the_size_asked_for() -> None:
    noise = torch.randint(0, 256, (6, 1, 64, 64), generator=rng(1), dtype=torch.uint8)
    views, zoom = augment(noise, 32)
    assert views.shape == (6, 1, 32, 32)
    assert views.dtype == torch.float32
    assert zoom.shape == (6,)
    assert float(views.min()) >= 0
    assert float(views.max()) <= 255
    assert float(views.max()) > 100  # grey levels, not 0 to 1


def test_a_seed_gives_the_same_views_again_and_another_seed_others() -> None:
    noise = torch.randint(0, 256, (4, 1, 64, 64), generator=rng(1), dtype=torch.uint8)
    once, again, other = (augment(noise, 32, seed) for seed in (3, 3, 4))
    assert torch.equal(once[0], again[0])
    assert torch.equal(once[1], again[1])
    assert not torch.equal(once[0], other[0])


def test_a_view_follows_from_name_and_number_whatever_is_drawn_beside_it() -> None:
    noise = torch.randint(0, 256, (4, 1, 64, 64), generator=rng(1), dtype=torch.uint8)
    keys = [("a", 0), ("b", 0), ("a", 1), ("b", 7)]
    together, zooms = draw_views(noise, keys, 32, seed=0)
    alone, zoom = draw_views(noise[3:], [("b", 7)], 32, seed=0)
    torch.testing.assert_close(alone[0], together[3])
    assert zoom[0] == zooms[3]
    assert len(set(zooms.tolist())) == 4


def test_a_view_is_the_same_at_every_size() -> None:
    # A smooth picture, so that sizes differ by little but their sampling.
    y, x = np.mgrid[:192, :192] / 191
    picture = (127 + 100 * np.sin(3 * x + 1) * np.cos(4 * y)).astype(np.uint8)
    images = torch.from_numpy(np.repeat(picture[None, None], 40, axis=0))
    (small, zooms), (large, same) = augment(images, 64), augment(images, 128)
    assert torch.equal(zooms, same)
    shrunk = torch.nn.functional.avg_pool2d(large, 2)
    difference = (small - shrunk).abs().flatten(1)
    assert float(difference.median()) < 4
    # Other views of the same picture are far apart.
    assert float((small - small.roll(1, dims=0)).abs().flatten(1).median()) > 15


def test_the_images_in_memory_are_left_alone() -> None:
    images = disc(64, 20, 3)
    before = images.clone()
    augment(images, 64)
    assert torch.equal(images, before)


def test_black_stays_black() -> None:
    views, _ = augment(torch.zeros((50, 1, 64, 64), dtype=torch.uint8), 64)
    assert float(views.max()) <= 0.02 * 255 + 1e-4


def test_the_probe_stays_above() -> None:
    images = torch.zeros((200, 1, 96, 96), dtype=torch.uint8)
    images[:, :, 8:24, 40:56] = 255
    views, _ = augment(images, 96)
    rows = torch.arange(96.0).view(1, 1, -1, 1)
    light = torch.where(views > 20, views, torch.zeros(()))
    seen = light.sum(dim=(1, 2, 3)) > 0
    height = (light * rows).sum(dim=(1, 2, 3))[seen] / light.sum(dim=(1, 2, 3))[seen]
    assert int(seen.sum()) > 150
    assert float(height.max()) < 48


def test_some_views_are_mirrored_and_some_are_not() -> None:
    images = torch.zeros((100, 1, 96, 96), dtype=torch.uint8)
    images[:, :, 40:56, 4:32] = 255
    views, _ = augment(images, 96)
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


def test_masks_follow_their_images() -> None:
    # Given discs that are their own masks
    discs = disc(160, 40, 40)
    keys = [("image", number) for number in range(40)]
    views, masks = draw_pairs(discs, discs, keys, 112, 0)
    alone, _ = draw_views(discs, keys, 112, 0)
    # Then images are the views they would be without masks, and masks lie where the disc is bright
    torch.testing.assert_close(views, alone)
    assert masks.shape == views.shape
    assert float(masks.min()) >= 0
    assert float(masks.max()) <= 1
    seen, meant = views > 25, masks > 0.5
    overlap = 2 * (seen & meant).sum(dim=(1, 2, 3)) / (seen.sum((1, 2, 3)) + meant.sum((1, 2, 3)))
    # Missing rectangles darken the image and not the mask; most views have none over the disc.
    assert float(overlap.median()) > 0.97
