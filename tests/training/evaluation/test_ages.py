"""Zero-shot gestational age: the rule, the prompts, and the chart that judges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fetalclip_edge.tasks.age_bank import AgeBank, AgeError
from training.datasets import Example
from training.evaluation.encoders import Embeddings, Encoder
from training.evaluation.gestational_age import (
    estimate_ages,
    estimate_by_bank,
    input_pixel_size,
    is_valid,
    measure_ages,
    with_pixel_size,
)
from training.facts import Facts
from training.prompts import PromptSet


def head(mm: float, days: float | None = None, pixel_size: float | None = 0.1, subject: int = 0):  # type: ignore[no-untyped-def]
    facts = Facts("brain", gestational_age_days=days, pixel_size_mm=pixel_size)
    return Example(Path("x.tar"), 0, 1, "h.png", facts, f"hc18/{subject}", "test", 0, 448, mm)


class Counter(Encoder):
    """Embeds a sentence "D S" as a unit vector of angle D + 100 S, and counts the sentences."""

    name, tower, has_text = "counter", None, True

    def __init__(self) -> None:
        self._stored = {}
        self.texts: list[str] = []

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        self.texts += texts
        angles = np.deg2rad([float(t.split()[0]) + 100 * float(t.split()[1]) for t in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    def _embed_batch(self, images: list[NDArray[np.uint8]]) -> Embeddings:
        raise NotImplementedError


def test_the_pixel_size_is_that_of_the_input() -> None:
    # Given 0.12345 mm a pixel at 448 pixels, when the network sees 224
    example = head(200, pixel_size=0.12345)
    # Then a pixel is twice as large, told with two decimals
    assert input_pixel_size(example, 224) == 0.25


def test_an_image_of_unknown_pixel_size_is_named() -> None:
    with pytest.raises(ValueError, match=r"h\.png has no pixel size"):
        input_pixel_size(head(200, pixel_size=None), 224)


def test_ages_by_the_rule_with_the_prompts_of_each_pixel_size_embedded_once() -> None:
    # Given ages 1 to 40, and images at 20 degrees of pixel size 0 and 130 of pixel size 1
    prompts = PromptSet(
        "gestational_age", {str(d): (f"{d} {{pixel_size_mm}}",) for d in range(1, 41)}
    )
    encoder = Counter()
    angles = np.deg2rad([20, 130, 20])
    images = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    # When ages are estimated
    days = estimate_ages(images, [0.0, 1.0, 0.0], lambda mm: with_pixel_size(prompts, mm), encoder)
    # Then each is the middle of the fifteen nearest, and 2 x 40 sentences were embedded
    assert days.tolist() == [20, 30, 20]
    assert len(encoder.texts) == 80
    assert encoder.texts[0] == "1 0.00"


def test_similarities_are_averaged_over_sentences_not_embeddings_normalised() -> None:
    # Given sentences at +-60 degrees for one age (mean cosine 0.5) and at 50 for the other (0.64)
    prompts = PromptSet("gestational_age", {"100": ("60 0", "-60 0"), "200": ("50 0",)})
    image = np.array([[1, 0]], np.float32)
    means = Counter().mean_embeddings(prompts)
    assert (image @ means.T)[0].tolist() == pytest.approx([0.5, np.cos(np.deg2rad(50))], abs=1e-6)


@pytest.mark.parametrize("label", ["early", "20+0", "0", "-7", "140.5", ""])
def test_prompts_whose_classes_are_no_days_are_refused(label: str) -> None:
    prompts = PromptSet("gestational_age", {label: ("1 0",)}, version="mine.json")
    with pytest.raises(ValueError, match=r"mine\.json must be ages in days"):
        estimate_ages(np.zeros((1, 2), np.float32), [0.1], lambda _: prompts, Counter())


# At 20 weeks the band is 157.0057 to 188.4548 mm, at 200 days 247.9165 to 288.9518 mm: worked out
# from the chart's coefficients with Python's decimal.
@pytest.mark.parametrize(
    ("days", "mm", "valid"),
    [
        (140, 157.00, False),
        (140, 157.01, True),
        (140, 188.45, True),
        (140, 188.46, False),
        (200, 247.91, False),
        (200, 247.92, True),
        (200, 288.95, True),
        (200, 288.96, False),
    ],
)
def test_validity_by_the_who_chart(days: int, mm: float, valid: bool) -> None:
    assert is_valid(days, mm) is valid


def test_validity_and_error_of_four_heads() -> None:
    # Given two right estimates, one wrong, and a head below 100 mm that does not count
    heads = [
        head(175, 140, subject=1),
        head(270, 200, subject=2),
        head(175, None, subject=3),
        head(90, 95, subject=4),
    ]
    report = measure_ages(np.array([141, 197, 230, 100]), heads)
    # Then two of three are valid, and the error is known of the first two
    assert report["images"] == 3
    assert report["images_outside_range"] == 1
    assert report["validity"] == pytest.approx(2 / 3)
    assert report["mean_absolute_error_days"] == pytest.approx((1 + 3) / 2)
    assert report["mean_absolute_error_images"] == 2
    # And three images drawn with replacement are all wrong in 1 of 27 draws, more than 2.5 %
    assert report["validity_interval"] == [0, 1]


def test_no_head_within_the_range_is_an_error() -> None:
    with pytest.raises(ValueError, match="no head has a circumference of 100 to 342 mm"):
        measure_ages(np.array([100]), [head(343)])


def test_a_bundles_own_ages_are_measured_as_it_tells_them() -> None:
    # Given a bank of one pixel size in which the first axis is the age of 140 days
    days = np.arange(98, 273)
    angles = np.abs(days - 140) / 100
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)[None]
    bank = AgeBank(rows, np.array([0.5], np.float32), days, AgeError(1.0, 1.0))
    looks = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    # Then a head within its pixel sizes has that age, and one beyond has none
    assert estimate_by_bank(looks, [0.5, 0.9], bank).tolist() == [140, 0]
