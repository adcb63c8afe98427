"""From a table of clips to a head with its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from fetalclip_edge.bundle import file_sha256
from fetalclip_edge.tasks.heart import HEART, HEART_PLANE
from training.clip_embeddings import Embedded, LeftOut, embed_clips, encoder_sha256, of_plane
from training.clips import SPLITS, check_labels, read_clips
from training.evaluation.encoders import Encoder
from training.head_files import TrainedHead, check_task_name
from training.head_fit import LabelledClips, fit_head, probabilities
from training.head_metrics import measure_head
from training.progress import image_progress

__all__ = ["HeadSettings", "train_head"]

_CACHE = "embeddings"
_FITS = 13


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """How a head is trained.

    Attributes:
        task: its name. That of `heart` looks only at frames whose likeliest plane is the thorax;
            the device also leaves out what is flat or out of domain.
        pooling: "none", "mean" or "attention"; None for "none" where every clip is one picture,
            else "mean".
        positive: of two labels, the one to be found; None for the second in alphabetical order.
        frames: of a clip, at most.
        about: of the data, in words, for the model card.

    Raises:
        ValueError: a value is wrong.
    """

    task: str
    pooling: str | None = None
    positive: str | None = None
    frames: int = 32
    about: str = ""

    def __post_init__(self) -> None:
        check_task_name(self.task)
        if self.task == HEART and self.pooling == "none":
            raise ValueError(f"{HEART} is answered for clips: the pooling is mean or attention")
        if self.frames < 1:
            raise ValueError(f"frames must be at least 1, not {self.frames}")


def train_head(
    table: Path, encoder: Encoder, settings: HeadSettings, out: Path, console: Console
) -> TrainedHead:
    """Embed, fit on train, calibrate on validation, measure on test.

    Args:
        table: of clips and labels, as `training.clips.read_clips` takes it.
        encoder: stays as it is.
        settings: how.
        out: folder in which embeddings are kept.
        console: for progress, and the clips that are left out.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: the table is wrong, or too little of it can be read.
    """
    clips = read_clips(table)
    names = _ordered({clip.label for clip in clips}, settings.positive)
    embedded, left_out = embed_clips(
        encoder, clips, out / _CACHE, most=settings.frames, console=console
    )
    if settings.task == HEART:
        embedded, others = _of_the_heart(encoder, embedded)
        left_out += others
    for each in left_out:
        console.print(
            f"left out {each.name}: {each.reason}", markup=False, highlight=False, soft_wrap=True
        )
    if not embedded:
        raise ValueError(f"none of the {len(clips)} clips can be used")
    check_labels([each.clip for each in embedded], set(names))
    pooling = _pooling(settings, embedded)
    splits = {split: _labelled(embedded, split) for split in SPLITS}
    with image_progress(console, disable=pooling != "attention", unit="fits") as progress:
        task = progress.add_task("fitting", total=_FITS)
        head, chosen = fit_head(
            splits["train"],
            splits["validation"],
            names,
            pooling,
            advance=lambda: progress.advance(task),
        )
        progress.update(task, completed=_FITS)  # few patients make fewer folds
    test = splits["test"]
    metrics = measure_head(
        probabilities(head, test.frames), test.truth(names), test.groups, names, head.threshold
    )
    return TrainedHead(
        settings.task,
        head,
        _described(encoder),
        {**metrics, **({"positive": names[1]} if len(names) == 2 else {})},
        chosen,
        {
            "table_sha256": file_sha256(table),
            "about": settings.about,
            "frames_of_a_clip_at_most": settings.frames,
            "left_out": len(left_out),
            "splits": {split: _counts(splits[split], names) for split in SPLITS},
        },
        left_out,
    )


def _ordered(labels: set[str], positive: str | None) -> list[str]:
    names = sorted(labels)
    if positive is None:
        return names
    if positive not in names or len(names) != 2:
        raise ValueError(
            f"the positive label must be one of two; the table has {', '.join(names)}, and "
            f"{positive!r} was asked for"
        )
    return sorted(names, key=positive.__eq__)


def _of_the_heart(
    encoder: Encoder, embedded: Sequence[Embedded]
) -> tuple[list[Embedded], list[LeftOut]]:
    kept, left_out = [], []
    for each in embedded:
        frames = of_plane(encoder, each, HEART_PLANE)
        if len(frames):
            kept.append(replace(each, frames=frames))
        else:
            reason = f"the model sees the {HEART_PLANE} on none of its frames"
            left_out.append(LeftOut(each.clip.name, reason))
    return kept, left_out


def _pooling(settings: HeadSettings, embedded: Sequence[Embedded]) -> str:
    longest = max(embedded, key=lambda each: len(each.frames))
    several = len(longest.frames) > 1
    if settings.pooling is None:
        return "mean" if several or settings.task == HEART else "none"
    if settings.pooling == "none" and several:
        raise ValueError(
            f"{longest.clip.name} has {len(longest.frames)} frames: clips are pooled, by mean or "
            "attention"
        )
    return settings.pooling


def _labelled(embedded: Sequence[Embedded], split: str) -> LabelledClips:
    chosen = [each for each in embedded if each.clip.split == split]
    return LabelledClips(
        [each.frames for each in chosen],
        np.array([each.clip.label for each in chosen], dtype=str),
        np.array([each.clip.group for each in chosen], dtype=str),
    )


def _described(encoder: Encoder) -> dict[str, Any]:
    told = ("kind", "graph", "backend", "precision")
    return {
        "sha256": encoder_sha256(encoder),
        "name": encoder.name,
        **{name: encoder.identity[name] for name in told if name in encoder.identity},
    }


def _counts(clips: LabelledClips, labels: Sequence[str]) -> dict[str, Any]:
    return {
        "groups": len(set(clips.groups.tolist())),
        "clips": {label: int((clips.labels == label).sum()) for label in labels},
    }
