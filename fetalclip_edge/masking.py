"""Blanking what of a frame is no ultrasound: names, logos, rulers."""

from __future__ import annotations

import weakref
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.preprocess import PreprocessSpec
from fetalclip_edge.results import Frame, Region

__all__ = ["InputMask", "crop", "visible"]

Mask = NDArray[np.uint8]

_Kept = tuple[weakref.ref[Mask], Region | None, NDArray[np.bool_]]
"""A mask, which part of the frame is the input, and where that is blanked."""

_STREAMS = 16
"""Streams on one model whose masks are remembered. Each keeps its mask while its layout stays."""

_WHOLE = 250
"""Of 255: a pixel of the input of which less is shown is blanked, lest a bright letter shine in."""


def visible(frame: Frame, step: int = 1) -> NDArray[np.uint8]:
    """The ultrasound of a frame: its region, black where its mask is 0.

    Args:
        frame: of a source.
        step: every so-many-th row alone, for who looks at a sample.

    Returns:
        `(H, W)` or `(H, W, 3)`; a view of the frame's picture where nothing is masked.
    """
    rows = crop(frame.image, frame.region)[::step]
    if frame.mask is None:
        return rows
    kept = np.ascontiguousarray(crop(frame.mask, frame.region)[::step])
    return np.asarray(cv2.copyTo(np.ascontiguousarray(rows), kept), dtype=np.uint8)


class InputMask:
    """Blanks the model's input where a frame's mask is 0.

    At the input's size that costs next to nothing, however large the frame.

    Args:
        spec: of the model's input.
    """

    def __init__(self, spec: PreprocessSpec) -> None:
        self._size = spec.size
        levels = np.zeros(spec.channels) if spec.dtype == "uint8" else _black(spec)
        self._black = levels.astype(spec.dtype)[:, None, None]
        self._kept: tuple[_Kept, ...] = ()

    def __call__(self, inputs: NDArray[Any], mask: Mask, region: Region | None) -> None:
        """Blank one input `(1, C, S, S)` in place.

        Args:
            inputs: of the preprocessor.
            mask: `(H, W)` of the frame.
            region: which part of the frame `inputs` is of; None for all.
        """
        np.copyto(inputs[0], self._black, where=self._found(mask, region))

    def _found(self, mask: Mask, region: Region | None) -> NDArray[np.bool_]:
        for reference, part, blank in self._kept:
            if reference() is mask and part == region:
                return blank
        blank = self._blank(mask, region)
        # Replaced as a whole: streams that share a model ask from threads of their own.
        living = tuple(each for each in self._kept if each[0]() is not None)
        self._kept = ((weakref.ref(mask), region, blank), *living[: _STREAMS - 1])
        return blank

    def _blank(self, mask: Mask, region: Region | None) -> NDArray[np.bool_]:
        """Where the input is blanked, `(S, S)`."""
        part = crop(mask, region)
        height, width = part.shape
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        edges = (top, side - height - top, left, side - width - left)
        # What of the padding lies beside a blanked edge would keep a shine of it.
        square = cv2.copyMakeBorder(part, *edges, cv2.BORDER_REPLICATE)
        size = (self._size, self._size)
        smaller = cv2.resize(square, size, interpolation=cv2.INTER_AREA)
        blank: NDArray[np.bool_] = smaller < _WHOLE
        return blank


def _black(spec: PreprocessSpec) -> NDArray[np.float64]:
    mean, std = (np.array(values, dtype=np.float64) for values in (spec.mean, spec.std))
    return -mean / std


def crop(image: NDArray[np.uint8], region: Region | None) -> NDArray[np.uint8]:
    """The part of an image `(H, W)` or `(H, W, 3)`; a view."""
    if region is None:
        return image
    return image[region.y : region.y + region.height, region.x : region.x + region.width]
