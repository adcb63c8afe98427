"""The fetal head measured: from the graph's map of it to circumference and diameters, or why not.

Circumference and diameters run along the outer edge of the skull: "outer-outer" for the biparietal
diameter. The one from outer to inner edge, which many charts mean, is smaller by the skull's
thickness, which a filled mask does not tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.errors import BundleError
from fetalclip_edge.results import HeadBiometry, HeadOutline, Region
from fetalclip_edge.tasks.ellipse import Ellipse, Fit, fit_ellipse, outline, region

__all__ = ["HEAD_OUTPUT", "Found", "HeadSpec", "HeadTask", "find_head", "objection"]

HEAD_OUTPUT = "head_logits"
"""Name of the graph's output with the map, float32 `(N, 1, H, W)`: above zero is head."""

_SMALLEST = 12
"""Pixels of the map that a head has at least."""

_SECTORS = 36
"""Parts into which the ellipse is divided to see how much of it the outline covers."""


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """What a bundle's manifest says of its map of the head.

    Attributes:
        edge_px: how far the map's outline lies outside the masks it was taught by, on validation
            heads, in pixels of the model's input.
        rim_px: how far the masks' edge lies outside the line that people measured along, likewise.
        error_relative: standard deviation of a circumference, as a share of it, on the same.
        least_coverage: share of the ellipse along which there must be outline, 0 to 1.
        most_residual: largest root mean square distance of the outline from the ellipse, in mean
            radii.
        least_axis_ratio, most_axis_ratio: of the short diameter to the long one.
        most_border: largest share of the outline along the picture's border, where the head is cut
            off.

    Raises:
        BundleError: a value is out of range.
    """

    edge_px: float
    rim_px: float
    error_relative: float
    least_coverage: float
    most_residual: float
    least_axis_ratio: float
    most_axis_ratio: float
    most_border: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise BundleError(f"manifest: head.{field.name} must be a number, not {value!r}")
            lowest = -16.0 if field.name.endswith("_px") else 0.0
            highest = 16.0 if field.name.endswith("_px") else 1.0
            if not lowest <= value <= highest:
                raise BundleError(
                    f"manifest: head.{field.name} must be {lowest:g} to {highest:g}, not {value}"
                )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HeadSpec:
        """The part `head` of a manifest. What else it holds, such as metrics, is left alone.

        Raises:
            BundleError: a value is missing or out of range.
        """
        names = [field.name for field in fields(cls)]
        if missing := [name for name in names if name not in values]:
            raise BundleError(f"manifest: head lacks {', '.join(missing)}")
        return cls(**{name: values[name] for name in names})

    def to_dict(self) -> dict[str, float]:
        """What `from_dict` reads, as plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Found:
    """A head in a map, before anything is corrected or judged.

    Attributes:
        fit: the ellipse, in pixels of the model's input, and what it was fitted to.
        coverage: share of the ellipse along which there is outline, 0 to 1.
        border: share of the outline along the picture's border, 0 to 1.
    """

    fit: Fit
    coverage: float
    border: float


def find_head(
    logits: NDArray[np.float32], size: int, frame: tuple[int, int]
) -> tuple[Found | None, str | None]:
    """Fit an ellipse to the head in a map.

    Args:
        logits: `(H, W)`, of a frame that was padded to a square and resized.
        size: side of the model's input, in pixels.
        frame: `(height, width)` of the picture that was padded, in its own pixels.

    Returns:
        The head, and None; or None, and why there is none.
    """
    inside = region(logits)
    if np.count_nonzero(inside) < _SMALLEST:
        return None, "no head found"
    stride = size / logits.shape[0]
    points = outline(logits, inside) * stride
    height, width = frame
    scale = size / max(frame)
    left, top = (max(frame) - width) // 2 * scale, (max(frame) - height) // 2 * scale
    near = stride / 2
    x, y = points[:, 0], points[:, 1]
    cut = (x < left + near) | (x > left + width * scale - near)
    cut |= (y < top + near) | (y > top + height * scale - near)
    within = points[~cut]
    fit = fit_ellipse(within)
    if fit is None:
        return None, "what was found is no ellipse"
    _, angles = fit.ellipse.polar(within[fit.inside])
    covered = np.zeros(_SECTORS, dtype=bool)
    covered[(angles * (_SECTORS / (2 * math.pi))).astype(np.intp) % _SECTORS] = True
    coverage = np.count_nonzero(covered) / _SECTORS
    return Found(fit, coverage, np.count_nonzero(cut) / len(cut)), None


def objection(found: Found, spec: HeadSpec) -> str | None:
    """Why a head is not to be measured, or None when it is."""
    ellipse = found.fit.ellipse
    if found.border > spec.most_border:
        return f"the head is cut off by the picture's border ({found.border:.0%} of its outline)"
    if found.coverage < spec.least_coverage:
        return f"only {found.coverage:.0%} of the head's outline was found"
    if found.fit.residual > spec.most_residual:
        return f"the outline is no ellipse (off by {found.fit.residual:.1%} of its radius)"
    ratio = ellipse.minor / ellipse.major
    if not spec.least_axis_ratio <= ratio <= spec.most_axis_ratio:
        return f"not the shape of a head (short to long diameter {ratio:.2f})"
    return None


class HeadTask:
    """Measures the head in what the graph makes of a frame.

    Args:
        spec: what the bundle says of its map.
        size: side of the model's input, in pixels.
    """

    def __init__(self, spec: HeadSpec, size: int) -> None:
        self.spec, self.size = spec, size

    def __call__(
        self,
        logits: NDArray[np.float32],
        frame: Region,
        pixel_size_mm: float | None,
    ) -> HeadBiometry:
        """Measure one head, or say why not.

        Args:
            logits: the map, `(H, W)`.
            frame: which part of the frame the model saw; all of it, or the ultrasound.
            pixel_size_mm: millimetres per pixel of the frame, or None when unknown.
        """
        found, reason = find_head(logits, self.size, (frame.height, frame.width))
        if found is None or (reason := objection(found, self.spec)) is not None:
            return HeadBiometry(reason=reason)
        edge = found.fit.ellipse.grown(-self.spec.edge_px)
        measured = edge.grown(-self.spec.rim_px)
        if min(edge.minor, measured.minor) <= 0:
            return HeadBiometry(reason="no head found")
        return self._measured(edge, measured, frame, pixel_size_mm)

    def _measured(
        self, edge: Ellipse, measured: Ellipse, frame: Region, pixel_size_mm: float | None
    ) -> HeadBiometry:
        side = max(frame.width, frame.height)
        scale = side / self.size
        shown = edge.moved(
            scale, frame.x - (side - frame.width) // 2, frame.y - (side - frame.height) // 2
        )
        lengths = [
            scale * length for length in (measured.circumference, measured.minor, measured.major)
        ]
        mm: list[float | None] = [None] * 3
        error = None
        if pixel_size_mm is not None:
            mm = [pixel_size_mm * length for length in lengths]
            error = self.spec.error_relative * pixel_size_mm * lengths[0]
        return HeadBiometry(
            head_circumference_mm=mm[0],
            biparietal_diameter_mm=mm[1],
            occipitofrontal_diameter_mm=mm[2],
            head_circumference_px=lengths[0],
            biparietal_diameter_px=lengths[1],
            occipitofrontal_diameter_px=lengths[2],
            cephalic_index=measured.minor / measured.major,
            head_circumference_error_mm=error,
            outline=HeadOutline(shown.x, shown.y, shown.major, shown.minor, shown.angle_deg),
            reason=None if pixel_size_mm is not None else "the pixel size is unknown",
        )
