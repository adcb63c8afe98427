"""A process's part of a batch: facts that fit the view, the same however lanes are shared."""

from __future__ import annotations

import io
import math
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import brentq

from fetalclip_edge.tasks.gestational_age import head_circumference_quantile
from training.datasets import Example
from training.facts import Facts
from training.lanes import Lanes
from training.learner import Drawn, Images, make_batch
from training.shards import read_examples


def stored(folder: Path, picture: np.ndarray, facts: Facts, name: str = "disc.png") -> Example:
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "PNG")
    archive = folder / f"{name}.tar"
    with tarfile.open(archive, "w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(encoded.getvalue())
        tar.addfile(info, io.BytesIO(encoded.getvalue()))
    side = max(picture.shape)
    return Example(archive, 512, info.size, name, facts, "g", "train", 0, side)


def test_a_pixel_of_a_view_covers_what_it_covers_in_the_body(tmp_path: Path) -> None:
    # A disc of 40 mm across, on a stored image of 300 x 400 pixels of 0.2 mm.
    y, x = np.mgrid[:300, :400]
    disc = (((x - 199.5) ** 2 + (y - 149.5) ** 2) <= 100**2) * 255
    example = stored(tmp_path, disc.astype(np.uint8), Facts("brain", pixel_size_mm=0.2))
    examples = [example] * 200
    plan = Lanes(examples, lanes=1, batch_size=200, views=10_000, seed=0)
    images = Images.load(examples, range(200), 192)
    batch = make_batch(images, plan, [0], 0, 128, Drawn(0))
    diameters = []
    for view, facts in zip(batch.views, batch.facts, strict=True):
        assert facts.pixel_size_mm is not None
        diameters.append(2 * math.sqrt(int((view > 10).sum()) / math.pi) * facts.pixel_size_mm)
    assert np.median(diameters) == pytest.approx(40, rel=0.03)


def test_lanes_together_give_what_they_give_alone(drawn: Path) -> None:
    examples = read_examples(drawn, "train")
    plan = Lanes(examples, lanes=2, batch_size=8, views=4, seed=1)
    everything = Images.load(examples, range(len(examples)), 64)
    whole = make_batch(everything, plan, [0, 1], 3, 32, Drawn(2))
    halves = [
        make_batch(Images.load(examples, plan.members[lane], 64), plan, [lane], 3, 32, Drawn(2))
        for lane in range(2)
    ]
    assert whole.texts == halves[0].texts + halves[1].texts
    assert whole.facts == halves[0].facts + halves[1].facts
    assert whole.claims == halves[0].claims + halves[1].claims
    torch.testing.assert_close(whole.views, torch.cat([half.views for half in halves]))


def test_facts_without_a_pixel_size_stay_as_they_are(tmp_path: Path) -> None:
    example = stored(tmp_path, np.zeros((30, 30), np.uint8), Facts("brain", "trans-thalamic"))
    plan = Lanes([example], lanes=1, batch_size=1, views=1, seed=0)
    batch = make_batch(Images.load([example], [0], 32), plan, [0], 0, 32, Drawn(0))
    assert batch.facts == [example.facts]


def test_captions_of_measured_heads_tell_their_age_and_the_size_of_a_pixel(drawn: Path) -> None:
    # Given heads whose circumference is known, and nothing else of their age
    examples = [e for e in read_examples(drawn, "train") if e.head_circumference_mm is not None]
    plan = Lanes(examples, lanes=1, batch_size=len(examples), views=8, seed=0)
    images = Images.load(examples, range(len(examples)), 64)
    told_ages = told_pixels = 0
    for step in range(40):
        batch = make_batch(images, plan, [0], step, 32, Drawn(0))
        for draw, text, facts in zip(batch.draws, batch.texts, batch.facts, strict=True):
            mm = examples[draw.index].head_circumference_mm
            # Then an age that is told is the day whose WHO median the circumference is
            day = brentq(lambda d: head_circumference_quantile(d, 0.5) - mm, 98, 290)  # noqa: B023
            if age := re.search(r"(\d+) weeks(?: and (\d) day)?", text):
                told_ages += 1
                if age[2] is None:
                    assert int(age[1]) == round(day) // 7
                else:
                    assert 7 * int(age[1]) + int(age[2]) == pytest.approx(day, abs=0.51)
            # And a pixel is that of the view: stored pixels of 0.2 mm, 70 to a side of 32
            if pixel := re.search(r"(\d\.\d\d) mm", text):
                told_pixels += 1
                assert facts.pixel_size_mm is not None
                assert float(pixel[1]) == pytest.approx(facts.pixel_size_mm, abs=0.0051)
                assert 0.76 < facts.pixel_size_mm / (0.2 * 70 / 32) < 1.26  # zoomed
    count = 40 * len(examples)
    assert 0.6 * count < told_ages < 0.8 * count
    assert 0.4 * count < told_pixels < 0.6 * count
