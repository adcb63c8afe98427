"""What is known of an image, what a caption claims, and whether the two agree.

Captions of different images may say the same thing, and labels are incomplete (head
circumference images carry no sub-plane, plane images no gestational age). So a pair of image and
caption is one of three: the caption is true of the image, it is false, or nobody knows. Only the
first two teach a contrastive loss anything. A free caption, from somebody's table, is true of its
own image and of those with the same caption, and false of other images with free captions, as CLIP
takes it; how it stands to labelled images nobody knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CONTRADICTS", "SUPPORTS", "UNKNOWN", "Facts", "relations"]

SUPPORTS, UNKNOWN, CONTRADICTS = 1, 0, -1

# Up to the first number a stated value counts as right, beyond the second as wrong.
_AGE_TOLERANCE_DAYS = (3.0, 7.0)
_PIXEL_SIZE_TOLERANCE = (0.05, 0.15)


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
    known = _columns(images)
    claimed = {name: column[None, :] for name, column in _columns(captions).items()}
    known = {name: column[:, None] for name, column in known.items()}

    verdicts = [
        _compare_names(known["plane"], claimed["plane"]),
        _compare_captions(known["caption"], claimed["caption"]),
        _compare_names(known["brain_plane"], claimed["brain_plane"]),
        _compare_numbers(
            np.abs(known["age"] - claimed["age"]), claimed["age"], _AGE_TOLERANCE_DAYS
        ),
        _compare_numbers(
            np.abs(known["pixel_size"] / claimed["pixel_size"] - 1),
            claimed["pixel_size"],
            _PIXEL_SIZE_TOLERANCE,
        ),
    ]
    # False beats unknown beats true, in that order of numbers.
    return np.asarray(np.minimum.reduce(verdicts), dtype=np.int8)


def _columns(facts: Sequence[Facts]) -> dict[str, NDArray[Any]]:
    def number(value: float | None) -> float:
        return np.nan if value is None else float(value)

    return {
        "plane": np.array([f.plane or "" for f in facts], dtype="U32"),
        "caption": np.array([f.caption or "" for f in facts], dtype=object),
        "brain_plane": np.array([f.brain_plane or "" for f in facts], dtype="U32"),
        "age": np.array([number(f.gestational_age_days) for f in facts]),
        "pixel_size": np.array([number(f.pixel_size_mm) for f in facts]),
    }


def _compare_names(known: NDArray[Any], claimed: NDArray[Any]) -> NDArray[np.int64]:
    verdict = np.where(known == claimed, SUPPORTS, CONTRADICTS)
    verdict = np.where(known == "", UNKNOWN, verdict)
    return np.where(claimed == "", SUPPORTS, verdict)


def _compare_captions(known: NDArray[Any], claimed: NDArray[Any]) -> NDArray[np.int64]:
    verdict = np.where(known == claimed, SUPPORTS, CONTRADICTS)
    # Nobody said whether a labelled image fits a free caption, or a label a captioned image.
    return np.where((known == "") != (claimed == ""), UNKNOWN, verdict)


def _compare_numbers(
    difference: NDArray[np.float64], claimed: NDArray[Any], tolerance: tuple[float, float]
) -> NDArray[np.int64]:
    right, wrong = tolerance
    verdict = np.where(difference <= right, SUPPORTS, UNKNOWN)
    verdict = np.where(difference > wrong, CONTRADICTS, verdict)
    return np.where(np.isnan(claimed.astype(np.float64)), SUPPORTS, verdict)
