"""What is known of an image, what a caption claims, and whether the two agree.

Captions of different images may say the same thing, and labels are incomplete (head
circumference images carry no sub-plane, plane images no gestational age). So a pair of image and
caption is one of three: the caption is true of the image, it is false, or nobody knows. Only the
first two teach a contrastive loss anything. A free caption, from somebody's table, is true of its
own image and of those with the same caption, and false of other images with free captions, as CLIP
takes it; how it stands to labelled images nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "AGE_TOLERANCE_DAYS",
    "CONTRADICTS",
    "PIXEL_SIZE_TOLERANCE",
    "SUPPORTS",
    "UNKNOWN",
    "Facts",
    "Tolerance",
    "relations",
]

SUPPORTS, UNKNOWN, CONTRADICTS = 1, 0, -1


class Tolerance(NamedTuple):
    """How far a stated number may be off: right up to `right`, wrong beyond `wrong`."""

    right: float
    wrong: float


AGE_TOLERANCE_DAYS = Tolerance(right=3.0, wrong=7.0)
"""Of a gestational age, in days."""

PIXEL_SIZE_TOLERANCE = Tolerance(right=0.05, wrong=0.15)
"""Of a pixel size, as a share of the stated one."""

# Rows of the table that are judged at a time: few enough to stay in the processor's cache.
_ROWS = 16


@dataclass(frozen=True, slots=True)
class Facts:
    """Known, or claimed, of one image; None where it is not.

    Attributes:
        plane: one of `fetalclip_edge.results.PLANES`; None where there is only a free caption.
        brain_plane: one of `fetalclip_edge.results.BRAIN_PLANES`, or "other" for a brain image
            known to be none of them.
        gestational_age_days: gestational age in days.
        pixel_size_mm: millimetres per pixel of the network's input.
        caption: a free caption that came with the image.
    """

    plane: str | None
    brain_plane: str | None = None
    gestational_age_days: float | None = None
    pixel_size_mm: float | None = None
    caption: str | None = None

    @property
    def kind(self) -> tuple[str | None, str | None, bool]:
        """Plane, sub-plane and, told by a known pixel size, data set."""
        return self.plane, self.brain_plane, self.pixel_size_mm is not None


def relations(images: Sequence[Facts], captions: Sequence[Facts]) -> NDArray[np.int8]:
    """How each caption stands to each image.

    Returns:
        int8 `(len(images), len(captions))` of `SUPPORTS`, `UNKNOWN` and `CONTRADICTS`. A caption
        contradicts when any of its claims is known to be false of the image; it supports when
        all of them are known to be true.
    """
    known, claimed = _columns(images, captions)
    table = np.empty((len(images), len(captions)), np.int8)
    for start in range(0, len(images), _ROWS):
        rows = slice(start, start + _ROWS)
        verdicts = [
            _compare_names(known.planes[rows], claimed.planes),
            _compare_names(known.brain_planes[rows], claimed.brain_planes),
            _compare_captions(known.captions[rows], claimed.captions),
            _compare_ages(known.ages[rows], claimed.ages),
            _compare_pixel_sizes(known.pixel_sizes[rows], claimed.pixel_sizes),
        ]
        supports = np.logical_and.reduce([verdict.right for verdict in verdicts])
        contradicts = np.logical_or.reduce([verdict.wrong for verdict in verdicts])
        # 1 - 0, 0 - 0 or 0 - 1: where a claim is wrong, not all of them are right.
        np.subtract(supports, contradicts, out=table[rows], dtype=np.int8)
    return table


class _Columns(NamedTuple):
    """Facts, an array for each kind: names and captions as codes, 0 for none; else NaN for none."""

    planes: NDArray[np.int32]
    brain_planes: NDArray[np.int32]
    captions: NDArray[np.int32]
    ages: NDArray[np.float64]
    pixel_sizes: NDArray[np.float64]


def _columns(*sides: Sequence[Facts]) -> list[_Columns]:
    # One code for a name on all sides: codes are compared much faster than texts.
    codes: dict[str, int] = {"": 0}

    def name(values: Iterable[str | None]) -> NDArray[np.int32]:
        return np.array([codes.setdefault(v or "", len(codes)) for v in values], np.int32)

    def number(values: Iterable[float | None]) -> NDArray[np.float64]:
        return np.array([np.nan if v is None else v for v in values], np.float64)

    return [
        _Columns(
            name(f.plane for f in facts),
            name(f.brain_plane for f in facts),
            name(f.caption for f in facts),
            number(f.gestational_age_days for f in facts),
            number(f.pixel_size_mm for f in facts),
        )
        for facts in sides
    ]


class _Verdicts(NamedTuple):
    """Of one kind of fact: where the claim, if any, is known to be right, and where wrong."""

    right: NDArray[np.bool_]
    wrong: NDArray[np.bool_]


def _compare_names(known: NDArray[np.int32], claimed: NDArray[np.int32]) -> _Verdicts:
    same, wrong = _compare_captions(known, claimed)
    return _Verdicts(same | (claimed == 0), wrong)


def _compare_captions(known: NDArray[np.int32], claimed: NDArray[np.int32]) -> _Verdicts:
    # Nobody said whether a labelled image fits a free caption, or a label a captioned image.
    same = known[:, None] == claimed
    return _Verdicts(same, ~same & (known != 0)[:, None] & (claimed != 0))


def _compare_ages(known: NDArray[np.float64], claimed: NDArray[np.float64]) -> _Verdicts:
    return _compare_numbers(np.abs(known[:, None] - claimed), claimed, AGE_TOLERANCE_DAYS)


def _compare_pixel_sizes(known: NDArray[np.float64], claimed: NDArray[np.float64]) -> _Verdicts:
    return _compare_numbers(np.abs(known[:, None] / claimed - 1), claimed, PIXEL_SIZE_TOLERANCE)


def _compare_numbers(
    difference: NDArray[np.float64], claimed: NDArray[np.float64], tolerance: Tolerance
) -> _Verdicts:
    # Where either number is missing the difference is NaN: neither right nor wrong by itself.
    right = (difference <= tolerance.right) | np.isnan(claimed)
    return _Verdicts(right, difference > tolerance.wrong)
