"""The data sets as their publishers lay them out, read into one list of records.

Known layouts: FETAL_PLANES_DB (Zenodo 3904280), HC18 (Zenodo 1327317), the subset folder of
`docs/data.md`, and any CSV of image and caption. No image is opened here: `training.shards` does
that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from fetalclip_edge.tasks.gestational_age import (
    MAX_DAYS,
    MIN_DAYS,
    head_circumference_quantile,
)
from training.facts import Facts
from training.tables import read_rows

__all__ = ["DataSet", "LeftOut", "Record", "age_from_circumference", "read_source"]

_PLANES = {
    "Fetal abdomen": "abdomen",
    "Fetal brain": "brain",
    "Fetal femur": "femur",
    "Fetal thorax": "thorax",
    "Maternal cervix": "cervix",
    "Other": "other",
}

# FETAL_PLANES_DB writes "Not A Brain" for other planes, the subset leaves the field empty.
_BRAIN_PLANES = {
    "Trans-thalamic": "trans-thalamic",
    "Trans-cerebellum": "trans-cerebellum",
    "Trans-ventricular": "trans-ventricular",
    "Other": "other",
    "Not A Brain": None,
    "": None,
}

_SPLITS = {"train": "train", "test": "test"}
_TRAIN_COLUMN = {"1": "train", "0": "test"}


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a data set: where it lies and what its publisher says of it.

    Attributes:
        path: the image's file.
        name: the file's name in its data set, the same on every machine: "hc18/images/000_HC.jpg".
        facts: what is known; `facts.pixel_size_mm` is that of the file as it lies there.
        group: the patient, whom a split must not tear apart: "planes/12".
        split: "train" or "test".
        head_circumference_mm: as measured by a person, where it was.
        scanner: the ultrasound machine's make, where the publisher tells.
    """

    path: Path
    name: str
    facts: Facts
    group: str
    split: str
    head_circumference_mm: float | None = None
    scanner: str | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file, or a folder of them, that does not become part of a data set, and why."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class DataSet:
    """One data set as read from a source.

    Attributes:
        layout: which of the known layouts it has.
        records: its images.
        left_out: what it holds that cannot be used.
        notes: what its user must know, such as how it was split.
    """

    layout: str
    records: list[Record]
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_source(source: Path) -> list[DataSet]:
    """Recognise the layout of a source and read it.

    Args:
        source: a folder as its publisher lays it out, or a CSV of image and caption. A folder
            that holds several data sets gives them all.

    Raises:
        FileNotFoundError: there is no such file or folder, or a part of the layout is missing.
        ValueError: no layout is recognised, or a row of a table cannot be read; the message names
            file and line.
    """
    if not source.exists():
        raise FileNotFoundError(f"SOURCE {source} does not exist")
    if source.is_file():
        if source.name not in _LAYOUTS:
            return [_read_captions(source)]
        # The publisher's table was given in place of the folder it lies in.
        source = source.parent
    found = [layout for table, layout in _LAYOUTS.items() if (source / table).is_file()]
    if not found:
        looked_for = ", ".join(f"{table} ({name})" for table, (name, _) in _LAYOUTS.items())
        raise ValueError(
            f"SOURCE {source} has no known layout: it holds none of {looked_for}. "
            "Unpack the archives first, and give the folder in which these tables lie. Any other "
            "data set is given as a CSV file with the columns image and caption, and with patient "
            "and split where they are known"
        )
    return [DataSet(name, *read(source)) for name, read in found]


def age_from_circumference(head_circumference_mm: float) -> float | None:
    """The day whose median circumference is nearest, or None beyond the chart's ends.

    The chart is the WHO's (Kiserud et al. 2017, PLOS Medicine 14:e1002220).
    """
    days = np.arange(MIN_DAYS, MAX_DAYS + 1)
    medians = np.array([head_circumference_quantile(float(day), 0.5) for day in days])
    if not medians[0] <= head_circumference_mm <= medians[-1]:
        return None
    return float(days[np.abs(medians - head_circumference_mm).argmin()])


_Read = tuple[list[Record], list[LeftOut], list[str]]


def _read_fetal_planes_db(root: Path) -> _Read:
    _demand_folder(root / "Images", "the images of FETAL_PLANES_DB")
    columns = ("Image_name", "Patient_num", "Plane", "Brain_plane", "Train")
    records = []
    for row in read_rows(root / "FETAL_PLANES_DB_data.csv", columns):
        name = f"Images/{row.text('Image_name')}.png"
        records.append(
            Record(
                root / name,
                f"planes/{name}",
                Facts(row.choice("Plane", _PLANES), row.choice("Brain_plane", _BRAIN_PLANES)),
                f"planes/{row.text('Patient_num')}",
                row.choice("Train", _TRAIN_COLUMN),
                scanner=row.optional("US_Machine"),
            )
        )
    return records, [], []


