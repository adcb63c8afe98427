"""One YAML file per experiment, checked before anything loads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from training.models import ModelConfig

__all__ = ["ExperimentConfig", "Stage", "load_config"]

T = TypeVar("T")

_PLAIN: dict[object, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,)}


@dataclass(frozen=True, slots=True)
class Stage:
    """A number of epochs at one image size."""

    epochs: int
    image_size: int

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "stages.epochs must be at least 1", self.epochs)
        _require(
            self.image_size >= 32 and self.image_size % 32 == 0,
            "stages.image_size must be a multiple of 32",
            self.image_size,
        )


@dataclass(frozen=True, slots=True)
class ExperimentConfig:
    """What `training.pretrain` needs to know; the YAML has the same names."""

    seed: int
    holdout: float
    canvas: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    average_decay: float
    stages: tuple[Stage, ...]
    model: ModelConfig = field(default_factory=ModelConfig)

    def __post_init__(self) -> None:
        _require(0 < self.holdout < 1, "holdout must lie between 0 and 1", self.holdout)
        _require(self.batch_size >= 2, "batch_size must be at least 2", self.batch_size)
        _require(
            0 < self.learning_rate < math.inf,
            "learning_rate must be above 0 and finite",
            self.learning_rate,
        )
        _require(
            0 <= self.weight_decay < math.inf,
            "weight_decay must be finite and not negative",
            self.weight_decay,
        )
        _require(self.warmup_steps >= 0, "warmup_steps must not be negative", self.warmup_steps)
        _require(0 <= self.average_decay < 1, "average_decay must be in [0, 1)", self.average_decay)
        _require(len(self.stages) > 0, "stages must not be empty", self.stages)
        largest = max(stage.image_size for stage in self.stages)
        _require(self.canvas >= largest, f"canvas must be at least {largest}", self.canvas)

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    def image_size_at(self, epoch: int) -> int:
        """Image size of an epoch, counted from 0."""
        for stage in self.stages:
            if epoch < stage.epochs:
                return stage.image_size
            epoch -= stage.epochs
        raise ValueError(f"there are only {self.epochs} epochs")


def load_config(path: Path) -> ExperimentConfig:
    """Read and check an experiment.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML, or a key is missing, unknown, of the wrong type, or out of
            range; the message names it.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path} must hold keys and values, not {type(document).__name__}")
    values = dict(document)
    if "stages" in values:
        if not isinstance(values["stages"], list):
            raise ValueError(f"{path}: stages must be a list, not {values['stages']!r}")
        values["stages"] = tuple(
            _build(Stage, stage, f"{path}: stages") for stage in values["stages"]
        )
    if "model" in values:
        values["model"] = _build(ModelConfig, values["model"], f"{path}: model")
    return _build(ExperimentConfig, values, str(path))


def _build(kind: type[T], values: object, where: str) -> T:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must hold keys and values, not {values!r}")
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(str(key) for key in values if key not in known):
        raise ValueError(f"{where}: unknown keys {', '.join(unknown)}; known: {sorted(known)}")
    _check_types(kind, values, where)
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _check_types(kind: type[Any], values: Mapping[str, object], where: str) -> None:
    hints = get_type_hints(kind)
    for name, value in values.items():
        wanted = _PLAIN.get(hints[name])
        if wanted is not None and (isinstance(value, bool) or not isinstance(value, wanted)):
            # YAML takes 6e-4 for text, the commonest slip in such a file.
            hint = " (YAML wants a point and a sign: 6.0e-4)" if _is_number(value) else ""
            raise ValueError(
                f"{where}: {name} must be of type {hints[name].__name__}, not {value!r}{hint}"
            )


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False


def _require(condition: bool, message: str, value: Any) -> None:
    if not condition:
        raise ValueError(f"{message}, not {value!r}")
