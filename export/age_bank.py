"""Gestational age without a measured head: made by the model's text tower, judged, or left out.

The text tower stays on the workstation. What it makes of sentences that tell every age at each of
some pixel sizes goes into the bundle, if heads of validation patients show that the ages are worth
it: FetalCLIP's are (arXiv 2502.14807), those of a model that has seen few heads are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from export.examples import BundleData
from fetalclip_edge.tasks.age_bank import AgeBank, AgeError
from fetalclip_edge.tasks.gestational_age import MAX_DAYS, MIN_DAYS
from training.datasets import Example
from training.evaluation.gestational_age import SCORED_MM, input_pixel_size, measure_ages
from training.facts import PIXEL_SIZE_TOLERANCE
from training.progress import image_progress
from training.prompts import gestational_age_prompts

__all__ = [
    "AgeExport",
    "TextTower",
    "bank_of",
    "error_of",
    "judge_ages",
    "left_out",
    "pixel_sizes_of",
]

TextTower = Callable[[Sequence[str]], torch.Tensor]
"""Sentences to embeddings `(N, D)`, L2-normalised."""

_FEWEST_HEADS = 20  # fewer say next to nothing of how many are right
_SHARE = 0.95  # of heads that lie within the error
_STEP = 1 + 2 * PIXEL_SIZE_TOLERANCE.right  # from one pixel size to the next
_TEXT_BATCH = 64


@dataclass(frozen=True, slots=True)
class AgeExport:
    """What became of a bundle's zero-shot ages.

    Attributes:
        bank: what goes into the bundle, or None where the ages are left out.
        figures: for the metrics: what was measured, with "left_out", why, where they are.
    """

    bank: AgeBank | None
    figures: dict[str, Any]

    @property
    def left_out(self) -> str | None:
        """Why the bundle tells no age without a measured head; None where it does."""
        reason: str | None = self.figures.get("left_out")
        return reason

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What the bundle's file holds; embeddings in half precision."""
        assert self.bank is not None
        return {
            "embeddings": self.bank.embeddings.astype(np.float16),
            "pixel_sizes_mm": self.bank.pixel_sizes_mm,
            "days": self.bank.days.astype(np.float32),
        }

    def described(self) -> dict[str, Any]:
        """The part `age_bank` of the manifest."""
        assert self.bank is not None
        sizes, prompts = self.bank.pixel_sizes_mm, gestational_age_prompts()
        return {
            "error_days": {"early": self.bank.error.early, "late": self.bank.error.late},
            "pixel_sizes_mm": [float(sizes[0]), float(sizes[-1])],
            "days": [int(self.bank.days[0]), int(self.bank.days[-1])],
            "prompts": {"version": prompts.version, "sha256_without_pixel_size": prompts.sha256},
        }

    def measured(
        self, split: str, embeddings: NDArray[np.float32], examples: Sequence[Example], size: int
    ) -> AgeExport:
        """The same, with what the ages are worth on further heads.

        Args:
            split: what to call it.
            embeddings: of the examples, `(N, D)`, by the graph that goes out.
            examples: heads; those not of known circumference and pixel size are passed over.
            size: side of the model's input, in pixels.
        """
        assert self.bank is not None
        seen = _see(self.bank, embeddings, examples, size)
        if not any(map(_is_scored, seen.heads)):
            return self
        figures = {**self.figures, split: measure_ages(seen.days, seen.heads)}
        return AgeExport(self.bank, figures)


def left_out(reason: str) -> AgeExport:
    """No ages, and why."""
    return AgeExport(None, {"left_out": reason})


def judge_ages(
    text: TextTower | None,
    data: BundleData,
    held: NDArray[np.float32],
    size: int,
    least_validity: float,
    console: Console,
) -> AgeExport:
    """Make the ages and measure them on validation heads; or say why there are none.

    Args:
        text: the text tower that the image tower learned with; None where it is not at hand.
        data: its training heads say which pixel sizes there are, those held out judge.
        held: embeddings of `data.held`, `(N, D)`, by the graph that goes out.
        size: side of the model's input, in pixels.
        least_validity: share of estimates at whose age the true circumference lies within WHO's
            2.5 to 97.5 %, at least.
        console: for progress.
    """
    sizes = pixel_sizes_of([*data.learned, *data.held], size)
    count = sum(map(_is_scored, data.held))
    if count < _FEWEST_HEADS:
        return left_out(
            f"{count} validation heads of known circumference and pixel size are too few to judge "
            f"it by ({_FEWEST_HEADS} are needed)"
        )
    if text is None:
        return left_out(
            "the model's text tower is not at hand to embed ages with; name its teacher by --text"
        )
    bank = bank_of(text, sizes, console)
    seen = _see(bank, held, data.held, size)
    if not any(map(_is_scored, seen.heads)):
        return left_out("the heads' pixel sizes are too small to be told with two decimals")
    found = measure_ages(seen.days, seen.heads)
    if not found["validity"] >= least_validity:
        reason = (
            f"{100 * found['validity']:.1f} % of {found['images']} validation heads have an age at "
            f"which their circumference is usual, below the {100 * least_validity:.1f} % that are "
            "needed (age_validity)"
        )
        return AgeExport(None, {"validation": found, "left_out": reason})
    judged = AgeBank(bank.embeddings, bank.pixel_sizes_mm, bank.days, error_of(*seen.dated()))
    return AgeExport(judged, {"validation": found})