def _read_hc18(root: Path) -> _Read:
    folder = root / "training_set"
    _demand_folder(folder, "the images of HC18")
    # Unpacked into a folder of its name, the archive makes another within.
    if (folder / "training_set").is_dir():
        folder /= "training_set"
    size, circumference = "pixel size(mm)", "head circumference (mm)"
    records = []
    for row in read_rows(
        root / "training_set_pixel_size_and_HC.csv", ("filename", size, circumference)
    ):
        file = row.text("filename")
        subject = file.split("_")[0]
        records.append(
            _head(
                folder / file,
                f"hc18/training_set/{file}",
                subject,
                "test" if _in_tested_fifth(subject) else "train",
                pixel_size_mm=row.positive(size),
                head_circumference_mm=row.positive(circumference),
            )
        )
    notes = [
        "HC18 publishes no circumference for its test_set. The fifth of its training subjects "
        "whose SHA-256 says so is 'test' here; every other subject is 'train'. A subject is an "
        "examination: HC18 does not tell which of them are of the same woman."
    ]
    reason = "HC18 publishes no head circumference for these images"
    left_out = [LeftOut("hc18/test_set", reason)] if (root / "test_set").is_dir() else []
    return records, left_out, notes


def _in_tested_fifth(subject: str) -> bool:
    """Hangs on the subject alone, so that no change of the rest moves it to the other split."""
    return int(hashlib.sha256(f"hc18/{subject}".encode()).hexdigest(), 16) % 5 == 0


def _read_subset_planes(root: Path) -> _Read:
    records = [
        Record(
            root / "planes" / row.text("file"),
            f"planes/{row.text('file')}",
            Facts(row.choice("plane", _PLANES), row.choice("brain_plane", _BRAIN_PLANES)),
            f"planes/{row.text('patient')}",
            row.choice("split", _SPLITS),
            scanner=row.optional("us_machine"),
        )
        for row in read_rows(
            root / "planes" / "labels.csv", ("file", "patient", "plane", "brain_plane", "split")
        )
    ]
    return records, [], []


def _read_subset_hc18(root: Path) -> _Read:
    columns = ("file", "subject", "pixel_size_mm", "head_circumference_mm", "split")
    records = [
        _head(
            root / "hc18" / row.text("file"),
            f"hc18/{row.text('file')}",
            row.text("subject"),
            row.choice("split", _SPLITS),
            pixel_size_mm=row.positive("pixel_size_mm"),
            head_circumference_mm=row.positive("head_circumference_mm"),
        )
        for row in read_rows(root / "hc18" / "labels.csv", columns)
    ]
    return records, [], []


def _head(
    path: Path,
    name: str,
    subject: str,
    split: str,
    *,
    pixel_size_mm: float,
    head_circumference_mm: float,
) -> Record:
    facts = Facts(
        "brain",
        gestational_age_days=age_from_circumference(head_circumference_mm),
        pixel_size_mm=pixel_size_mm,
    )
    return Record(path, name, facts, f"hc18/{subject}", split, head_circumference_mm)


def _read_captions(path: Path) -> DataSet:
    """A CSV `image,caption[,patient][,split][,scanner]`; the images' paths are relative to it.

    Without a split all images are for training; without a patient each is its own.
    """
    records = []
    for row in read_rows(path, ("image", "caption")):
        image = row.text("image")
        if PurePosixPath(image).is_absolute():
            raise row.error(f"image must be a path relative to {path.parent}, not {image!r}")
        # The table's name keeps patient 7 of one clinic apart from patient 7 of another.
        prefix = f"captions/{path.stem}"
        records.append(
            Record(
                path.parent / image,
                f"{prefix}/{image}",
                Facts(None, caption=row.text("caption")),
                f"{prefix}/{row.text('patient') if 'patient' in row.values else image}",
                row.choice("split", _SPLITS) if "split" in row.values else "train",
                scanner=row.optional("scanner"),
            )
        )
    return DataSet(f"captions of {path.name}", records)


_LAYOUTS: dict[str, tuple[str, Callable[[Path], _Read]]] = {
    "FETAL_PLANES_DB_data.csv": ("FETAL_PLANES_DB", _read_fetal_planes_db),
    "training_set_pixel_size_and_HC.csv": ("HC18", _read_hc18),
    "planes/labels.csv": ("subset of FETAL_PLANES_DB", _read_subset_planes),
    "hc18/labels.csv": ("subset of HC18", _read_subset_hc18),
}


def _demand_folder(folder: Path, title: str) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing: unpack {title} there")
