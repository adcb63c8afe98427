"""What a calibration may be told, with the limits of its gate, from YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from calibration.gate import Gate
from calibration.modelopt_int8 import METHODS

__all__ = ["Settings", "load_settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How to calibrate.

    Attributes:
        frames: of the calibration set.
        seed: of its choice.
        methods: how modelopt may find ranges; the one nearest to FP32 on validation is taken.
        layers_in_float: at most so many of the worst layers stay in float to pass the gate.
        gate: the limits.
    """

    frames: int = 256
    seed: int = 0
    methods: tuple[str, ...] = ("max", "entropy")
    layers_in_float: int = 4
    gate: Gate = field(default_factory=Gate)

    def __post_init__(self) -> None:
        if self.frames < 32:
            raise ValueError(f"frames must be at least 32, not {self.frames}")
        if self.layers_in_float < 0:
            raise ValueError(f"layers_in_float must not be negative, not {self.layers_in_float}")
        unknown = sorted(set(self.methods) - set(METHODS))
        if unknown or not self.methods:
            raise ValueError(
                f"methods must be some of {', '.join(METHODS)}, not {', '.join(unknown) or 'none'}"
            )


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
        gate = _checked(Gate, values["gate"], f"{path}: gate")
        values["gate"] = _build(Gate, gate, f"{path}: gate")
    if "methods" in values:
        values["methods"] = tuple(values["methods"])
    return _build(Settings, values, str(path))


def _checked(kind: type[Any], values: object, where: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must hold keys and values, not {values!r}")
    known = {f.name for f in fields(kind)}
    if unknown := sorted(str(key) for key in values if key not in known):
        raise ValueError(f"{where}: unknown keys {', '.join(unknown)}; known: {sorted(known)}")
    for name, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name == "methods":
            right = isinstance(value, list) and all(isinstance(v, str) for v in value)
        elif name == "gate":
            right = isinstance(value, Mapping)
        else:
            right = number and (kind is Gate or isinstance(value, int))
        if not right:
            raise ValueError(f"{where}: {name} is of the wrong type: {value!r}")
    return dict(values)


def _build(kind: type[Any], values: dict[str, Any], where: str) -> Any:
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
