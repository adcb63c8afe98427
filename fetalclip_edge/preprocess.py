"""From a frame to the model's input: pad to a square, resize as Pillow does, normalise.

The work is done by the compiled module `fetalclip_edge._native` (sources in `cpp_ext/`), in one
call that reads the frame where it lies and releases the GIL.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.errors import BundleError, InvalidImageError, InvalidImageTypeError
from fetalclip_edge.results import ColorOrder, Region

try:
    from fetalclip_edge._native import Resampler
except ModuleNotFoundError as error:
    raise ImportError(
        "fetalclip_edge._native, the compiled part of fetalclip-edge, is missing; "
        "run `pip install -e .` in the checkout, or install the wheel"
    ) from error

__all__ = ["CLIP_MEAN", "CLIP_STD", "PreprocessSpec", "Preprocessor", "preprocess"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of CLIP's training images per channel, R, G, B, in units of 0 to 1."""

CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Standard deviation of CLIP's training images per channel, R, G, B, in units of 0 to 1."""

_LARGEST_SIZE = 8192
_CHOICES = {
    "color": ("gray", "rgb"),
    "interpolation": ("bicubic", "bilinear"),
    "padding": ("square",),
    "dtype": ("uint8", "float16", "float32"),
}


@dataclass(frozen=True)
class PreprocessSpec:
    """What a model wants as its input; a bundle's manifest holds one.

    Attributes:
        size: side of the square input, in pixels.
        color: "gray" (one channel) or "rgb" (three).
        mean: one value a channel, in units of 0 to 1.
        std: likewise, above zero. A float input is `(level / 255 - mean) / std`.
        interpolation: "bicubic" or "bilinear", with antialiasing, as in Pillow.
        padding: "square": zeros around the frame, which stays in the middle.
        dtype: "float32", "float16", or "uint8": the grey levels themselves, for a graph that
            normalises inside (`mean` and `std` then say what it does, and are not applied).

    Raises:
        InvalidImageError: a value that cannot be used.
        InvalidImageTypeError: a value of the wrong type.
    """

    size: int = 224
    color: Literal["gray", "rgb"] = "rgb"
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    padding: Literal["square"] = "square"
    dtype: Literal["uint8", "float16", "float32"] = "float32"

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int):
            raise InvalidImageTypeError(f"size must be an int, got {self.size!r}")
        if not 1 <= self.size <= _LARGEST_SIZE:
            raise InvalidImageError(f"size must be 1 to {_LARGEST_SIZE}, got {self.size}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                wanted = " or ".join(f'"{choice}"' for choice in choices)
                raise InvalidImageError(f"{name} must be {wanted}, got {getattr(self, name)!r}")
        object.__setattr__(self, "mean", _per_channel("mean", self.mean, self.channels))
        object.__setattr__(self, "std", _per_channel("std", self.std, self.channels))
        if min(self.std) <= 0:
            raise InvalidImageError(f"std must be above zero, got {self.std}")

    @property
    def channels(self) -> int:
        """Channels of the model's input: 1 or 3."""
        return 3 if self.color == "rgb" else 1

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the input of one frame: `(1, channels, size, size)`."""
        return (1, self.channels, self.size, self.size)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PreprocessSpec:
        """The specification in a bundle's manifest, which must name every attribute and no other.

        Raises:
            BundleError: a key is missing or unknown, or a value cannot be used.
        """
        if not isinstance(values, Mapping):
            raise BundleError(f"preprocess must be an object, got {values!r}")
        names = [field.name for field in fields(cls)]
        if missing := [name for name in names if name not in values]:
            raise BundleError(f"preprocess lacks {', '.join(missing)}")
        if unknown := [name for name in values if name not in names]:
            raise BundleError(f"preprocess has unknown keys: {', '.join(map(str, unknown))}")
        try:
            return cls(**values)
        except (InvalidImageError, InvalidImageTypeError) as error:
            raise BundleError(f"preprocess: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads, as plain JSON values."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}


def _per_channel(name: str, values: object, channels: int) -> tuple[float, ...]:
    """`channels` finite floats; one number stands for all channels."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    single = isinstance(values, (int, float, np.number)) and not isinstance(values, bool)
    items = [values] * channels if single else values
    if not isinstance(items, Sequence) or isinstance(items, (str, bytes)):
        raise InvalidImageTypeError(f"{name} must be a number or {channels} of them, got {items!r}")
    try:
        numbers = tuple(float(item) for item in items)
    except (TypeError, ValueError) as error:
        raise InvalidImageTypeError(f"{name} must hold numbers, got {items!r}") from error
    if len(numbers) != channels:
        raise InvalidImageError(f"{name} must have {channels} values, got {items!r}")
    if not all(math.isfinite(number) for number in numbers):
        raise InvalidImageError(f"{name} must be finite, got {items!r}")
    return numbers


class Preprocessor:
    """Makes the input that a specification asks for, one frame a call.

    It keeps tables for the geometries of the last frames, so use one for a whole stream. Several
    threads may call it at once, each with a buffer of its own.

    Args:
        spec: what the model wants.
        instruction_set: one of `fetalclip_edge._native.instruction_sets()`, None for the best.
            All of them give the same bits.

    Example:
        >>> import numpy as np
        >>> frame = np.zeros((540, 800), np.uint8)
        >>> Preprocessor(PreprocessSpec(size=224))(frame, color="gray").shape
        (1, 3, 224, 224)
    """

    def __init__(self, spec: PreprocessSpec, *, instruction_set: str | None = None) -> None:
        self.spec = spec
        self._resampler = Resampler(
            spec.size,
            interpolation=spec.interpolation,
            channels=spec.channels,
            dtype=spec.dtype,
            mean=spec.mean,
            std=spec.std,
            instruction_set=instruction_set,
        )

    def __call__(
        self,
        image: NDArray[np.uint8],
        *,
        color: ColorOrder = "rgb",
        region: Region | tuple[int, int, int, int] | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """The model's input for one frame.

        Args:
            image: uint8, `(H, W)` grey or `(H, W, 3)`, any strides: a cropped or flipped view is
                read where it lies.
            color: order of the channels of an `(H, W, 3)` image, "rgb" or "bgr". An `(H, W)`
                image is grey whatever this says.
            region: the part to use, `(x, y, width, height)` in pixels; None for the whole frame.
            out: where to write: C-contiguous, of `spec.shape` and `spec.dtype`; may be a slice
                `batch[i : i + 1]`. None for a new array.

        Returns:
            `out`, or a new array, `(1, C, S, S)`. A colour frame for a grey model is converted
            first (ITU-R 601 luma, as Pillow's `convert("L")`); a grey frame for a colour model
            is repeated.

        Raises:
            InvalidImageError: the image is empty, its shape or `region` or `out` cannot be used.
            InvalidImageTypeError: an argument has the wrong type or dtype.
        """
        return self._resampler(image, color, region, out)


@lru_cache(maxsize=8)
def _preprocessor(spec: PreprocessSpec) -> Preprocessor:
    return Preprocessor(spec)


def preprocess(
    image: NDArray[np.uint8],
    size: int = 224,
    mean: float | Sequence[float] = CLIP_MEAN,
    std: float | Sequence[float] = CLIP_STD,
    color: ColorOrder = "rgb",
) -> NDArray[np.float32]:
    """FetalCLIP's preprocessing of one image: zero-pad to a square, bicubic resize, normalise.

    Within a grey level, on noise two, of Pillow's pad, `resize((size, size), BICUBIC)`, `/ 255`,
    `(x - mean) / std`.

    Args:
        image: uint8, `(H, W)` grey or `(H, W, 3)`.
        size: side of the square result.
        mean: one value a channel in the order R, G, B, or one number for all three.
        std: likewise, above zero.
        color: order of the channels of an `(H, W, 3)` image; an `(H, W)` image is always grey.

    Returns:
        float32 `(1, 3, size, size)`, channels in the order R, G, B; a grey image is repeated.

    Raises:
        InvalidImageError: a shape or value that cannot be used.
        InvalidImageTypeError: an argument of the wrong type or dtype.
    """
    spec = PreprocessSpec(
        size=size,
        mean=_per_channel("mean", mean, 3),
        std=_per_channel("std", std, 3),
    )
    return cast("NDArray[np.float32]", _preprocessor(spec)(image, color=color))
