"""Spoils good ultrasound frames step by step, as a probe in the wrong hands would."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["SPOILING", "shifted"]

Picture = NDArray[np.uint8]

_APEX = 0.35
"""Height of the point that beams come from, above the picture, as a share of its height."""
_SKULL = 0.3
"""Depth of what throws the shadow, likewise."""
_WIDEST = math.radians(60)


def darker(image: Picture, gain: float) -> Picture:
    """Grey levels times `gain`."""
    return np.asarray(np.clip(image.astype(np.float32) * gain, 0, 255), np.uint8)


def blurred(image: Picture, sigma: float) -> Picture:
    """A Gaussian blur; `sigma` as a share of the picture's width."""
    if sigma == 0:
        return image
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma * image.shape[1]), np.uint8)


def hazy(image: Picture, haze: float) -> Picture:
    """Mixed with a share `haze` of even grey wherever there is picture."""
    inside = cv2.morphologyEx((image > 10).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((25, 25)))
    mixed = (1 - haze) * image + haze * 90 * inside
    return np.asarray(mixed, np.uint8)


def shadowed(image: Picture, share: float) -> Picture:
    """A wedge of shadow below a bright echo, over a share of the angle of the beams."""
    if share == 0:
        return image
    height, width = image.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle = np.arctan2(x - width / 2, y + _APEX * height)
    depth = np.hypot(x - width / 2, y + _APEX * height) / height - _APEX
    inside = np.abs(angle) < share * _WIDEST / 2
    spoiled = image.astype(np.float32)
    echo = inside & (np.abs(depth - _SKULL) < 0.015)
    spoiled[inside & (depth > _SKULL)] *= 0.06
    spoiled[echo] = 220
    return spoiled.astype(np.uint8)


def shifted(image: Picture, share: float) -> Picture:
    """Moved to the right by a share of the width; black comes in."""
    by = round(share * image.shape[1])
    moved = np.zeros_like(image)
    moved[:, by:] = image[:, : image.shape[1] - by]
    return moved


SPOILING: Mapping[str, tuple[str, Callable[[Picture, float], Picture], tuple[float, ...]]] = (
    MappingProxyType(
        {
            "darker": ("gain", darker, (1.0, 0.6, 0.4, 0.25, 0.15, 0.08)),
            "brighter": ("gain", darker, (1.0, 1.5, 2.0, 3.0, 5.0)),
            "blurred": ("contrast", blurred, (0.0, 0.005, 0.01, 0.02, 0.04)),
            "hazy": ("contrast", hazy, (0.0, 0.3, 0.5, 0.7, 0.85)),
            "shadowed": ("shadow", shadowed, (0.0, 0.15, 0.3, 0.45, 0.6)),
        }
    )
)
"""Name -> the score that should fall, what is done, and how much; the first leaves it as it is."""
