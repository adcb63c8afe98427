"""What goes into which shard: decided before the first is written, from names and a seed alone.

So an interruption changes nothing, and the same source always gives the same shards.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.sources import Record

__all__ = [
    "SPLITS",
    "Planned",
    "Report",
    "Shard",
    "check_records",
    "compact",
    "cut",
    "described",
    "digest",
    "mixed",
    "sha256_of",
    "without_copies",
]

SPLITS = ("train", "test")

# Fewer shards than this could not be shared out among the processes of a training run.
_MIN_TRAIN_SHARDS = 8
_MIN_IMAGES_PER_SHARD = 10

Report = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Planned:
    """One image of a shard to be, before it is decoded.

    Attributes:
        record: the image.
        sha256: checksum of its file, or None where it cannot be read.
        left_out: why it will not be in the shard, as far as is known without decoding.
    """

    record: Record
    sha256: str | None
    left_out: str | None


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar to be: its split, its number within the split, and its images in order."""

    split: str
    number: int
    images: tuple[Planned, ...]

    @property
    def stem(self) -> str:
        """The names of its files, without their suffixes."""
        return f"{self.split}-{self.number:06d}"

    @property
    def inputs(self) -> str:
        """Changes when one of the source's files does, or what the index alone holds."""
        return digest([_input(image) for image in self.images])


def _input(image: Planned) -> list[str | None]:
    scanner = [] if image.record.scanner is None else [image.record.scanner]
    return [image.record.name, image.sha256, image.left_out, *scanner]


def check_records(records: Sequence[Record]) -> None:
    """Refuse what would make a test worthless, before anything is written.

    Raises:
        ValueError: there are no records, a patient is in two splits, or two images have one name.
    """
    if not records:
        raise ValueError("the sources hold no images")
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for record in records:
        splits[record.group].add(record.split)
    torn = sorted(group for group, found in splits.items() if len(found) > 1)
    if torn:
        raise ValueError(
            f"{len(torn)} patients are in two splits, so a test would not be of unseen patients: "
            f"{_first(torn)}. Put all images of a patient into one split"
        )
    names = Counter(record.name for record in records)
    twice = sorted(name for name, count in names.items() if count > 1)
    if twice:
        raise ValueError(
            f"{len(twice)} images are given twice: {_first(twice)}. Give each source once, and "
            "each CSV its own name"
        )


def _first(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def mixed(records: Sequence[Record], split: str, seed: int) -> list[Record]:
    """Records of a split in an order that hangs on the seed and their names alone."""

    def place(record: Record) -> str:
        return hashlib.sha256(f"{seed}/{record.name}".encode()).hexdigest()

    return sorted((record for record in records if record.split == split), key=place)


def without_copies(
    by_split: Mapping[str, Sequence[Record]], report: Report
) -> dict[str, list[Planned]]:
    """Read every file once; training images that are in the test split too are left out."""
    total = sum(map(len, by_split.values()))
    tested: dict[str, str] = {}
    planned: dict[str, list[Planned]] = {split: [] for split in by_split}
    done = 0
    # The test split first: it stays as it was published.
    for split in ("test", "train"):
        for record in by_split[split]:
            report("checking", done, total)
            done += 1
            try:
                sha256, reason = sha256_of(record.path), None
            except OSError as error:
                sha256, reason = None, error.strerror or str(error)
            if sha256 and split == "test":
                tested.setdefault(sha256, record.name)
            elif sha256 in tested:
                reason = f"the same image is in the test split: {tested[sha256]}"
            planned[split].append(Planned(record, sha256, reason))
    report("checking", done, total)
    return planned


def cut(split: str, images: Sequence[Planned], images_per_shard: int) -> Iterator[Shard]:
    """Shards of nearly equal size."""
    count = math.ceil(len(images) / images_per_shard)
    if split == "train":
        count = max(count, min(_MIN_TRAIN_SHARDS, len(images) // _MIN_IMAGES_PER_SHARD))
    ends = [len(images) * (number + 1) // count for number in range(count)]
    for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        yield Shard(split, number, tuple(images[start:end]))


def described(record: Record) -> dict[str, Any]:
    """All that identifies a sample beside its pixels, as it stands in the tar and the index."""
    facts = {key: value for key, value in asdict(record.facts).items() if value is not None}
    sample: dict[str, Any] = {
        "name": record.name,
        "group": record.group,
        "split": record.split,
        "facts": facts,
    }
    if record.head_circumference_mm is not None:
        sample["head_circumference_mm"] = record.head_circumference_mm
    return sample


def compact(value: object) -> bytes:
    """JSON that is the same whenever the value is."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def digest(value: object) -> str:
    """SHA-256 of a value's JSON."""
    return hashlib.sha256(compact(value)).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    running = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            running.update(block)
    return running.hexdigest()
