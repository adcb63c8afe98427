"""One face for bundles, releases and published checkpoints."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import fetalclip_edge as fe
import training.models.published
from fetalclip_edge.errors import BundleNotFoundError
from fetalclip_edge.preprocess import PreprocessSpec
from fetalclip_edge.results import BRAIN_PLANES, PLANES
from training.datasets import square
from training.evaluation.encoders import (
    BundleEncoder,
    NotMeasurableError,
    TowerEncoder,
    open_encoder,
)
from training.models import DualEncoder, ModelConfig
from training.prompts import BRAIN_PLANE_PROMPTS, PLANE_PROMPTS, PromptSet
from training.release import Origin, save_release

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Drawn:
    """A picture in memory."""

    levels: NDArray[np.uint8]

    def open(self) -> Image.Image:
        return Image.fromarray(self.levels)


@pytest.fixture(scope="module")
def pictures() -> list[Drawn]:
    """Smooth pictures of several sizes, more than a batch."""
    rng = np.random.default_rng(0)

    def drawn(height: int, width: int) -> Drawn:
        small = Image.fromarray(rng.integers(0, 256, (5, 6)).astype(np.uint8))
        return Drawn(np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)))

    return [drawn(60 + 7 * (i % 3), 90 - 3 * i) for i in range(19)]


def model(tiny: dict[str, Any]) -> DualEncoder:
    torch.manual_seed(0)
    return DualEncoder(ModelConfig(**tiny)).eval()


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, tiny_model: dict[str, Any]) -> Path:
    folder = tmp_path_factory.mktemp("work") / "release"
    folder.mkdir()
    save_release(folder, model(tiny_model), {"planes_f1": 0.5}, ["planes/1"], Origin("pretrain"))
    return folder


@pytest.fixture
def shipped(repository: Path) -> Path:
    return repository / "fetalclip_edge" / "bundles" / "default"


def test_a_bundle_embeds_as_the_device_does(shipped: Path, pictures: list[Drawn]) -> None:
    encoder = open_encoder(shipped)
    assert isinstance(encoder, BundleEncoder)
    expected = fe.load(shipped).embed([picture.levels for picture in pictures])
    np.testing.assert_array_equal(encoder.embed(pictures, "pictures"), expected)
    assert encoder.tower is None


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_bundle_runs_on_the_backend_asked_for(shipped: Path, backend: str) -> None:
    assert open_encoder(shipped, backend=backend).identity["backend"].startswith(f"{backend} ")


def test_a_backend_that_there_is_not_is_refused(shipped: Path) -> None:
    with pytest.raises(ValueError, match="abacus"):
        open_encoder(shipped, backend="abacus")


def test_a_bundle_is_known_by_its_files_but_for_the_card(shipped: Path) -> None:
    identity = open_encoder(shipped).identity
    graph = hashlib.sha256((shipped / identity["graph"]).read_bytes()).hexdigest()
    assert identity["kind"] == "bundle"
    assert identity["files"][identity["graph"]] == graph
    assert "prompts.safetensors" in identity["files"]
    assert "MODEL_CARD.md" not in identity["files"]


def test_a_bundle_recognises_by_its_own_prompts_alone(shipped: Path) -> None:
    encoder = open_encoder(shipped)
    prompts = encoder.prompts("planes")
    assert sorted(prompts.labels) == sorted(PLANES)
    stored = fe.load(shipped).bundle.prompt_embeddings()["planes"]
    np.testing.assert_array_equal(encoder.embed_prompts(prompts), stored)
    other = PromptSet("planes", {"a": ("anything else",)})
    for refused in (
        lambda: encoder.embed_prompts(other),
        lambda: encoder.embed_texts(["x"]),
        lambda: encoder.prompts("gestational_age"),
    ):
        with pytest.raises(NotMeasurableError, match="no text tower"):
            refused()


def test_a_release_embeds_images_and_any_sentence(
    release: Path, tiny_model: dict[str, Any], pictures: list[Drawn]
) -> None:
    encoder, own = open_encoder(release), model(tiny_model)
    # Given the images as Pillow prepares them
    grey = np.stack([square(picture.open(), 64) for picture in pictures])[:, None]
    with torch.inference_mode():
        images = own.image(torch.from_numpy(grey).float()).numpy()
        texts = own.text(["a fetal head", "a femur"]).numpy()
    # Then both towers agree but for half precision and a grey level here and there
    embedded = encoder.embed(pictures, "pictures")
    assert embedded.shape == (19, 16)
    assert (embedded * images).sum(axis=1).min() > 0.999
    np.testing.assert_allclose(encoder.embed_texts(["a fetal head", "a femur"]), texts, atol=0.01)


def test_a_class_is_the_mean_of_its_sentences(release: Path) -> None:
    encoder = open_encoder(release)
    prompts = PromptSet("x", {"a": ("one", "two", "three"), "b": ("four",)})
    each = encoder.embed_texts(["one", "two", "three", "four"])
    means = np.stack([each[:3].mean(axis=0), each[3]])
    np.testing.assert_allclose(encoder.mean_embeddings(prompts), means, atol=1e-6)
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.embed_prompts(prompts), unit, atol=1e-6)


def test_a_release_brings_the_prompts_it_was_stored_with(release: Path) -> None:
    encoder = open_encoder(release)
    assert encoder.prompts("planes").sha256 == PLANE_PROMPTS.sha256
    assert encoder.prompts("brain_planes").labels == BRAIN_PLANES
    described = json.loads((release / "model.json").read_text())["prompts"]["planes"]["sha256"]
    assert encoder.prompts("planes").sha256 == described


def test_a_release_without_text_tower_still_recognises(release: Path, tmp_path: Path) -> None:
    silent = shutil.copytree(release, tmp_path / "release")
    (silent / "text_tower.safetensors").unlink()
    encoder = open_encoder(silent)
    assert not encoder.has_text
    assert encoder.embed_prompts(BRAIN_PLANE_PROMPTS).shape == (3, 16)
    with pytest.raises(NotMeasurableError, match="release has no text tower"):
        encoder.embed_texts(["x"])


class Published(nn.Module):
    """What a loader of published weights gives."""

    embed_dim = 3
    preprocess = PreprocessSpec(size=32, color="rgb", interpolation="bilinear")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.image = Levels()
        self.text = Letters()


class Levels(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[1:] == (1, 32, 32)
        assert images.dtype == torch.float32
        mean = images.mean(dim=(1, 2, 3)) / 255
        return nn.functional.normalize(torch.stack([mean, 1 - mean, 0 * mean], dim=1), dim=1)


class Letters(nn.Module):
    def forward(self, texts: Sequence[str]) -> Tensor:
        lengths = torch.tensor([[float(len(text)), 1.0, 0.0] for text in texts])
        return nn.functional.normalize(lengths, dim=1)


def test_a_published_checkpoint_takes_grey_levels_and_our_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaders = {"fetalclip": Published, "mobile-fetalclip": Published}
    monkeypatch.setattr(training.models.published, "PUBLISHED", loaders)
    path = tmp_path / "weights.pt"
    path.write_bytes(b"weights")
    encoder = open_encoder(path, "mobile-fetalclip")
    assert isinstance(encoder, TowerEncoder)
    assert encoder.identity["files"] == {"weights.pt": hashlib.sha256(b"weights").hexdigest()}
    half = Drawn(np.full((20, 20), 51, np.uint8))
    assert encoder.embed([half], "x")[0] == pytest.approx([0.2 / 0.68**0.5, 0.8 / 0.68**0.5, 0])
    assert encoder.prompts("planes") == PLANE_PROMPTS
    assert encoder.embed_prompts(PLANE_PROMPTS).shape == (6, 3)


def test_embeddings_that_are_no_numbers_are_refused(pictures: list[Drawn]) -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.full((len(images), 3), torch.nan)

    encoder = TowerEncoder("worn", Broken(), None, PreprocessSpec(size=32), identity={})
    with pytest.raises(ValueError, match="test: worn gives NaN or infinity for 2 of 2"):
        encoder.embed(pictures[:2], "test")


def test_what_is_no_model_is_refused(tmp_path: Path, release: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        open_encoder(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"neither a bundle .*nor a release"):
        open_encoder(empty)
    (empty / "manifest.json").write_text("{}")
    with pytest.raises(BundleNotFoundError, match="not a bundle: it has no manifest.sha256"):
        open_encoder(empty)
    with pytest.raises(ValueError, match="--architecture is for a published checkpoint"):
        open_encoder(release, "fetalclip")
    file = release / "model.json"
    with pytest.raises(ValueError, match="say which model it holds, --architecture fetalclip"):
        open_encoder(file)
    with pytest.raises(ValueError, match="--architecture must be one of .*not 'clip'"):
        open_encoder(file, "clip")


def test_no_pictures_are_refused(release: Path) -> None:
    with pytest.raises(ValueError, match="images of test: there are no images"):
        open_encoder(release).embed([], "images of test")
