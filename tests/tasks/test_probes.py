"""Probes of the user's own, from a bundle to the answer; and a task that is code."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax

import fetalclip_edge as fe
from fetalclip_edge.errors import BundleError
from fetalclip_edge.results import StreamState
from fetalclip_edge.tasks import registry

from ..command_line import CommandLine
from ..headed_bundle import entry, headed, linear_head

Pixels = NDArray[np.uint8]
TENSORS = linear_head(3)
TOLD = entry(labels=["left", "right", "neither"], temperature=1.5)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return headed(tmp_path_factory.mktemp("probe") / "bundle", {"side": TOLD}, TENSORS)


@pytest.fixture(scope="module")
def model(bundle: Path) -> fe.Model:
    return fe.load(bundle, "onnxruntime")


def expected(embedding: NDArray[np.float32]) -> NDArray[np.float64]:
    scores: NDArray[np.float64] = softmax((TENSORS["weight"] @ embedding + TENSORS["bias"]) / 1.5)
    return scores


def test_analyze_answers_with_the_probe(model: fe.Model, clip_images: list[Pixels]) -> None:
    result = model.analyze(clip_images[280])
    found = result.probes["side"]
    assert list(found.scores.values()) == pytest.approx(expected(result.embedding), abs=1e-5)
    assert found.label == TOLD["labels"][int(expected(result.embedding).argmax())]
    assert found.confidence == found.scores[found.label]
    assert "probes" not in result.to_dict()
    told = result.to_dict(details=True)["probes"]["side"]
    assert set(told) == {"label", "confidence", "scores"}


def test_out_of_domain_the_label_is_withheld(tmp_path: Path, clip_images: list[Pixels]) -> None:
    folder = headed(tmp_path / "bundle", {"side": TOLD}, TENSORS, knows_everything=False)
    noise = np.random.default_rng(0).integers(0, 256, (300, 400)).astype(np.uint8)
    result = fe.load(folder, "onnxruntime").analyze(noise)
    assert result.state == StreamState.OUT_OF_DOMAIN
    assert (result.probes["side"].label, result.probes["side"].confidence) == (None, 0.0)
    assert sum(result.probes["side"].scores.values()) == pytest.approx(1)


def test_a_stream_averages_the_probe(model: fe.Model, clip_images: list[Pixels]) -> None:
    from fetalclip_edge.demo import DEMO_CLIP

    with fe.stream(DEMO_CLIP, model=model, policy="all", smoothing_s=0.3) as live:
        first, second = next(live), next(live)
    # The weight of the first falls to exp(-gap / 0.3 s) of that of the second.
    assert first.pts_s is not None
    assert second.pts_s is not None
    keep = np.exp(-(second.pts_s - first.pts_s) / 0.3)
    average = (keep * expected(first.embedding) + expected(second.embedding)) / (1 + keep)
    assert list(second.probes["side"].scores.values()) == pytest.approx(average, abs=1e-5)


def test_people_and_programs_are_told(
    command_line: CommandLine, bundle: Path, tmp_path: Path, clip_images: list[Pixels]
) -> None:
    picture = tmp_path / "picture.png"
    Image.fromarray(clip_images[280]).save(picture)
    run = command_line("analyze", picture, "--bundle", bundle, "--backend", "onnxruntime")
    assert re.search(r"side: (left|right|neither) \d+ %", run.out)


def test_the_shipped_bundle_has_no_probes(clip_images: list[Pixels]) -> None:
    assert fe.load().analyze(clip_images[0]).probes == {}


# A task of code


def example(repository: Path) -> ModuleType:
    """The module that docs/tasks.md shows, as if it lay beside the others."""
    text = (repository / "docs" / "tasks.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(# fetalclip_edge/tasks/doubt\.py\n.*?)```", text, re.DOTALL)
    module = ModuleType("doubt")
    sys.modules["doubt"] = module  # dataclasses look themselves up
    exec(compile(code, "docs/tasks.md", "exec"), module.__dict__)
    return module


def test_the_guides_example_answers(
    repository: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path, clip_images: list[Pixels]
) -> None:
    # Given the entry that the guide asks for
    makers = (*registry.FRAME_TASKS, example(repository).doubt_of)
    monkeypatch.setattr(registry, "FRAME_TASKS", makers)
    # When a bundle is loaded that has a probe, too
    result = fe.load(bundle, "onnxruntime").analyze(clip_images[280])
    # Then both answer, and doubt is the entropy of the planes
    shares = np.array(list(result.plane.scores.values()))
    entropy = -(shares * np.log(shares)).sum() / np.log(len(shares))
    assert set(result.probes) == {"side", "doubt"}
    assert result.probes["doubt"].scores["doubtful"] == pytest.approx(entropy, abs=1e-6)
    assert json.dumps(result.to_dict(details=True)["probes"])


def test_two_tasks_of_one_name_are_refused(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = example(repository).doubt_of
    monkeypatch.setattr(registry, "FRAME_TASKS", (maker, maker))
    with pytest.raises(BundleError, match="two tasks of the name 'doubt'"):
        fe.load()
