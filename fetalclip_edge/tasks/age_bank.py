"""Gestational age of a head that was not measured: FetalCLIP's zero-shot rule, with no text tower.

A bundle may hold what its model's text tower made of sentences that tell every gestational age, for
each of some pixel sizes: a head that fills the frame is as old as a pixel of it is large. A frame's
age is then one matrix-vector product, and the rule of `from_similarities`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BundleError
from fetalclip_edge.results import GestationalAge
from fetalclip_edge.tasks.gestational_age import (
    MAX_DAYS,
    MIN_DAYS,
    from_similarities,
    head_circumference_quantile,
)
from fetalclip_edge.tasks.growth import DEFAULT_CHART, chart_named

__all__ = ["FILE", "METHOD", "PIXEL_SIZE_REACH", "AgeBank", "AgeError"]

FILE = "age_bank.safetensors"
"""The bundle's file of the embeddings."""

METHOD = "zero-shot"
"""What `GestationalAge.method` says of these ages."""

PIXEL_SIZE_REACH = 0.05
"""How far a pixel size may lie beyond the smallest and the largest of a bank, as a share of it."""

_LONGEST = 42 * 7  # days that an interval may reach: the end of a pregnancy

_ROUNDING = 0.01  # of the length of an embedding in half precision
_TENSORS = {"embeddings": 3, "pixel_sizes_mm": 1, "days": 1}


@dataclass(frozen=True, slots=True)
class AgeError:
    """How far the true age may be from an estimate, on validation heads, 95 % of the time.

    Attributes:
        early: days before the estimate, at least 0.
        late: days after it, at least 0.
    """

    early: float
    late: float

    def __post_init__(self) -> None:
        for name in ("early", "late"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise BundleError(f"manifest: age_bank.error_days.{name} must be a number")
            if not 0 <= value < math.inf:
                raise BundleError(
                    f"manifest: age_bank.error_days.{name} must be at least 0, not {value!r}"
                )


@dataclass(frozen=True, slots=True, eq=False)
class AgeBank:
    """Embeddings of sentences that tell gestational age and pixel size.

    Attributes:
        embeddings: float32 `(P, A, D)`: of every pixel size and age the mean over sentences,
            L2-normalised.
        pixel_sizes_mm: `(P,)`, millimetres per pixel of the network's input, rising.
        days: `(A,)`, the ages, rising.
        error: of the estimate, on validation heads.

    Raises:
        BundleError: shapes or values do not fit each other.
    """

    embeddings: NDArray[np.float32]
    pixel_sizes_mm: NDArray[np.float32]
    days: NDArray[np.int64]
    error: AgeError

    def __post_init__(self) -> None:
        shape = (len(self.pixel_sizes_mm), len(self.days))
        if self.embeddings.shape[:2] != shape or 0 in self.embeddings.shape:
            raise BundleError(
                f"{FILE}: embeddings must be of {shape[0]} pixel sizes and {shape[1]} ages, "
                f"not of shape {self.embeddings.shape}"
            )
        sizes, days = self.pixel_sizes_mm, self.days
        if not (sizes[0] > 0 and np.all(np.diff(sizes) > 0)):
            raise BundleError(f"{FILE}: pixel_sizes_mm must be above 0 and rise")
        if not (days[0] >= MIN_DAYS and days[-1] <= MAX_DAYS and np.all(np.diff(days) > 0)):
            raise BundleError(f"{FILE}: days must rise from at least {MIN_DAYS} to {MAX_DAYS}")
        if not np.all(np.abs(np.linalg.norm(self.embeddings, axis=2) - 1) < _ROUNDING):
            raise BundleError(f"{FILE}: embeddings must be L2-normalised")

    @classmethod
    def of_bundle(cls, bundle: ModelBundle) -> AgeBank | None:
        """The bank of a bundle, or None where it has none.

        Raises:
            BundleError: the manifest or the file does not hold what it must.
            BundleIntegrityError: the file was changed since the bundle was loaded.
        """
        if bundle.age_bank is None:
            return None
        error = bundle.age_bank.get("error_days")
        if not isinstance(error, Mapping) or set(error) != {"early", "late"}:
            raise BundleError("manifest: age_bank.error_days must have `early` and `late`")
        tensors = bundle.tensors(FILE)
        found: dict[str, Any] = {name: tensor.ndim for name, tensor in tensors.items()}
        if found != _TENSORS or tensors["embeddings"].shape[2] != bundle.embedding_dim:
            raise BundleError(
                f"{FILE} must hold embeddings (pixel sizes, ages, {bundle.embedding_dim}), "
                "pixel_sizes_mm and days"
            )
        days = tensors["days"].astype(np.int64)
        if not np.array_equal(days, tensors["days"]):
            raise BundleError(f"{FILE}: days must be whole numbers")
        return cls(tensors["embeddings"], tensors["pixel_sizes_mm"], days, AgeError(**error))

    def estimate(self, embedding: NDArray[np.float32], pixel_size_mm: float) -> int | None:
        """The most likely age of one head, in days.

        Args:
            embedding: `(D,)`, L2-normalised.
            pixel_size_mm: millimetres per pixel of the network's input.

        Returns:
            Days; None where the pixel size is beyond those that the bank has.
        """
        sizes = self.pixel_sizes_mm
        reach = 1 + PIXEL_SIZE_REACH
        if not sizes[0] / reach <= pixel_size_mm <= sizes[-1] * reach:
            return None
        nearest = int(np.abs(np.log(sizes / pixel_size_mm)).argmin())
        return from_similarities(self.embeddings[nearest] @ embedding, self.days)

    def __call__(
        self, embedding: NDArray[np.float32], pixel_size_mm: float
    ) -> GestationalAge | None:
        """The age of one head with its 95 % interval, or None, as `estimate` has it.

        The interval adds two things: what the estimate erred on validation heads, whose age their
        circumference told, and that fetuses of one age differ in size (WHO's chart).
        """
        days = self.estimate(embedding, pixel_size_mm)
        if days is None:
            return None
        chart, expected = chart_named(DEFAULT_CHART), head_circumference_quantile(days, 0.5)
        early = math.hypot(days - chart.low(expected), self.error.early)
        late = math.hypot(chart.high(expected) - days, self.error.late)
        return GestationalAge(
            days=days,
            low_days=max(round(days - early), round(chart.youngest)),
            high_days=min(round(days + late), _LONGEST),
            method=METHOD,
        )