def pixel_sizes_of(examples: Sequence[Example], size: int) -> list[float]:
    """Pixel sizes from the smallest to the largest of some images, each 10 % above the last.

    Args:
        examples: those without a pixel size are passed over.
        size: side of the model's input, in pixels.

    Returns:
        Millimetres per pixel of the network's input, with two decimals, as prompts tell them.
    """
    known = [input_pixel_size(e, size) for e in examples if e.facts.pixel_size_mm is not None]
    known = [each for each in known if each > 0]  # what two decimals tell
    if not known:
        return []
    low, high = min(known), max(known)
    count = 1 + math.ceil(math.log(high / low) / math.log(_STEP))
    return sorted({round(float(each), 2) for each in np.geomspace(low, high, count)})


@torch.inference_mode()
def bank_of(text: TextTower, pixel_sizes_mm: Sequence[float], console: Console) -> AgeBank:
    """What a text tower makes of every age at each pixel size, as a bundle keeps it.

    Args:
        text: the text tower.
        pixel_sizes_mm: of the network's input, rising.
        console: for progress: on a CPU this takes minutes.

    Returns:
        The bank, whose error nobody knows yet.
    """
    days = list(range(MIN_DAYS, MAX_DAYS + 1))
    rows = []
    with image_progress(console, unit="sentences") as progress:
        task = progress.add_task("ages, by pixel size", total=0)
        for pixel_size_mm in pixel_sizes_mm:
            prompts = gestational_age_prompts(pixel_size_mm).prompts
            each = [prompts[str(day)] for day in days]
            texts = [sentence for sentences in each for sentence in sentences]
            progress.update(task, total=len(texts) * len(pixel_sizes_mm))
            parts = []
            for start in range(0, len(texts), _TEXT_BATCH):
                part = texts[start : start + _TEXT_BATCH]
                parts.append(text(part).float().cpu().numpy())
                progress.advance(task, len(part))
            means = np.concatenate(parts).reshape(len(days), len(each[0]), -1).mean(axis=1)
            rows.append(means / np.linalg.norm(means, axis=1, keepdims=True))
    # In half precision as in the file, so that what is judged is what goes out.
    kept = np.stack(rows).astype(np.float16).astype(np.float32)
    sizes = np.array(pixel_sizes_mm, dtype=np.float32)
    return AgeBank(kept, sizes, np.array(days, dtype=np.int64), AgeError(0.0, 0.0))


def error_of(days: NDArray[np.int64], truth: NDArray[np.float64]) -> AgeError:
    """How far the truth is from estimates, 95 % of the time; the farthest, where they are few.

    Args:
        days: the estimates, `(N,)`.
        truth: ages by circumference, `(N,)`, in days.
    """

    def reach(off: NDArray[np.float64]) -> float:
        rank = math.ceil((1 + _SHARE) / 2 * (len(off) + 1))
        return max(0.0, float(np.sort(off)[min(rank, len(off)) - 1]))

    return AgeError(early=reach(days - truth), late=reach(truth - days))


@dataclass(frozen=True, slots=True)
class _Seen:
    """Heads of known circumference, and the age that a bank gives each."""

    heads: list[Example]
    days: NDArray[np.int64]

    def dated(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Estimates and ages by circumference, of those for which the chart has one."""
        ages = [head.facts.gestational_age_days for head in self.heads]
        known = np.array([math.nan if age is None else age for age in ages], dtype=np.float64)
        return self.days[np.isfinite(known)], known[np.isfinite(known)]


def _see(
    bank: AgeBank, embeddings: NDArray[np.float32], examples: Sequence[Example], size: int
) -> _Seen:
    heads, days = [], []
    for embedding, example in zip(embeddings, examples, strict=True):
        if example.head_circumference_mm is None or example.facts.pixel_size_mm is None:
            continue
        # Not rounded: the device does not know how prompts tell it.
        estimate = bank.estimate(embedding, example.facts.pixel_size_mm * example.side / size)
        if estimate is not None:
            heads.append(example)
            days.append(estimate)
    return _Seen(heads, np.array(days, dtype=np.int64))


def _is_scored(example: Example) -> bool:
    low, high = SCORED_MM
    facts = example.facts
    known = facts.pixel_size_mm is not None and facts.gestational_age_days is not None
    return known and low <= (example.head_circumference_mm or 0.0) <= high
