"""Values of a bundle's manifest, each of the kind that it must be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from fetalclip_edge.errors import BundleError

__all__ = ["field_of", "number_of", "texts_of"]

T = TypeVar("T")


def field_of(entry: object, key: str, kind: type[T], where: str = "") -> T:
    """A value of an object in the manifest.

    Args:
        entry: the object.
        key: which of its values.
        kind: what it must be.
        where: name of the object, for the error.

    Raises:
        BundleError: there is none, or it is of another kind.
    """
    name = f"{where}.{key}" if where else key
    if not isinstance(entry, Mapping) or key not in entry:
        raise BundleError(f"manifest: {name} is missing")
    value = entry[key]
    if not isinstance(value, kind):
        raise BundleError(f"manifest: {name} must be {kind.__name__}, not {value!r}")
    return value


def texts_of(values: object, where: str) -> tuple[str, ...]:
    """A list of texts.

    Raises:
        BundleError: it is none.
    """
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise BundleError(f"manifest: {where} must be a list of texts, not {values!r}")
    return tuple(values)


def number_of(value: object, where: str) -> float:
    """A finite number.

    Raises:
        BundleError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise BundleError(f"manifest: {where} must be a finite number, not {value!r}")
    return float(value)
