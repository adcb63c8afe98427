"""Activation maps: they point to where the answer comes from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch import Tensor, nn

from training.evaluation.activation import Shown, activation_map, draw_activations
from training.evaluation.encoders import NotMeasurableError
from training.models import ImageTower, ModelConfig

import timm  # isort: skip  (after training.models, which makes it importable)

pytestmark = pytest.mark.usefixtures("one_thread")


class Bright(nn.Module):
    """Two channels, the grey levels and their negative, pooled to a two-dimensional embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 8, stride=8, bias=False)
        with torch.no_grad():
            self.conv.weight[0], self.conv.weight[1] = 1 / 64, -1 / 64

    def forward(self, images: Tensor) -> Tensor:
        found = F.relu(self.conv(images / 255) + 0.5)
        return F.normalize(found.mean(dim=(2, 3)), dim=-1)


class Tokens(nn.Module):
    """A small ViT whose class token alone is read."""

    def __init__(self) -> None:
        super().__init__()
        self.network = timm.create_model(
            "vit_tiny_patch16_224",
            img_size=64,
            in_chans=1,
            num_classes=0,
            embed_dim=48,
            depth=2,
            num_heads=2,
        )

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.network(images / 255), dim=-1)


def levels(size: int = 64) -> np.ndarray:
    """Dark, but for a bright square at rows 8 to 16, columns 40 to 48."""
    image = np.zeros((1, 1, size, size), np.uint8)
    image[..., 8:16, 40:48] = 255
    return image


def test_the_map_is_highest_where_the_prompt_is_seen() -> None:
    found = activation_map(Bright().eval(), levels(), np.array([1, 0], np.float32))
    assert found.shape == (64, 64)
    assert found.dtype == np.float32
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert 8 <= row < 16
    assert 40 <= column < 48
    assert found.max() == 1
    assert found.min() >= 0
    assert found[40:, :20].max() < 0.01


@pytest.mark.parametrize("frozen", [False, True])
def test_the_towers_that_we_ship_have_maps(frozen: bool) -> None:
    torch.manual_seed(0)
    config = ModelConfig(image_size=64, embed_dim=8, text_width=32, text_heads=2, text_layers=1)
    tower = ImageTower(config).eval().requires_grad_(not frozen)
    prompt = np.eye(8, dtype=np.float32)[0]
    similarity = float(tower(torch.from_numpy(levels()).float())[0, 0].detach())
    found = activation_map(tower, levels(), prompt if similarity > 0 else -prompt)
    assert found.shape == (64, 64)
    assert found.max() == pytest.approx(1)


def test_a_transformer_whose_class_token_is_read_has_a_map_of_its_patches() -> None:
    # Given a network whose last tokens do not matter but for the first
    torch.manual_seed(0)
    tower = Tokens().eval()
    prompt = np.eye(48, dtype=np.float32)[0]
    found = [activation_map(tower, levels(), sign * prompt) for sign in (1, -1)]
    # Then one of two opposite prompts has a map, of 4 by 4 patches, not one of the heads' maps
    assert max(float(each.max()) for each in found) == pytest.approx(1)
    assert [each.shape for each in found] == [(64, 64), (64, 64)]


def test_hooks_and_gradients_leave_no_trace() -> None:
    tower = Bright().eval()
    activation_map(tower, levels(), np.array([1, 0], np.float32))
    assert not any(module._forward_hooks for module in tower.modules())
    assert all(parameter.grad is None for parameter in tower.parameters())


def test_a_tower_without_a_map_is_refused() -> None:
    tower = nn.Sequential(nn.Flatten(), nn.Linear(64 * 64, 2)).eval()
    with pytest.raises(NotMeasurableError, match="no feature map or patch tokens"):
        activation_map(tower, levels(), np.array([1, 0], np.float32))


def test_pictures_are_written_and_warn(tmp_path: Path) -> None:
    shown = [
        Shown(levels()[0, 0], np.full((64, 64), value, np.float32), f"image {i}")
        for i, value in enumerate((0.0, 0.2, 0.5, 0.8, 1.0))
    ]
    draw_activations(shown, tmp_path / "new" / "maps.png")
    with Image.open(tmp_path / "new" / "maps.png") as picture:
        assert picture.format == "PNG"
        # Two rows, for there are four to a row
        assert picture.height > 500
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20
