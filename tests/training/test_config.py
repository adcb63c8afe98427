"""Experiments in YAML: the shipped ones load, and every slip is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from training.config import Distillation, ExperimentConfig, Stage, load_config
from training.models import ModelConfig

GOOD: dict[str, Any] = {
    "seed": 0,
    "augmentation_seed": 1,
    "views": 16,
    "holdout": 0.2,
    "holdout_seed": 2,
    "canvas": 64,
    "batch_size": 4,
    "lanes": 2,
    "accumulate": 1,
    "precision": "bf16",
    "learning_rate": 0.001,
    "weight_decay": 0,
    "warmup_steps": 2,
    "average_decay": 0.9,
    "checkpoint_steps": 50,
    "stages": [{"epochs": 2, "image_size": 32}, {"epochs": 1, "image_size": 64}],
    "model": {"image_size": 64, "embed_dim": 16},
}


def write(folder: Path, document: object) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_good_file_becomes_the_configuration(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert config == ExperimentConfig(
        seed=0,
        augmentation_seed=1,
        views=16,
        holdout=0.2,
        holdout_seed=2,
        canvas=64,
        batch_size=4,
        lanes=2,
        accumulate=1,
        precision="bf16",
        learning_rate=0.001,
        weight_decay=0,
        warmup_steps=2,
        average_decay=0.9,
        checkpoint_steps=50,
        stages=(Stage(2, 32), Stage(1, 64)),
        model=ModelConfig(image_size=64, embed_dim=16),
    )
    assert config.epochs == 3
    assert [config.image_size_at(epoch) for epoch in range(3)] == [32, 32, 64]
    with pytest.raises(ValueError, match="only 3 epochs"):
        config.image_size_at(3)


def test_every_shipped_experiment_loads(repository: Path) -> None:
    shipped = sorted((repository / "training" / "configs").rglob("*.yaml"))
    assert shipped
    for path in shipped:
        assert load_config(path).epochs > 0


@pytest.mark.parametrize("key", sorted(set(GOOD) - {"model"}))
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        load_config(write(tmp_path, {k: v for k, v in GOOD.items() if k != key}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", "zero"),
        ("seed", 1.5),
        ("seed", True),
        ("holdout", 0),
        ("holdout", 1),
        ("holdout", "some"),
        ("views", 0),
        ("lanes", 0),
        ("lanes", 3),
        ("accumulate", 0),
        ("accumulate", 3),
        ("precision", "int8"),
        ("precision", False),
        ("checkpoint_steps", 0),
        ("distillation", 1),
        ("model", {"image_size": 96, "embed_dim": 16}),
        ("canvas", 63),
        ("canvas", None),
        ("batch_size", 1),
        ("batch_size", 4.0),
        ("learning_rate", 0),
        ("learning_rate", -1e-3),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("weight_decay", -0.1),
        ("weight_decay", float("nan")),
        ("warmup_steps", -1),
        ("average_decay", 1),
        ("average_decay", -0.1),
        ("frozen_stages", -1),
        ("recognition", -0.5),
        ("recognition", float("inf")),
        ("sub_plane_draws", 0),
        ("sub_plane_balance", 0.5),  # without recognition
        ("sub_plane_balance", 1.5),
        ("sub_plane_balance", -0.5),
        ("stages", []),
        ("stages", 3),
        ("stages", [7]),
        ("stages", [{"epochs": 0, "image_size": 32}]),
        ("stages", [{"epochs": 1, "image_size": 33}]),
        ("stages", [{"epochs": 1, "image_size": 0}]),
        ("stages", [{"epochs": 1.5, "image_size": 32}]),
        ("stages", [{"epochs": 1, "image_size": 32, "momentum": 1}]),
        ("learning_rates", 0.1),
        (3, 0.1),
        ("model", "large"),
    ],
)
def test_a_bad_value_or_key_is_named(tmp_path: Path, key: Any, value: object) -> None:
    with pytest.raises(ValueError, match=str(key)) as caught:
        load_config(write(tmp_path, {**GOOD, key: value}))
    assert "experiment.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", 0),
        ("image_size", "big"),
        ("embed_dim", 0),
        ("backbone", "efficientnet_light"),
        ("backbone", 7),
        ("mean", -0.1),
        ("mean", 127),
        ("std", 0),
        ("std", float("inf")),
        ("text_context", 0),
        ("text_heads", 3),
        ("text_layers", 0),
        ("depth", 12),
    ],
)
def test_a_bad_shape_of_the_model_is_named(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"model: .*{key}"):
        load_config(write(tmp_path, {**GOOD, "model": {"image_size": 64, key: value}}))


def test_a_number_that_yaml_takes_for_text_is_explained(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    path.write_text(path.read_text().replace("learning_rate: 0.001", "learning_rate: 6e-4"))
    with pytest.raises(ValueError, match=r"learning_rate .* not '6e-4' .*6\.0e-4"):
        load_config(path)


@pytest.mark.parametrize(("text", "told"), [("{a: [", "not YAML"), ("- 1", "keys and values")])
def test_a_file_that_is_no_experiment_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"experiment.yaml.*{told}"):
        load_config(path)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "changed", [{"start": "random"}, {"model": {"published": "fetalclip"}, "start": "w.pt"}]
)
def test_only_trained_stages_of_our_own_can_be_frozen(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    values = {**GOOD, "canvas": 224, "stages": [{"epochs": 1, "image_size": 224}], **changed}
    if changed["start"] == "random":
        values["model"] = {"image_size": 224, "embed_dim": 16}
    assert load_config(write(tmp_path, values)).frozen_stages == 0
    with pytest.raises(ValueError, match="frozen_stages needs a model of our own shapes"):
        load_config(write(tmp_path, {**values, "frozen_stages": 1}))


def test_a_section_distillation_is_read(tmp_path: Path) -> None:
    section = {"logits": 1, "features": 0, "off_diagonal_start": 2.0, "off_diagonal_end": -0.8}
    config = load_config(write(tmp_path, {**GOOD, "distillation": section}))
    assert config.distillation == Distillation(1, 0, 2.0, -0.8)
    assert config.distillation.off_diagonal_at(0.25) == pytest.approx(1.3)
    assert load_config(write(tmp_path, GOOD)).distillation is None
    assert load_config(write(tmp_path, {**GOOD, "distillation": None})).distillation is None


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"logits": -1}, "logits must be 0 or more"),
        ({"logits": 0, "features": 0}, "must not both be 0"),
        ({"off_diagonal_end": float("nan")}, "off_diagonal_end must be finite"),
        ({"beta": 2}, "unknown keys beta"),
    ],
)
def test_a_bad_distillation_is_named(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    section = {"logits": 1.0, "features": 1.0, **changed}
    with pytest.raises(ValueError, match=f"distillation.*{told}"):
        load_config(write(tmp_path, {**GOOD, "distillation": section}))
