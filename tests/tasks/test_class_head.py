"""Heads against sums worked out otherwise, and heads that are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

import fetalclip_edge as fe
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BundleError, BundleIntegrityError
from fetalclip_edge.tasks.class_head import Attention, ClassHead, decide, read_head

from ..headed_bundle import attention_head, entry, headed, linear_head

WEIGHT = np.array([[1, 0], [0, 2]], np.float32)
BIAS = np.array([0, 0.5], np.float32)


def test_of_one_picture_it_is_a_logistic_regression() -> None:
    head = ClassHead(("a", "b"), "none", WEIGHT, BIAS, 0.5)
    scores = head.scores(np.array([[0.6, 0.8]], np.float32))
    # Logits 0.6 and 2 * 0.8 + 0.5, each over 0.5
    assert scores == pytest.approx({"a": 1 / (1 + np.exp(3.0)), "b": 1 / (1 + np.exp(-3.0))})


def test_the_mean_of_a_clip_is_classified() -> None:
    head = ClassHead(("a", "b"), "mean", WEIGHT, BIAS, 1.0)
    frames = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    expected = softmax(WEIGHT @ frames.mean(axis=0) + BIAS)
    assert list(head.scores(frames).values()) == pytest.approx(expected, abs=1e-6)


def test_attention_weighs_the_frames() -> None:
    # Given attention to the first axis alone, by which the second frame counts e^tanh(1) times
    attention = Attention(
        np.array([[1, 0]], np.float32), np.zeros(1, np.float32), np.ones(1, np.float32)
    )
    head = ClassHead(("a", "b"), "attention", WEIGHT, BIAS, 1.0, None, attention)
    frames = np.array([[0, 1], [1, 0]], np.float32)
    # When it is asked, then that is how much of each frame there is in the average
    share = np.exp(np.tanh(1)) / (1 + np.exp(np.tanh(1)))
    expected = softmax([share, 2 * (1 - share) + 0.5])
    assert list(head.scores(frames).values()) == pytest.approx(expected, abs=1e-6)


def test_of_no_frames_there_is_no_score() -> None:
    head = ClassHead(("a", "b"), "mean", WEIGHT, BIAS, 1.0)
    with pytest.raises(ValueError, match="no frames"):
        head.scores(np.empty((0, 2), np.float32))


def test_two_classes_may_have_a_threshold() -> None:
    assert decide({"no": 0.6, "yes": 0.4}, None) == "no"
    assert decide({"no": 0.6, "yes": 0.4}, 0.4) == "yes"
    assert decide({"no": 0.3, "yes": 0.7}, 0.8) == "no"


def test_a_head_is_read_as_it_was_written(tmp_path: Path) -> None:
    tensors = attention_head(3)
    told = entry(labels=["a", "b", "c"], pooling="attention", temperature=2)
    bundle = ModelBundle.load(headed(tmp_path / "bundle", {"mine": told}, tensors))
    head = read_head(bundle, "mine")
    assert (head.labels, head.pooling, head.temperature) == (("a", "b", "c"), "attention", 2.0)
    assert head.attention is not None
    np.testing.assert_array_equal(head.weight, tensors["weight"])
    np.testing.assert_array_equal(head.attention.hidden, tensors["attention.hidden"])


def without(name: str) -> dict[str, Any]:
    told = entry()
    del told[name]
    return told


WRONG: list[tuple[Any, str]] = [
    ("nothing", "tasks.mine must be an object"),
    (without("labels"), "tasks.mine lacks labels"),
    (entry(encoder_sha256="0" * 64), "embeddings of another encoder"),
    (entry(labels=["a", "a"]), "labels must be two different texts"),
    (entry(labels=["a"]), "labels must be two different texts"),
    (entry(labels="ab"), "labels must be two different texts"),
    (entry(labels=["a", "b", "c"]), "'weight' must have the shape"),
    (entry(pooling="max"), "pooling must be one of none, mean, attention"),
    (entry(pooling="attention"), "'attention.hidden' must have the shape"),
    (entry(pooling="mean"), "only heart is answered for clips"),
    (entry(temperature=0), "temperature must be"),
    (entry(temperature=True), "temperature must be"),
    (entry(threshold=1.5), "threshold must be 0 to 1 or null"),
    (entry(file="elsewhere.safetensors"), "files must list elsewhere"),
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return headed(tmp_path_factory.mktemp("wrong") / "bundle", {}, linear_head(2))


@pytest.mark.parametrize(("told", "message"), WRONG)
def test_a_wrong_head_is_refused(bundle: Path, told: Any, message: str) -> None:
    import json

    from export.manifest import write_checksums

    manifest = json.loads((bundle / "manifest.json").read_bytes())
    write_checksums(bundle, {**manifest, "tasks": {"mine": told}})
    with pytest.raises(BundleError, match=message):
        fe.load(bundle, "onnxruntime")


def test_a_threshold_is_for_two_labels(tmp_path: Path) -> None:
    told = entry(labels=["a", "b", "c"], threshold=0.5)
    bundle = headed(tmp_path / "bundle", {"mine": told}, linear_head(3))
    with pytest.raises(BundleError, match="threshold is for two labels, and there are 3"):
        fe.load(bundle, "onnxruntime")


def test_a_heart_of_single_pictures_is_refused(tmp_path: Path) -> None:
    bundle = headed(tmp_path / "bundle", {"heart": entry()}, linear_head(2))
    with pytest.raises(BundleError, match=r"tasks\.heart must be for clips"):
        fe.load(bundle, "onnxruntime")


def spoil(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("change", [spoil, lambda data: data[:-1]])
def test_a_tampered_head_is_refused(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    bundle = headed(tmp_path / "bundle", {"mine": entry()}, linear_head(2))
    weights = bundle / "task.safetensors"
    weights.write_bytes(change(weights.read_bytes()))
    with pytest.raises(BundleIntegrityError, match=r"task\.safetensors"):
        fe.load(bundle, "onnxruntime")
