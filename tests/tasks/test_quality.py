"""The quality of one frame, on pictures whose faults are made."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

import fetalclip_edge as fe
from benchmarks.spoiling import SPOILING
from fetalclip_edge.preprocess import Preprocessor, PreprocessSpec
from fetalclip_edge.results import Quality
from fetalclip_edge.tasks.quality import (
    Measures,
    assess,
    judge,
    measure,
    what_would_help,
    with_motion,
)

from ..moments import DARK, GOOD, result

Pixels = NDArray[np.uint8]
SPEC = PreprocessSpec(size=224, color="gray", mean=(0.5,), std=(0.25,), dtype="uint8")
FINE = Measures(brightness=50, detail=0.2, shadow=0.0)


def sector(level: float = 70.0, seed: int = 0) -> tuple[Pixels, Pixels, NDArray[np.bool_]]:
    """Even speckle in a fan of 60 degrees; the angle of each pixel in degrees; what is inside."""
    y, x = np.mgrid[:480, :480].astype(np.float32)
    angle = np.degrees(np.arctan2(x - 240, y + 160))
    radius = np.hypot(x - 240, y + 160)
    inside = (np.abs(angle) < 30) & (radius > 180) & (radius < 620)
    speckle = np.random.default_rng(seed).rayleigh(level / 1.2533, (480, 480))
    speckle = cv2.GaussianBlur(speckle, (0, 0), 1.5)
    return np.where(inside, np.clip(speckle, 0, 255), 0).astype(np.uint8), angle, inside


def measured(image: Pixels, spec: PreprocessSpec = SPEC) -> Measures:
    return measure(Preprocessor(spec)(image, color="gray"), spec)


def test_brightness_is_that_of_the_picture_and_not_of_the_screen() -> None:
    image, _, inside = sector()
    framed = np.zeros((600, 900), np.uint8)
    framed[60:540, 200:680] = image
    # The outline is taken as convex, a little more than the fan.
    assert measured(image).brightness == pytest.approx(image[inside].mean(), rel=0.08)
    assert measured(framed).brightness == pytest.approx(image[inside].mean(), rel=0.12)


@pytest.mark.parametrize(("low", "high"), [(-10, 10), (5, 25), (-24, -4), (-20, 20)])
def test_a_wedge_without_echoes_is_shadow(low: float, high: float) -> None:
    # Given a fan, and nothing but noise in a wedge of it below a depth of 140
    image, angle, inside = sector()
    y, x = np.mgrid[:480, :480]
    wedge = inside & (angle > low) & (angle < high) & (np.hypot(x - 240, y + 160) > 320)
    image[wedge] //= 20
    # Then so much of the picture is in shadow
    found, true = measured(image).shadow, wedge.sum() / inside.sum()
    assert found == pytest.approx(true, abs=0.08)


def test_what_is_dark_between_echoes_or_at_all_depths_is_no_shadow() -> None:
    image, _, _ = sector()
    assert measured(image).shadow < 0.02
    # A cyst with tissue behind it
    cyst = image.copy()
    cv2.circle(cyst, (240, 200), 70, 0, -1)
    assert measured(cyst).shadow < 0.02
    # Too little gain for the depth
    y, _ = np.mgrid[:480, :480]
    image[y > 330] //= 20
    assert measured(image).shadow < 0.02


def test_gain_changes_neither_detail_nor_shadow() -> None:
    image, angle, inside = sector(level=100)
    image[inside & (angle > 5)] //= 20
    dimmer = (image * 0.3).astype(np.uint8)
    bright, dim = measured(image), measured(dimmer)
    assert dim.brightness == pytest.approx(0.3 * bright.brightness, rel=0.05)
    assert dim.detail == pytest.approx(bright.detail, rel=0.1)
    assert dim.shadow == pytest.approx(bright.shadow, abs=0.03)


@pytest.mark.parametrize(
    "spec",
    [
        PreprocessSpec(size=224, color="gray", mean=(0.5,), std=(0.25,)),
        PreprocessSpec(size=224, color="gray", mean=(0.3,), std=(0.5,), dtype="float16"),
        PreprocessSpec(size=224),
        PreprocessSpec(size=256, color="rgb", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)),
    ],
)
def test_every_kind_of_input_gives_the_same(spec: PreprocessSpec) -> None:
    image, angle, inside = sector()
    image[inside & (angle > 10)] //= 20
    found, expected = measured(image, spec), measured(image)
    assert found.brightness == pytest.approx(expected.brightness, rel=0.02)
    assert found.detail == pytest.approx(expected.detail, rel=0.15)
    assert found.shadow == pytest.approx(expected.shadow, abs=0.02)


@pytest.mark.parametrize("size", [32, 112, 384])
def test_inputs_of_other_sizes_are_judged_too(size: int) -> None:
    spec = PreprocessSpec(size=size, color="gray", mean=(0.5,), std=(0.25,), dtype="uint8")
    image, _, inside = sector()
    assert measured(image, spec).brightness == pytest.approx(image[inside].mean(), rel=0.15)


@pytest.mark.parametrize("level", [0, 3, 128, 255])
def test_an_empty_picture_breaks_nothing(level: int) -> None:
    quality = assess(np.full((1, 1, 224, 224), level, np.uint8), SPEC)
    assert quality.contrast == 0
    assert quality.shadow == 1
    assert quality.reason is not None


@pytest.mark.parametrize(
    ("measures", "fault", "reason"),
    [
        (FINE, None, None),
        (Measures(2, 0.2, 0), "gain", "too dark: turn the gain up"),
        (Measures(240, 0.2, 0), "gain", "too bright: turn the gain down"),
        (Measures(50, 0.001, 0), "contrast", "little contrast: more gel, or set the focus"),
        (Measures(50, 0.2, 0.34), "shadow", "shadow over a third of the picture: move the probe"),
        (Measures(50, 0.2, 0.5), "shadow", "shadow over half of the picture: move the probe"),
        (Measures(50, 0.2, 0.8), "shadow", "shadow over most of the picture: move the probe"),
        (Measures(2, 0.05, 0.34), "gain", "too dark: turn the gain up"),
    ],
)
def test_the_worst_fault_is_told(measures: Measures, fault: str | None, reason: str | None) -> None:
    quality = judge(measures)
    scores = {"gain": quality.gain, "contrast": quality.contrast, "shadow": quality.shadow}
    assert quality.overall == min(scores.values())
    assert quality.reason == reason
    if fault is None:
        assert quality.overall == 1
    else:
        assert scores[fault] == quality.overall < 0.5
    assert quality.motion is None


def test_motion_is_told_when_it_is_the_worst() -> None:
    good = Quality(0.8, 0.8, 0.9, 1.0)
    assert with_motion(good, 0.9) == Quality(0.8, 0.8, 0.9, 1.0, 0.9)
    assert with_motion(good, 0.7) == Quality(0.7, 0.8, 0.9, 1.0, 0.7)
    moving = "moving: hold the probe still"
    assert with_motion(good, 0.2) == Quality(0.2, 0.8, 0.9, 1.0, 0.2, moving)
    assert with_motion(DARK, 0.3).reason == "too dark: turn the gain up"
    assert with_motion(DARK, 0.1).reason == moving


@pytest.mark.parametrize(
    ("state", "label", "confidence", "helps"),
    [
        ("live", "brain", 0.95, False),
        ("live", "brain", 0.7, True),
        ("live", "other", 0.95, True),
        ("out_of_domain", "other", 0.1, True),
        ("frozen", "brain", 0.7, False),
        ("no_signal", "other", 0.1, False),
    ],
)
def test_help_is_told_where_an_answer_is_wanted(
    state: str, label: str, confidence: float, helps: bool
) -> None:
    poor = result(label, confidence, state, quality=DARK)
    assert what_would_help(poor) == (DARK.reason if helps else None)
    assert what_would_help(result(label, confidence, state, quality=GOOD)) is None


def test_json_has_it_rounded() -> None:
    told = Quality(0.12345, 0.5, 1.0, 1.0, None, "why").to_dict()
    assert told == {
        "overall": 0.123,
        "gain": 0.5,
        "contrast": 1.0,
        "shadow": 1.0,
        "motion": None,
        "reason": "why",
    }


def test_a_model_tells_it_of_every_picture_and_of_nothing_else(clip_images: list[Pixels]) -> None:
    model = fe.load()
    found = model.analyze(clip_images[280])
    assert found.quality is not None
    assert found.quality.motion is None
    assert model.analyze(np.full((300, 400), 90, np.uint8)).quality is None
    # The region alone counts.
    framed = np.full((1000, 1600), 255, np.uint8)
    height, width = clip_images[280].shape
    framed[100 : 100 + height, 200 : 200 + width] = clip_images[280]
    again = model.analyze(framed, region=(200, 100, width, height))
    assert again.quality == found.quality


@pytest.mark.data
@pytest.mark.parametrize("how", SPOILING)
def test_real_frames_score_worse_the_more_they_are_spoiled(how: str, data_root: Path) -> None:
    # Given some test frames of the four planes, and their quality when spoiled step by step
    with (data_root / "planes" / "labels.csv").open(newline="") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["split"] == "test" and row["plane"] not in ("Maternal cervix", "Other")
        ][::25]
    name, spoil, amounts = SPOILING[how]
    preprocessor = Preprocessor(SPEC)

    def score(image: Pixels, amount: float) -> float:
        quality = assess(preprocessor(spoil(image, amount), color="gray"), SPEC)
        found: float = getattr(quality, name)
        return found

    images = [cv2.imread(str(data_root / "planes" / row["file"]), 0) for row in rows]
    scores = np.array([[score(image, amount) for amount in amounts] for image in images])
    # Then its mean falls at every step
    means = scores.mean(axis=0)
    assert (np.diff(means) <= 0).all()
    # And it is good where nothing was done, and poor where the most was
    assert means[0] > 0.8
    assert means[-1] < 0.5
    falls: list[float] = [
        spearmanr(range(len(amounts)), row).statistic for row in scores if np.ptp(row) > 0
    ]
    assert np.mean(falls) < -0.8
