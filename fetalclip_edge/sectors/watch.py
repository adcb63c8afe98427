"""The sector of a film: found from several frames, and kept until the layout changes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.results import Region
from fetalclip_edge.sectors.find import Sector, find_in_thumbnail
from fetalclip_edge.sectors.lit import thumbnail

__all__ = ["SectorWatch", "Shown", "same_layout"]

_FIRST = 8
"""Frames from which a sector is found: what is dark in one is bright in another."""

_EVERY = 30
"""Frames from one look at the layout to the next; where a look disagrees, fewer."""

_SOON = 5
_LARGER, _SMALLER = 3, 8
"""Looks in a row that must find the sector larger, or smaller, before that is believed. A dark
picture looks like a smaller sector, and a larger one that is not believed cuts the picture off."""

_FILLS = 0.8
"""Share of the frame from which on the rectangle around a sector fills it."""

_RIM = 0.01
"""Of the frame's longer side: what is shown beside a sector."""

_ALIKE = 0.93
"""Intersection over union of the rectangles of two sectors of one layout, at least."""

_ASIDE = 0.015
"""Of the width: how far the sides of a sector lie apart, at most, where more of it is lit than
before. Drawn ones lay up to 0.013 apart, and at another depth, by a tenth, 0.02."""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What of a frame is ultrasound.

    Attributes:
        sector: what was found.
        region: the rectangle around it; None where it fills the frame, which is then left as it
            is: the model learned from such frames, and answers for them were worse when cut.
        mask: uint8 `(H, W)` of the frame, 255 where it is shown and 0 elsewhere. It has a rim
            around the sector, lest what is dark at its edge be lost.
    """

    sector: Sector
    region: Region | None
    mask: NDArray[np.uint8]

    @classmethod
    def of(cls, sector: Sector, height: int, width: int) -> Shown:
        """What is shown of a frame of that size."""
        fills = _area(sector.region) >= _FILLS * height * width
        rim = round(_RIM * max(height, width))
        return cls(sector, None if fills else sector.region, sector.mask(height, width, rim))


class SectorWatch:
    """Follows the sector of one film, or finds that of each picture of its own.

    Args:
        film: False for pictures of their own.
    """

    def __init__(self, *, film: bool) -> None:
        self._film = film
        self._size: tuple[int, int] | None = None
        self._begin()

    def _begin(self) -> None:
        self._looks: deque[NDArray[np.uint8]] = deque(maxlen=_FIRST)
        self._seen = self._next = 0
        self._larger = self._smaller = 0
        self._shown: Shown | None = None

    @property
    def settled(self) -> Sector | None:
        """The sector of a film, once enough frames were seen to trust it."""
        if not self._film or self._seen < _FIRST or self._shown is None:
            return None
        return self._shown.sector

    def update(self, image: NDArray[np.uint8]) -> Shown | None:
        """Take in the next frame `(H, W)` or `(H, W, 3)`.

        Returns:
            What of it is ultrasound, as far as is known; None where no sector was found.
        """
        size = (image.shape[0], image.shape[1])
        if size != self._size or not self._film:
            self._size = size
            self._begin()
        self._seen += 1
        if self._seen >= self._next:
            self._look(thumbnail(image), size)
        return self._shown

    def _look(self, small: NDArray[np.uint8], size: tuple[int, int]) -> None:
        if self._seen <= _FIRST:
            self._looks.append(small)
            self._adopt(size)
            self._next = self._seen + (1 if self._seen < _FIRST else _EVERY)
            return
        alone = find_in_thumbnail(small, *size)
        larger, smaller = self._disagrees(alone)
        if not (larger or smaller):
            self._larger = self._smaller = 0
            self._looks.append(small)
            self._next = self._seen + _EVERY
            return
        if not (self._larger or self._smaller):
            self._looks.clear()
        self._larger = self._larger + 1 if larger else 0
        self._smaller = self._smaller + 1 if smaller else 0
        self._looks.append(small)
        self._next = self._seen + (_SOON if larger else _EVERY)
        if self._larger >= _LARGER or self._smaller >= _SMALLER:
            self._larger = self._smaller = 0
            self._adopt(size)

    def _disagrees(self, alone: Sector | None) -> tuple[bool, bool]:
        """Whether one look finds more than is shown, or less."""
        if self._shown is None:
            return alone is not None, False
        if alone is None:
            return False, True
        kept = self._shown.sector.region
        if _alike(alone.region, kept):
            return False, False
        larger = _area(alone.region) + _area(kept) - _common(alone.region, kept) > (
            _area(kept) / _ALIKE
        )
        return larger, not larger

    def _adopt(self, size: tuple[int, int]) -> None:
        """Show what the looks together find."""
        brightest = self._looks[0]
        for look in list(self._looks)[1:]:
            brightest = np.asarray(cv2.max(brightest, look), dtype=np.uint8)
        found = find_in_thumbnail(brightest, *size)
        if found is None:
            self._shown = None
        elif self._shown is None or found.outline != self._shown.sector.outline:
            self._shown = Shown.of(found, *size)


def same_layout(now: Sector, before: Sector, height: int, width: int) -> bool:
    """Whether a film's sector is the one it was, so that a pixel is as many millimetres as then.

    The rectangles agree; or more of it is lit, as when a probe is put on that was held in air, and
    its sides lie where they lay.

    Args:
        now: as found in the film lately.
        before: as found earlier.
        height: of the frames.
        width: likewise.
    """
    if _alike(now.region, before.region):
        return True
    if _common(now.region, before.region) < _ALIKE * _area(before.region):
        return False
    larger, smaller = (sector.mask(height, width) > 0 for sector in (now, before))
    rows = smaller.any(axis=1)
    apart = np.abs(_ends(larger[rows]) - _ends(smaller[rows])).max(axis=0)
    return float(np.median(apart)) <= _ASIDE * before.region.width


def _ends(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Where each row begins and ends, `(2, rows)`."""
    return np.stack([mask.argmax(axis=1), mask.shape[1] - mask[:, ::-1].argmax(axis=1)])


def _alike(first: Region, second: Region) -> bool:
    """Whether two rectangles may be around sectors of one layout, by intersection over union."""
    common = _common(first, second)
    return common >= _ALIKE * (_area(first) + _area(second) - common)


def _common(first: Region, second: Region) -> int:
    wide = min(first.x + first.width, second.x + second.width) - max(first.x, second.x)
    high = min(first.y + first.height, second.y + second.height) - max(first.y, second.y)
    return max(0, wide) * max(0, high)


def _area(region: Region) -> int:
    return region.width * region.height
