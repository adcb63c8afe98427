"""State dicts out of other people's files: read without running code, checked name by name."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["Differences", "WeightsError", "compare", "read_state_dict"]

_WRAPPERS = ("state_dict", "model")
_PARALLEL_PREFIX = "module."
_LISTED = 10


class WeightsError(ValueError):
    """A file of weights cannot be read as tensors alone, or does not fit the model.

    Attributes:
        differences: all of them, where it does not fit; the message has the first ten of a kind.
    """

    def __init__(self, message: str, differences: Differences | None = None) -> None:
        super().__init__(message)
        self.differences = differences


def read_state_dict(path: str | PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a file that `torch.save` wrote, by name.

    The file may hold the state dict itself, or a training checkpoint that holds it under
    `state_dict` or `model`; a prefix `module.` on all names (DistributedDataParallel) is taken
    off. The tensors are mapped from the file, not read: what is never used costs no memory. Copy
    what is kept, for a file that is written anew under its mapping ends the process.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: it is a folder, is truncated, was not written by `torch.save`, needs code to
            be run, or holds no state dict.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file of weights at {path}")
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; name the file of weights itself")
    if not zipfile.is_zipfile(path):
        raise WeightsError(
            f"{path} is truncated, or not a file that torch.save wrote (PyTorch 1.6 or later): "
            "download it again and compare its size"
        )
    return _without_parallel_prefix(_find_state_dict(path, _load(path)))


def _load(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError:
        raise
    except Exception as error:  # a damaged file lets almost anything out of torch.load
        forbidden = re.search(r"GLOBAL (\S+)", str(error))
        if forbidden is None:
            reason = str(error).partition("\n")[0]
            raise WeightsError(f"{path} cannot be read, it may be damaged: {reason}") from error
        raise WeightsError(
            f"{path} holds more than tensors: it asks for {forbidden[1]}, and would run code to "
            "get it. Nothing was run. If you trust where the file comes from, load it where it "
            "was made, and save its state dict alone: torch.save(model.state_dict(), ...)"
        ) from error


def _find_state_dict(path: Path, content: object) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for wrapper in _WRAPPERS:
            if isinstance(content.get(wrapper), Mapping):
                content = content[wrapper]
                break
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds no state dict, but {_describe(content)}")
    others = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise WeightsError(
            f"{path} holds no state dict: not tensors are {_first(map(repr, others))}"
        )
    return {str(name): tensor for name, tensor in content.items()}


def _describe(content: object) -> str:
    return f"{'an empty' if isinstance(content, Mapping) else 'a'} {type(content).__name__}"


def _without_parallel_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if not all(name.startswith(_PARALLEL_PREFIX) for name in tensors):
        return tensors
    return {name.removeprefix(_PARALLEL_PREFIX): tensor for name, tensor in tensors.items()}


@dataclass(frozen=True, slots=True)
class Differences:
    """How a state dict differs from the one a model wants; false when it does not.

    Attributes:
        missing: names that the model has and the file has not.
        unexpected: names that the file has and the model has not.
        unlike: tensors of a wrong shape, or whole numbers where fractions belong, as sentences.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    unlike: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.unlike)

    def __str__(self) -> str:
        parts = (
            ("missing keys", self.missing),
            ("unexpected keys", self.unexpected),
            ("wrong shapes", self.unlike),
        )
        return "\n".join(f"{len(items)} {what}: {_first(items)}" for what, items in parts if items)


def compare(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Differences:
    """Compare a file's state dict with a model's, which may be on the `meta` device."""
    return Differences(
        missing=tuple(name for name in wanted if name not in found),
        unexpected=tuple(name for name in found if name not in wanted),
        unlike=tuple(
            f"{name} is {_shape(found[name])}, not {_shape(tensor)}"
            for name, tensor in wanted.items()
            if name in found and _kind(found[name]) != _kind(tensor)
        ),
    )


def _kind(tensor: Tensor) -> tuple[tuple[int, ...], bool]:
    return tuple(tensor.shape), tensor.is_floating_point()


def _shape(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)}{'' if tensor.is_floating_point() else f' {tensor.dtype}'}"


def _first(items: Iterable[str]) -> str:
    listed = list(items)
    more = len(listed) - _LISTED
    return ", ".join(listed[:_LISTED]) + (f" and {more} more" if more > 0 else "")
