"""Gestational age of HC18 heads without training, judged by the WHO chart of circumference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from fetalclip_edge.tasks.age_bank import AgeBank
from fetalclip_edge.tasks.gestational_age import from_similarities, head_circumference_quantile
from training.datasets import Example
from training.evaluation.encoders import Embeddings, Encoder
from training.evaluation.intervals import image_bootstrap, patient_bootstrap
from training.progress import image_progress
from training.prompts import PromptSet

__all__ = [
    "SCORED_MM",
    "days_of",
    "estimate_ages",
    "estimate_by_bank",
    "input_pixel_size",
    "is_valid",
    "measure_ages",
    "with_pixel_size",
]

SCORED_MM = (100.0, 342.0)
"""Head circumferences that are scored: the WHO medians from 14 to 40 weeks."""

_PLACEHOLDER = "{pixel_size_mm}"
"""In a user's prompts: put the pixel size here."""


def input_pixel_size(example: Example, size: int) -> float:
    """Millimetres per pixel of the network's input, as prompts say it: with two decimals.

    Args:
        example: an image with a known pixel size, of which the longest side fills the input.
        size: side of the network's input, in pixels.

    Raises:
        ValueError: the pixel size is not known.
    """
    if example.facts.pixel_size_mm is None:
        raise ValueError(f"{example.name} has no pixel size")
    return round(example.facts.pixel_size_mm * example.side / size, 2)


def with_pixel_size(prompts: PromptSet, pixel_size_mm: float) -> PromptSet:
    """A user's prompts with the pixel size in place of `{pixel_size_mm}`."""
    number = f"{pixel_size_mm:.2f}"
    filled = {
        label: tuple(text.replace(_PLACEHOLDER, number) for text in texts)
        for label, texts in prompts.prompts.items()
    }
    return PromptSet(prompts.name, filled, version=prompts.version)


def estimate_ages(
    embeddings: Embeddings,
    pixel_sizes: Sequence[float],
    prompts: Callable[[float], PromptSet],
    encoder: Encoder,
) -> NDArray[np.int64]:
    """FetalCLIP's zero-shot estimate of every image, in days `(N,)`.

    The prompts of each pixel size are embedded once, with a progress bar on stderr.

    Args:
        embeddings: of the images, `(N, D)`.
        pixel_sizes: of each image, as its prompts say it.
        prompts: the prompts for a pixel size; their labels are days.
        encoder: embeds the prompts.

    Raises:
        NotMeasurableError: the model has no text tower.
        ValueError: a label is not a whole number of days, above 0.
    """
    sizes = np.array(pixel_sizes)
    days = np.zeros(len(sizes), dtype=np.int64)
    with image_progress(Console(stderr=True)) as progress:
        task = progress.add_task("ages, by pixel size", total=len(sizes))
        for size in np.unique(sizes):
            chosen = prompts(float(size))
            candidates = days_of(chosen)
            means = encoder.mean_embeddings(chosen)
            for row in np.flatnonzero(sizes == size):
                days[row] = from_similarities(means @ embeddings[row], candidates)
                progress.advance(task)
    return days


def estimate_by_bank(
    embeddings: Embeddings, pixel_sizes: Sequence[float], bank: AgeBank
) -> NDArray[np.int64]:
    """A bundle's own estimate of every image, in days `(N,)`; 0 where it gives none."""
    pairs = zip(embeddings, pixel_sizes, strict=True)
    return np.array([bank.estimate(embedding, size) or 0 for embedding, size in pairs], np.int64)


def days_of(prompts: PromptSet) -> list[int]:
    """The classes of prompts of gestational age, as days.

    Raises:
        ValueError: one is not a whole number of days, above 0.
    """
    for label in prompts.labels:
        if not label.isdecimal() or int(label) == 0:
            raise ValueError(
                f"the classes of {prompts.version} must be ages in days, as '140', not {label!r}"
            )
    return [int(label) for label in prompts.labels]


def is_valid(days: int, head_circumference_mm: float) -> bool:
    """Whether a circumference lies within the WHO chart's 2.5 to 97.5 % at an age."""
    low, high = (head_circumference_quantile(days, q) for q in (0.025, 0.975))
    return low <= head_circumference_mm <= high


def measure_ages(days: NDArray[np.int64], examples: Sequence[Example]) -> dict[str, Any]:
    """How many estimates are valid, and how far they are from the WHO median's age.

    Args:
        days: the estimates, `(N,)`.
        examples: heads with a measured circumference.

    Returns:
        Validity over circumferences of 100 to 342 mm with 95 % intervals by image (as the paper)
        and by patient; the mean absolute error in days against the age whose WHO median is the
        circumference, over those that the chart has one for.

    Raises:
        ValueError: no circumference is in the range.
    """
    sizes = np.array([example.head_circumference_mm for example in examples], dtype=np.float64)
    low, high = SCORED_MM
    kept = [row for row, size in enumerate(sizes) if low <= size <= high]
    if not kept:
        raise ValueError(f"no head has a circumference of {low:g} to {high:g} mm")
    valid = np.array([is_valid(int(days[i]), float(sizes[i])) for i in kept])
    patients = [examples[i].group for i in kept]
    by_patient = patient_bootstrap(
        lambda weights: np.array([np.average(valid, weights=weights)]), patients
    )
    report = {
        "images": len(kept),
        "images_outside_range": len(examples) - len(kept),
        "patients": len(set(patients)),
        "circumference_mm": list(SCORED_MM),
        "validity": float(valid.mean()),
        "validity_interval": image_bootstrap(valid),
        "validity_interval_by_patient": by_patient[0],
    }
    dated = [i for i in kept if examples[i].facts.gestational_age_days is not None]
    if dated:
        ages = np.array([examples[i].facts.gestational_age_days for i in dated], dtype=np.float64)
        errors = np.abs(days[dated] - ages)
        report["mean_absolute_error_days"] = float(errors.mean())
        report["mean_absolute_error_images"] = len(dated)
    return report
