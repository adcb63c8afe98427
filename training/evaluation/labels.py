"""A user's own labels for a probe: a table of images, by clip and patient."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from sklearn.model_selection import StratifiedGroupKFold

from training.evaluation.encoders import Embeddings
from training.evaluation.probes import Samples

__all__ = ["LabelTable", "Labelled", "pool_clips", "read_labels"]

_NEEDED, _OPTIONAL = ("file", "label"), ("clip", "patient", "split")
_SPLITS = ("train", "test")
_TEST_FOLDS = 4  # at most; one of them becomes the test split
_SEED = 0


@dataclass(frozen=True, slots=True)
class Labelled:
    """One image of a table.

    Attributes:
        path: the image.
        label: what the table says of its clip.
        clip: the clip that it is a frame of; an image alone is a clip of one frame.
        patient: whose it is.
        split: "train" or "test".
    """

    path: Path
    label: str
    clip: str
    patient: str
    split: str

    def open(self) -> Image.Image:
        """The image in grey.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no image.
        """
        try:
            with Image.open(self.path) as image:
                return image.convert("L")
        except FileNotFoundError:
            raise
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{self.path} cannot be decoded: {error}") from error


@dataclass(frozen=True, slots=True)
class LabelTable:
    """A checked table.

    Attributes:
        name: of the file, without its ending.
        images: in the order of the table.
        notes: what the reader of a report must know of how the table was read.
    """

    name: str
    images: tuple[Labelled, ...]
    notes: tuple[str, ...]


def read_labels(path: Path) -> LabelTable:
    """Read a CSV with the columns file, label and, where known, clip, patient and split.

    Paths are relative to the table. Without `clip` every image stands alone; without `patient`
    every clip counts as a patient; without `split` a quarter of the patients is the test split,
    or more where a label has fewer than four patients.

    Raises:
        FileNotFoundError: the table, or an image that it names, is not there.
        ValueError: it is no CSV, a column, a label or all rows are missing, a split has another
            name, an image is none or is given twice, the images of one clip have different
            labels, those of one patient different splits, or a label that is to be split has one
            patient alone.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the table of labels {path} does not exist")
    columns, rows = _read(path)
    if lacking := [name for name in _NEEDED if name not in columns]:
        raise ValueError(
            f"{path} lacks the column {' and '.join(lacking)}; it needs {', '.join(_NEEDED)} and "
            f"may have {', '.join(_OPTIONAL)}, with commas between them"
        )
    if not rows:
        raise ValueError(f"{path} has no rows")
    images = [_labelled(path, line, row, columns) for line, row in rows]
    _check_agreement(path, images)
    notes = []
    if "patient" not in columns:
        notes.append("no column patient: every clip counts as a patient of its own")
    if "split" not in columns:
        images = _split(images)
        test = {image.patient for image in images if image.split == "test"}
        number = len({image.patient for image in images})
        notes.append(f"no column split: {len(test)} of {number} patients are the test split")
    return LabelTable(path.stem, tuple(images), tuple(notes))


def pool_clips(embeddings: Embeddings, images: Sequence[Labelled], split: str) -> Samples:
    """One sample a clip of a split: the mean of its frames' embeddings.

    Args:
        embeddings: of the images, `(N, D)`.
        images: what they are.
        split: "train" or "test".
    """
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, image in enumerate(images):
        if image.split == split:
            rows[image.clip].append(row)
    first = [images[found[0]] for found in rows.values()]
    dimensions = embeddings.shape[1]
    means = [embeddings[found].mean(axis=0) for found in rows.values()]
    return Samples(
        np.array(means, dtype=np.float32).reshape(-1, dimensions),
        np.array([image.label for image in first], dtype=str),
        np.array([image.patient for image in first], dtype=str),
    )


def _read(path: Path) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    """The names of a table's columns, and its rows with the numbers of their lines."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            return columns, [(reader.line_num, row) for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a CSV in UTF-8: {error}") from error


def _labelled(path: Path, line: int, row: dict[str, Any], columns: Sequence[str]) -> Labelled:
    def cell(name: str) -> str:
        value = (row.get(name) or "").strip()
        if not value:
            raise ValueError(f"{path}, line {line}: {name} is empty")
        return value

    image = path.parent / cell("file")
    if not image.is_file():
        raise FileNotFoundError(f"{path}, line {line}: {image} does not exist")
    try:
        Image.open(image).close()  # the header alone: what is no picture is told before any work
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}, line {line}: {image} is not an image") from error
    # A clip's name is told apart from a file's, and one patient's clip 1 from another's.
    owner = cell("patient") if "patient" in columns else None
    clip = f"clip {cell('clip')}" if "clip" in columns else f"file {cell('file')}"
    split = cell("split").lower() if "split" in columns else ""
    if split and split not in _SPLITS:
        raise ValueError(f"{path}, line {line}: split must be train or test, not {split!r}")
    key = clip if owner is None else f"{owner}, {clip}"
    return Labelled(image, cell("label"), key, owner or clip, split)


def _check_agreement(path: Path, images: Sequence[Labelled]) -> None:
    by_clip: dict[str, Labelled] = {}
    by_patient: dict[str, Labelled] = {}
    files: set[Path] = set()
    for image in images:
        if image.path in files:
            raise ValueError(f"{path}: {image.path} is given twice")
        files.add(image.path)
        first = by_clip.setdefault(image.clip, image)
        if first.label != image.label:
            raise ValueError(
                f"{path}: {image.clip} has the labels {first.label!r} and {image.label!r}; "
                "a clip has one"
            )
        seen = by_patient.setdefault(image.patient, image)
        if seen.split != image.split:
            raise ValueError(f"{path}: patient {image.patient} is in both splits")


def _split(images: Sequence[Labelled]) -> list[Labelled]:
    labels = np.array([image.label for image in images])
    patients = np.array([image.patient for image in images])
    scarce = [name for name in np.unique(labels) if len(set(patients[labels == name])) < 2]
    if scarce:
        raise ValueError(
            f"there is no column split, and label {scarce[0]} has one patient alone, who cannot "
            "be in both splits"
        )
    folds = StratifiedGroupKFold(
        min(_TEST_FOLDS, *(len(set(patients[labels == name])) for name in np.unique(labels))),
        shuffle=True,
        random_state=_SEED,
    )
    _, test = next(folds.split(labels, labels, patients))
    chosen = set(test.tolist())
    return [
        replace(image, split="test" if row in chosen else "train")
        for row, image in enumerate(images)
    ]
