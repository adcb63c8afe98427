"""The head's measurements fitted to what people measured: where the edge lies, and the error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.tasks.biometry import Found, HeadSpec, find_head, objection

__all__ = ["FIRST_SPEC", "Seen", "edge_of", "errors_mm", "fit_head", "see_heads"]

FIRST_SPEC = HeadSpec(
    edge_px=0.0,
    rim_px=0.0,
    error_relative=0.02,
    least_coverage=0.6,
    most_residual=0.04,
    least_axis_ratio=0.6,
    most_axis_ratio=0.98,
    most_border=0.25,
)
"""Thresholds, and nothing fitted. Cephalic indices of healthy fetuses lie between 0.68 and 0.9
(Hadlock et al., AJR 137, 1981); what is outside of the limits here is no head, or badly cut."""

_QUANTILE = 0.95
_DEVIATIONS = 1.96


@dataclass(frozen=True, slots=True)
class Seen:
    """A head in a map, and what people measured of it.

    Attributes:
        found: the ellipse, or None where there was none.
        mm: millimetres per pixel of the model's input.
        published_mm: head circumference.
    """

    found: Found | None
    mm: float
    published_mm: float


def see_heads(
    logits: NDArray[np.float32],
    frames: Sequence[tuple[int, int]],
    size: int,
    pixel_sizes_mm: Sequence[float],
    published_mm: Sequence[float],
) -> list[Seen]:
    """Find the heads in maps.

    Args:
        logits: `(N, 1, H, W)`.
        frames: `(height, width)` of each picture.
        size: side of the model's input, in pixels.
        pixel_sizes_mm: millimetres per pixel of each picture.
        published_mm: circumferences.
    """
    seen = []
    for row, frame, mm, published in zip(logits, frames, pixel_sizes_mm, published_mm, strict=True):
        found, _ = find_head(row[0], size, frame)
        seen.append(Seen(found, mm * max(frame) / size, published))
    return seen


def edge_of(seen: Sequence[Seen]) -> float:
    """How far ellipses lie outside what people measured along, in pixels of the model's input.

    The median, which the few heads that are found wrongly do not move.

    Raises:
        ValueError: no head was found.
    """
    offsets = [
        (each.found.fit.ellipse.circumference - each.published_mm / each.mm) / (2 * math.pi)
        for each in seen
        if each.found is not None and objection(each.found, FIRST_SPEC) is None
    ]
    if not offsets:
        raise ValueError("no head was found in any map, so there is nothing to fit to")
    return float(np.median(offsets))


def errors_mm(seen: Sequence[Seen], spec: HeadSpec) -> NDArray[np.float64]:
    """Measured less published circumference of every head; NaN where it is withheld."""
    errors = np.full(len(seen), np.nan)
    for index, each in enumerate(seen):
        if each.found is None or objection(each.found, spec) is not None:
            continue
        ellipse = each.found.fit.ellipse.grown(-spec.edge_px - spec.rim_px)
        errors[index] = ellipse.circumference * each.mm - each.published_mm
    return errors


def fit_head(seen: Sequence[Seen], spec: HeadSpec) -> HeadSpec:
    """A specification with edge and error fitted.

    Args:
        seen: heads that nothing was learned from.
        spec: with the rim and the thresholds.

    Returns:
        The same with `edge_px` so that half the circumferences are too large, and `error_relative`
        so that 95 % are within 1.96 times it.

    Raises:
        ValueError: no head was found.
    """
    placed = replace(spec, edge_px=edge_of(seen) - spec.rim_px)
    published = np.array([each.published_mm for each in seen])
    relative = np.abs(errors_mm(seen, placed) / published)
    share = float(np.quantile(relative[np.isfinite(relative)], _QUANTILE))
    return replace(placed, error_relative=share / _DEVIATIONS)
