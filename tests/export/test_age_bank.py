"""Zero-shot ages at export: a made-up text tower whose ages are right goes out, another stays."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from torch import Tensor

import export.age_bank as ages
import export.bundle as exporter
import fetalclip_edge as fe
from export.age_bank import bank_of, error_of, judge_ages, pixel_sizes_of
from export.bundle import export_bundle
from export.card import model_card
from export.examples import BundleData
from export.published import publish
from export.report import ages_told
from export.source import load_source, load_text
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.tasks.age_bank import AgeBank
from fetalclip_edge.tasks.gestational_age import head_circumference_quantile
from training.datasets import Example, square
from training.facts import Facts
from training.models import DualEncoder, ModelConfig
from training.prompts import gestational_age_prompts
from training.release import Origin, save_release
from training.shards import write_shards
from training.sources import DataSet

from . import small

TOLD = re.compile(r"(\d+) weeks and (\d) day")
PIXELS = re.compile(r"(\d+\.\d\d) mm")


def quiet() -> Console:
    return Console(file=io.StringIO())


def direction(days: float, pixel_size_mm: float) -> NDArray[np.float64]:
    """Ages on a circle, turned by the pixel size: neither can be told without the other."""
    angle = (days - 98) / 174 * np.pi / 2 + np.log(pixel_size_mm)
    return np.array([np.cos(angle), np.sin(angle)])


def knowing(texts: Sequence[str]) -> Tensor:
    """A text tower that understands age and pixel size."""
    rows = []
    for text in texts:
        weeks, days = map(int, TOLD.search(text).groups())  # type: ignore[union-attr]
        pixel = float(PIXELS.search(text).group(1))  # type: ignore[union-attr]
        rows.append(direction(7 * weeks + days, pixel))
    return torch.from_numpy(np.stack(rows)).float()


def blind(texts: Sequence[str]) -> Tensor:
    """A text tower that says the same of every age but the first."""
    return torch.tensor([[0.0, 1.0] if "38 weeks" in text else [1.0, 0.0] for text in texts])


def heads(count: int, first_day: float = 110, last_day: float = 260) -> list[Example]:
    """Heads of an 800 pixel wide image of 0.07 to 0.2 mm, of median size for their age."""
    found = []
    for i in range(count):
        days = first_day + (last_day - first_day) * i / max(1, count - 1)
        facts = Facts("brain", gestational_age_days=days, pixel_size_mm=0.07 + 0.13 * i / count)
        circumference = head_circumference_quantile(days, 0.5)
        found.append(
            Example(Path("x"), 0, 1, f"h{i}", facts, f"hc18/{i}", "train", 0, 800, circumference)
        )
    return found


def data_of(held: list[Example]) -> BundleData:
    return BundleData([], held, [], [], (), "0")


def embeddings_of(examples: Sequence[Example]) -> NDArray[np.float32]:
    rows = []
    for example in examples:
        known = example.facts
        assert known.gestational_age_days is not None
        assert known.pixel_size_mm is not None
        rows.append(direction(known.gestational_age_days, known.pixel_size_mm * 800 / 224))
    return np.stack(rows).astype(np.float32)


def test_ages_that_are_right_go_out_with_their_error() -> None:
    held = heads(60)
    found = judge_ages(knowing, data_of(held), embeddings_of(held), 224, 0.834, quiet())
    assert found.left_out is None
    assert found.bank is not None
    measured = found.figures["validation"]
    assert measured["images"] == 60
    assert measured["validity"] > 0.95
    # Pixel sizes are 10 % apart, half of which turns the circle by 0.05 of 1.57 for 174 days.
    assert found.bank.error.early < 0.08 / 1.57 * 174
    assert found.bank.error.late < 0.08 / 1.57 * 174
    for example, embedding in zip(held, embeddings_of(held), strict=True):
        assert example.facts.pixel_size_mm is not None
        days = found.bank.estimate(embedding, example.facts.pixel_size_mm * 800 / 224)
        assert days == pytest.approx(example.facts.gestational_age_days, abs=8)
    tests = heads(7, 150, 200)
    with_test = found.measured("test", embeddings_of(tests), tests, 224)
    assert with_test.figures["test"]["images"] == 7
    assert "% of 60 validation heads, " in ages_told(with_test.figures)


def test_ages_that_are_not_are_left_out_with_the_reason() -> None:
    held = heads(60)
    found = judge_ages(blind, data_of(held), embeddings_of(held), 224, 0.834, quiet())
    assert found.bank is None
    measured = found.figures["validation"]["validity"]
    assert measured < 0.5
    reason = found.left_out
    assert reason is not None
    assert f"{100 * measured:.1f} % of 60 validation heads" in reason
    assert "below the 83.4 % that are needed" in reason
    assert ages_told(found.figures) == f"no gestational age without a measured head: {reason}"
    # A lower limit lets them out
    assert judge_ages(blind, data_of(held), embeddings_of(held), 224, 0.0, quiet()).bank is not None


def test_without_heads_or_text_tower_there_is_nothing_to_judge() -> None:
    few = heads(19)
    found = judge_ages(knowing, data_of(few), embeddings_of(few), 224, 0.0, quiet())
    assert "19 validation heads" in str(found.left_out)
    # Circumferences outside 100 to 342 mm are not scored
    small_ones = [replace(head, head_circumference_mm=90.0) for head in heads(60)]
    found = judge_ages(knowing, data_of(small_ones), embeddings_of(heads(60)), 224, 0.0, quiet())
    assert "0 validation heads" in str(found.left_out)
    many = heads(20)
    found = judge_ages(None, data_of(many), embeddings_of(many), 224, 0.0, quiet())
    assert "text tower is not at hand" in str(found.left_out)


def test_pixel_sizes_cover_those_of_the_heads_in_steps_of_a_tenth() -> None:
    sizes = pixel_sizes_of(heads(60), 224)
    assert (sizes[0], sizes[-1]) == (0.25, 0.71)  # 0.07 and 0.1978 mm times 800 / 224
    assert all(b / a < 1.13 for a, b in pairwise(sizes))
    assert len(sizes) == 12
    plain = replace(heads(1)[0], facts=Facts("brain"))
    assert pixel_sizes_of([plain], 224) == []


def test_the_error_takes_in_95_percent_of_heads() -> None:
    # 100 estimates that are 0 to 99 days too late: 97.5 % of 101 is the 99th of them
    off = np.arange(100)
    error = error_of(200 + off, np.full(100, 200.0))
    assert (error.early, error.late) == (98.0, 0.0)
    # Of few the farthest
    error = error_of(np.array([150, 160]), np.array([155.0, 157.5]))
    assert (error.early, error.late) == (2.5, 5.0)


def test_a_bank_holds_the_mean_over_templates_of_a_published_text_tower(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = publish(small.small_mobile())
    bank = bank_of(source.text, [0.31], quiet())
    assert bank.embeddings.shape == (1, 175, 16)
    for day in (98, 199, 272):
        texts = gestational_age_prompts(0.31).prompts[str(day)]
        with torch.inference_mode():
            mean = source.text(list(texts)).mean(dim=0).numpy()
        expected = mean / np.linalg.norm(mean)
        np.testing.assert_allclose(bank.embeddings[0, day - 98], expected, atol=1e-3)
    # Random weights know nothing of ages, and the gate sees it
    monkeypatch.setattr(ages, "bank_of", lambda *_: bank)
    held = [replace(h, facts=replace(h.facts, pixel_size_mm=0.0868)) for h in heads(40)]
    looks = np.random.default_rng(0).normal(size=(40, 16))
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)
    found = judge_ages(source.text, data_of(held), looks.astype(np.float32), 224, 0.834, quiet())
    assert "below the 83.4 % that are needed" in str(found.left_out)


@pytest.fixture
def with_heads(run: Path, pictures: dict[str, DataSet], tmp_path: Path) -> tuple[Path, Path]:
    """The run with forty examinations held out, and shards whose heads are all of 200 mm."""
    measured = [replace(r, head_circumference_mm=200.0) for r in pictures["hc18"].records]
    measured = [replace(r, facts=replace(r.facts, gestational_age_days=155.0)) for r in measured]
    shards = tmp_path / "shards"
    write_shards([pictures["planes"], replace(pictures["hc18"], records=measured)], shards)
    folder = shutil.copytree(run, tmp_path / "run")
    described = json.loads((folder / "model.json").read_text())
    described["held_out"] += [f"hc18/{i}" for i in range(65, 105)]
    (folder / "model.json").write_text(json.dumps(described))
    return folder, shards


def test_a_bundle_with_ages_tells_them(
    with_heads: tuple[Path, Path],
    pictures: dict[str, DataSet],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a text tower for which the drawn heads, all alike, are 155 days old
    folder, shards = with_heads
    with torch.inference_mode():
        tower = load_source(folder).tower
        levels = torch.from_numpy(np.asarray(_padded(pictures), np.float32))[None, None]
        own = tower(levels)[0].double().numpy()
    across = np.linalg.qr(np.stack([own, np.eye(16)[0]]).T)[0][:, 1]

    def text(texts: Sequence[str]) -> Tensor:
        rows = []
        for each in texts:
            weeks, days = map(int, TOLD.search(each).groups())  # type: ignore[union-attr]
            angle = abs(7 * weeks + days - 155) / 100
            rows.append(np.cos(angle) * own + np.sin(angle) * across)
        return torch.from_numpy(np.stack(rows)).float()

    monkeypatch.setattr(exporter, "load_text", lambda *_: text)
    monkeypatch.setattr(exporter, "_TIMING_ROUNDS", 2)
    # When the bundle is made
    out = tmp_path / "out"
    export_bundle(
        folder,
        shards,
        out,
        name="a",
        version="1",
        console=quiet(),
        precisions=("fp32",),
        text=folder,
    )
    # Then it tells the age of a head that is not measured
    loaded = ModelBundle.load(out)
    bank = AgeBank.of_bundle(loaded)
    assert bank is not None
    assert bank.days.tolist() == list(range(98, 273))
    head = np.asarray(_picture(pictures))
    result = fe.load(out, "onnxruntime").analyze(head, pixel_size_mm=0.2)
    assert result.gestational_age is None or result.plane.label == "brain"
    embedding = fe.load(out, "onnxruntime").embed(head)[0]
    told = bank(embedding, 0.2)
    assert told is not None
    assert told.days == pytest.approx(155, abs=8)
    if result.plane.label == "brain":
        assert result.gestational_age == told
    # And says what it is worth
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["age_bank"]["days"] == [98, 272]
    assert manifest["metrics"]["age_bank"]["validation"]["validity"] == 1
    assert manifest["metrics"]["age_bank"]["test"]["images"] == 4
    card = model_card(manifest)
    assert "## Gestational age without a measured head" in card
    assert "- validation: 100.00" in card


def _picture(pictures: dict[str, DataSet]) -> NDArray[np.uint8]:
    with Image.open(pictures["hc18"].records[-1].path) as image:
        return np.asarray(image.convert("L"))


def _padded(pictures: dict[str, DataSet]) -> NDArray[np.uint8]:
    return square(Image.fromarray(_picture(pictures)), 64)


def test_a_text_tower_must_be_that_of_the_teacher(tmp_path: Path) -> None:
    # Given a teacher, its student that came without the text tower, and somebody else
    shape = ModelConfig(image_size=64, embed_dim=16, text_width=32, text_heads=2, text_layers=1)
    for seed, name in ((0, "teacher"), (1, "else")):
        torch.manual_seed(seed)
        (tmp_path / name).mkdir()
        save_release(tmp_path / name, DualEncoder(shape).eval(), {}, {"p"}, Origin("pretrain"))
    (tmp_path / "student").mkdir()
    for path in (tmp_path / "teacher").iterdir():
        if path.name != "text_tower.safetensors":
            shutil.copy(path, tmp_path / "student")
    source = load_source(tmp_path / "student")
    assert source.text is None
    # Then the teacher's is taken, and no other
    text = load_text(tmp_path / "teacher", source)
    with torch.inference_mode():
        assert text(["a head"]).shape == (1, 16)
    with pytest.raises(ValueError, match="is not the text tower that this model learned with"):
        load_text(tmp_path / "else", source)
    with pytest.raises(ValueError, match="has no text tower"):
        load_text(tmp_path / "student", source)
