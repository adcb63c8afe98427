"""Where one scanner's screen shows the ultrasound, written down once: region profiles in YAML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.errors import ProfileError, ProfileNotFoundError
from fetalclip_edge.results import Region

__all__ = ["RegionProfile", "read_profile"]

_LARGEST_SIDE = 16384
_KEYS = ("name", "frame", "region", "masked")
_LARGEST_FILE = 1 << 20


@dataclass(frozen=True)
class RegionProfile:
    """What one layout of one scanner's screen looks like.

    Attributes:
        name: of the scanner and the layout, for people.
        width, height: of the frames it is for, in pixels. It holds for no other size.
        region: the ultrasound within the frame.
        masked: rectangles within the frame that are blanked: names, logos, rulers.

    Raises:
        ProfileError: a value cannot be used (a ValueError).
    """

    name: str
    width: int
    height: int
    region: Region
    masked: tuple[Region, ...] = ()

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name.strip()):
            raise ProfileError(f"name must be a text, not {self.name!r}")
        for side in ("width", "height"):
            value = getattr(self, side)
            if not _is_whole(value) or not 1 <= value <= _LARGEST_SIDE:
                raise ProfileError(
                    f"frame: {side} must be a whole number of pixels, 1 to {_LARGEST_SIDE}, "
                    f"not {value!r}"
                )
        object.__setattr__(self, "region", self._within("region", self.region))
        if isinstance(self.masked, (str, bytes)) or not isinstance(self.masked, Iterable):
            raise ProfileError(f"masked must be a list of rectangles, not {self.masked!r}")
        masked = tuple(
            self._within(f"masked, rectangle {number}", each)
            for number, each in enumerate(self.masked, 1)
        )
        object.__setattr__(self, "masked", masked)

    def _within(self, what: str, values: object) -> Region:
        """A rectangle that lies in the frame."""
        if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
            raise ProfileError(f"{what} must be [x, y, width, height], not {values!r}")
        if len(values) != 4 or not all(map(_is_whole, values)):
            raise ProfileError(
                f"{what} must be four whole numbers, [x, y, width, height], not {list(values)!r}"
            )
        found = Region(*values)
        if min(found.x, found.y) < 0 or min(found.width, found.height) < 1:
            raise ProfileError(f"{what} must have a place and a size, not {list(values)!r}")
        if found.x + found.width > self.width or found.y + found.height > self.height:
            raise ProfileError(
                f"{what} {list(values)!r} reaches beyond the frame of {self.width}x{self.height}"
            )
        return found

    def mask(self) -> NDArray[np.uint8] | None:
        """255 where the frame is shown, 0 where it is blanked, `(height, width)`; None for all."""
        if not self.masked:
            return None
        shown = np.full((self.height, self.width), 255, dtype=np.uint8)
        for x, y, width, height in self.masked:
            shown[y : y + height, x : x + width] = 0
        return shown


def read_profile(path: str | Path) -> RegionProfile:
    """A region profile from a YAML file.

    Raises:
        ProfileNotFoundError: there is no such file (a FileNotFoundError).
        ProfileError: it is no YAML, lacks a key, has one too many, or a value cannot be used.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ProfileError(f"{path} is too large to be a region profile")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ProfileNotFoundError(f"{path}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise ProfileError(f"{path} is no UTF-8 text: {error}") from None
    except OSError as error:
        raise ProfileError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return _profile(_parse(text))
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}") from None


def _parse(text: str) -> object:
    import yaml  # only who has a profile needs it

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise ProfileError(f"no YAML{where}: {problem}") from None
    except (ValueError, RecursionError) as error:  # dates that are none, deep nesting
        raise ProfileError(f"no YAML: {error}") from None


def _profile(values: object) -> RegionProfile:
    keys = _demand("it", values, _KEYS, optional=("masked",))
    frame = _demand("frame", keys["frame"], ("width", "height"))
    masked = keys.get("masked")
    return RegionProfile(
        keys["name"],
        frame["width"],
        frame["height"],
        keys["region"],
        () if masked is None else masked,
    )


def _demand(
    what: str, values: object, names: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, Any]:
    """A mapping with these keys and no other."""
    wanted = ", ".join(names)
    if not isinstance(values, dict):
        raise ProfileError(f"{what} must be a mapping with {wanted}, not {values!r}")
    if missing := [name for name in names if name not in values and name not in optional]:
        raise ProfileError(f"{what} lacks {', '.join(missing)}")
    if unknown := [str(name) for name in values if name not in names]:
        raise ProfileError(f"{what} has unknown keys: {', '.join(unknown)}; it may have {wanted}")
    return values


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
