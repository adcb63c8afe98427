"""Clips with labels from a table, divided by patient."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from training.tables import Row, read_rows

__all__ = ["SPLITS", "Clip", "check_labels", "read_clips"]

SPLITS = ("train", "validation", "test")

_COLUMNS = ("path", "label", "group")
_SPLIT_NAMES = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
}
_SEED = 0


@dataclass(frozen=True, slots=True)
class Clip:
    """A picture, or a film of several, and what is known of it.

    Attributes:
        path: image, folder of frames, video or DICOM file.
        name: the same as it stands in the table.
        label: what it shows.
        group: the patient, whom no split may tear apart.
        split: one of `SPLITS`.
    """

    path: Path
    name: str
    label: str
    group: str
    split: str


def read_clips(table: Path) -> list[Clip]:
    """Read a CSV with the columns path, label, group and, maybe, split.

    Paths are relative to the table. Whether they can be read is not looked at. Without `split` a
    fifth of the patients is for the test and a fifth for validation, or more where a label has
    fewer than five patients; without any row of validation, it comes out of train.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: a column or a value is missing, a split has another name, a path is given
            twice, the clips of one patient are in two splits, or there are too few patients.
    """
    if not table.is_file():
        raise FileNotFoundError(f"the table of clips {table} does not exist")
    rows = list(read_rows(table, _COLUMNS))
    clips = [_clip(row) for row in rows]
    _check(table, clips)
    if len({clip.label for clip in clips}) < 2:
        raise ValueError(f"{table} has the label {clips[0].label!r} alone; there must be two")
    if not any(clip.split for clip in clips):
        clips = _take(table, clips, "", "test", 3, folds=5)
        clips = _take(table, clips, "", "validation", 2, folds=4)
        clips = [replace(clip, split=clip.split or "train") for clip in clips]
    elif not any(clip.split == "validation" for clip in clips):
        clips = _take(table, clips, "train", "validation", 2, folds=5)
    check_labels(clips, {clip.label for clip in clips})
    return clips


def check_labels(clips: Sequence[Clip], labels: Set[str]) -> None:
    """See to it that every label can be learned and judged.

    Args:
        clips: that there are.
        labels: that there must be.

    Raises:
        ValueError: a label has no clip in train or in validation, or the test has no clips.
    """
    for split in ("train", "validation"):
        if lacking := labels - {clip.label for clip in clips if clip.split == split}:
            raise ValueError(
                f"there is no clip labelled {min(lacking)!r} in {split}; give it more patients, or "
                "name the splits in a column split"
            )
    if not any(clip.split == "test" for clip in clips):
        raise ValueError("there are no clips in test: nothing could be measured")


def _clip(row: Row) -> Clip:
    name = row.text("path")
    split = ""
    if "split" in row.values:
        split = row.choice("split", _SPLIT_NAMES)
    return Clip(row.path.parent / name, name, row.text("label"), row.text("group"), split)


def _check(table: Path, clips: Sequence[Clip]) -> None:
    of_group: dict[str, str] = {}
    names: set[str] = set()
    for clip in clips:
        if clip.name in names:
            raise ValueError(f"{table}: {clip.name} is given twice")
        names.add(clip.name)
        if (other := of_group.setdefault(clip.group, clip.split)) != clip.split:
            raise ValueError(
                f"{table}: group {clip.group!r} is in the splits {other} and {clip.split}; all "
                "clips of a patient belong in one"
            )


def _take(
    table: Path, clips: Sequence[Clip], source: str, split: str, least: int, *, folds: int
) -> list[Clip]:
    """Clips with one of so many folds of patients moved out of one split into another."""
    rows = np.array([row for row, clip in enumerate(clips) if clip.split == source])
    labels = np.array([clips[row].label for row in rows])
    groups = np.array([clips[row].group for row in rows])
    patients = {str(label): len(set(groups[labels == label])) for label in np.unique(labels)}
    if not patients or min(patients.values()) < least:
        scarce = min(patients, key=patients.__getitem__, default="")
        raise ValueError(
            f"{table}: label {scarce!r} has {patients.get(scarce, 0)} patients to take those of "
            f"{split} from, and needs {least}; add some, or name all splits in a column split"
        )
    number = min(folds, *patients.values())
    splitter = StratifiedGroupKFold(number, shuffle=True, random_state=_SEED)
    _, chosen = next(splitter.split(labels, labels, groups))
    moved = set(rows[chosen].tolist())
    return [replace(c, split=split) if row in moved else c for row, c in enumerate(clips)]
