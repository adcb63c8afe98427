"""What a calibration may be told, with the limits of its gate, from YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import onnx
import yaml

from calibration.gate import Gate
from calibration.symmetric_int8 import METHODS, method_for
from calibration.torch_ptq import TORCH_METHODS

__all__ = ["Settings", "load_settings", "save_settings", "settings_for"]

_FEWEST_FRAMES = 16


@dataclass(frozen=True, slots=True)
class Settings:
    """How to calibrate.

    Attributes:
        frames: of the calibration set, at least 16.
        seed: of its choice.
        method: how the symmetric graph's ranges are found, one of
            `calibration.symmetric_int8.METHODS`; None for the default of the kind of network.
        distill_epochs: how often the rounded model sees the calibration set and learns from the one
            in float32; for methods that begin with "torch".
        in_float: names of layers that stay in float.
        layers_in_float: at most so many more of the worst stay in float until the gate passes.
        gate: the limits.
        age_validity: a bundle tells the age of heads that were not measured if at least this share
            of validation heads is given an age at which their circumference is usual (the WHO
            chart's 2.5 to 97.5 %), 0 to 1. FetalCLIP's own is 0.8342 (arXiv 2502.14807).
    """

    frames: int = 256
    seed: int = 0
    method: str | None = None
    distill_epochs: int = 0
    in_float: tuple[str, ...] = ()
    layers_in_float: int = 4
    gate: Gate = field(default_factory=Gate)
    age_validity: float = 0.834

    def __post_init__(self) -> None:
        if self.frames < _FEWEST_FRAMES:
            raise ValueError(f"frames must be at least {_FEWEST_FRAMES}, not {self.frames}")
        if self.layers_in_float < 0:
            raise ValueError(f"layers_in_float must not be negative, not {self.layers_in_float}")
        if self.method not in (None, *METHODS):
            raise ValueError(f"method must be one of {', '.join(METHODS)}, not {self.method!r}")
        if not 0 <= self.age_validity <= 1:
            raise ValueError(f"age_validity must lie between 0 and 1, not {self.age_validity!r}")
        if self.distill_epochs < 0:
            raise ValueError(f"distill_epochs must not be negative, not {self.distill_epochs}")
        if self.distill_epochs and self.method not in (None, *TORCH_METHODS):
            known = ", ".join(TORCH_METHODS)
            raise ValueError(f"distill_epochs needs a method of {known}, not {self.method}")


def settings_for(settings: Settings, graph: onnx.GraphProto) -> Settings:
    """The settings with the method that a graph is quantised by.

    Args:
        settings: as told.
        graph: written by `export.graph.export_core`.

    Raises:
        ValueError: the method, or learning to be rounded, is not for such a graph.
    """
    return replace(settings, method=method_for(graph, settings.method))


def load_settings(path: Path) -> Settings:
    """Read and check a file of settings; what it does not say keeps its default.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML, or a key is unknown, of the wrong type or out of range.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    values = _checked(Settings, {} if document is None else document, str(path))
    if "gate" in values:
        where = f"{path}: gate"
        values["gate"] = _build(Gate, _checked(Gate, values["gate"], where), where)
    if "in_float" in values:
        values["in_float"] = tuple(values["in_float"])
    settings: Settings = _build(Settings, values, str(path))
    return settings


def save_settings(path: Path, settings: Settings) -> None:
    """Write a file that `load_settings` reads."""
    values = {**asdict(settings), "in_float": list(settings.in_float)}
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def _checked(kind: type[Any], values: object, where: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must hold keys and values, not {values!r}")
    known = {f.name for f in fields(kind)}
    if unknown := sorted(str(key) for key in values if key not in known):
        names = ", ".join(sorted(known))
        raise ValueError(f"{where}: unknown keys {', '.join(unknown)}; known: {names}")
    for name, value in values.items():
        if not _fits(kind, name, value):
            raise ValueError(f"{where}: {name} is of the wrong type: {value!r}")
    return dict(values)


def _fits(kind: type[Any], name: str, value: object) -> bool:
    if name == "method":
        return value is None or isinstance(value, str)
    if name == "in_float":
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    if name == "gate":
        return isinstance(value, Mapping)
    numbers = int | float if kind is Gate or name == "age_validity" else int
    return isinstance(value, numbers) and not isinstance(value, bool)


def _build(kind: type[Any], values: dict[str, Any], where: str) -> Any:
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
