"""Recognition by prompts: metrics against scikit-learn and by hand, embeddings by hand."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import f1_score

from training.models import DualEncoder, ModelConfig
from training.prompts import PromptSet
from training.zero_shot import embed_images, embed_prompts, macro_f1


def test_macro_f1_is_scikit_learns_on_the_images_that_are_scored() -> None:
    truth = ["brain", "brain", "femur", "thorax", "femur", "cervix"]
    answers = ["brain", "femur", "femur", "cervix", "femur", "brain"]
    # The cervix is not scored; the thorax that was called a cervix is missed.
    expected = f1_score(
        truth[:5], answers[:5], labels=["brain", "femur", "thorax"], average="macro"
    )
    assert macro_f1(truth, answers, ("brain", "femur", "thorax")) == pytest.approx(expected)
    assert expected == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)


def test_a_class_that_does_not_occur_is_not_averaged_in() -> None:
    assert macro_f1(["brain", "femur"], ["brain", "femur"], ("brain", "femur", "thorax")) == 1


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="labelled with any of femur, thorax"):
        macro_f1(["brain", ""], ["femur", "femur"], ("femur", "thorax"))


def test_a_class_is_the_mean_of_its_sentences() -> None:
    torch.manual_seed(0)
    model = DualEncoder(
        ModelConfig(image_size=32, embed_dim=8, text_width=16, text_heads=2, text_layers=1)
    )
    prompts = PromptSet("planes", {"a": ("one", "two"), "b": ("three",)})
    found = embed_prompts(model, prompts)
    with torch.inference_mode():
        [one, two, three] = model.text.eval()(["one", "two", "three"])
    torch.testing.assert_close(found[0], (one + two) / (one + two).norm(), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1], three, atol=1e-5, rtol=0)


def test_images_are_embedded_in_order_whatever_the_batch() -> None:
    class Mean(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unit = torch.nn.Parameter(torch.ones(1))

        def forward(self, levels: torch.Tensor) -> torch.Tensor:
            return levels.mean(dim=(1, 2, 3))[:, None] * self.unit

    images = torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1).repeat(1, 1, 4, 4)
    assert embed_images(Mean(), images, batch_size=3).flatten().tolist() == list(range(7))
