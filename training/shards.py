"""Webdataset shards: a data set in a few tar files, each a fair sample of it.

Images are mixed by a seed before they are cut into shards, so that a process which reads some of
the shards sees what the others see. The files' bytes go in untouched. Beside each tar lies an
index, so that single images are read without unpacking. The same source gives the same bytes.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from training.datasets import Example
from training.facts import Facts
from training.shard_plan import (
    SPLITS,
    Report,
    Shard,
    check_records,
    compact,
    cut,
    described,
    digest,
    mixed,
    sha256_of,
    without_copies,
)
from training.sources import DataSet

__all__ = ["SPLITS", "read_examples", "read_manifest", "write_shards"]

SCHEMA_VERSION = 1

_SUFFIXES = {"JPEG": "jpg", "PNG": "png"}
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})


def write_shards(
    data_sets: Sequence[DataSet],
    out: Path,
    *,
    images_per_shard: int = 100,
    seed: int = 0,
    report: Report = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Write a data set into a folder of shards, or go on where an interruption left off.

    Args:
        data_sets: what the data set is made of.
        out: the folder; shards of the same plan that are whole already are kept.
        images_per_shard: how many images a shard holds at most. The train split has at least
            eight shards as soon as that leaves ten images to each.
        seed: decides which image goes into which shard.
        report: told the stage, how many images it is done with, and of how many.

    Returns:
        The manifest, as written to `out/manifest.json`; see `docs/data.md`.

    Raises:
        ValueError: a patient is in two splits, two images have one name, or `out` holds shards of
            something else; nothing has been written then. Or no image can be used.
    """
    if images_per_shard < 1:
        raise ValueError(f"images_per_shard must be at least 1, not {images_per_shard}")
    records = [record for data_set in data_sets for record in data_set.records]
    check_records(records)
    by_split = {split: mixed(records, split, seed) for split in SPLITS}
    plan = digest(
        [SCHEMA_VERSION, images_per_shard, seed]
        + [described(record) for split in SPLITS for record in by_split[split]]
    )
    _check_out(out, plan)
    planned = without_copies(by_split, report)
    out.mkdir(parents=True, exist_ok=True)
    (out / "manifest.json").unlink(missing_ok=True)
    indexes, done = [], 0
    for split in SPLITS:
        for shard in cut(split, planned[split], images_per_shard):
            report("writing", done, len(records))
            indexes.append(_finished(out, shard, plan) or _write_shard(out, shard, plan))
            done += len(shard.images)
    report("writing", done, len(records))
    if not any(index["samples"] for index in indexes):
        left = next(left for index in indexes for left in index["left_out"])
        raise ValueError(f"no image can be used; {left['file']}: {left['reason']}")
    manifest = _manifest(data_sets, out, indexes, images_per_shard=images_per_shard, seed=seed)
    _write_whole(out / "manifest.json", _pretty(manifest))
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a folder of shards says of itself.

    Raises:
        FileNotFoundError: there is no manifest; the shards are not there or not finished.
        ValueError: it is no manifest, or of another version.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; make it with: python -m training.data SOURCE --out {folder}"
        )
    manifest = _load(path)
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema_version {manifest.get('schema_version')!r}, not {SCHEMA_VERSION}; "
            "prepare the data again with this version's python -m training.data"
        )
    return manifest


def read_examples(folder: Path, split: str, *, verify: bool = False) -> list[Example]:
    """The examples of one split, shard by shard, in the same order every time.

    Args:
        folder: where `python -m training.data` wrote to.
        split: "train" or "test".
        verify: also read every tar and compare it with its checksum.

    Raises:
        FileNotFoundError: the manifest, or a file it names, is missing.
        ValueError: the split has no images, or a file is not the one the manifest names.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    shards = [shard for shard in read_manifest(folder)["shards"] if shard["split"] == split]
    examples: list[Example] = []
    for entry in shards:
        archive = folder / entry["file"]
        sidecar = archive.with_suffix(".json")
        for path in (archive, sidecar):
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing, but the manifest names it; {_AGAIN}")
        if archive.stat().st_size != entry["bytes"]:
            size = archive.stat().st_size
            raise ValueError(f"{archive} has {size} bytes, not {entry['bytes']}; {_AGAIN}")
        for path, key in [(sidecar, "index_sha256"), (archive, "sha256")][: 1 + verify]:
            if sha256_of(path) != entry[key]:
                raise ValueError(f"{path} differs from its checksum in the manifest; {_AGAIN}")
        index = _load(sidecar)
        examples += [_example(archive, index, sample) for sample in index["samples"]]
    if not examples:
        raise ValueError(f"{folder} has no images of split {split!r}")
    return examples


_AGAIN = "give the command that made the shards again: it writes anew what does not agree"


def _example(archive: Path, index: Mapping[str, Any], sample: Mapping[str, Any]) -> Example:
    return Example(
        archive=archive,
        offset=sample["offset"],
        length=sample["length"],
        name=sample["name"],
        facts=Facts(**{"plane": None, **sample["facts"]}),
        group=sample["group"],
        split=index["split"],
        shard=index["shard"],
        side=max(sample["width"], sample["height"]),
        head_circumference_mm=sample.get("head_circumference_mm"),
        scanner=sample.get("scanner"),
    )


def _check_out(out: Path, plan: str) -> None:
    """Shards of another data set are neither overwritten nor mixed with these."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; give a folder")
    for path in sorted(out.glob("*.json")):
        if re.fullmatch(r"\w+-\d{6}\.json", path.name) and _load(path).get("plan") != plan:
            raise ValueError(
                f"--out {out} holds shards of other sources, another seed or another "
                f"images_per_shard ({path.name}); choose another folder or empty this one"
            )


def _finished(out: Path, shard: Shard, plan: str) -> dict[str, Any] | None:
    """The index of a shard that is there already and whole."""
    archive, sidecar = out / f"{shard.stem}.tar", out / f"{shard.stem}.json"
    if not (archive.is_file() and sidecar.is_file()):
        return None
    index = _load(sidecar)
    whole = (index["plan"], index["inputs"]) == (plan, shard.inputs)
    return index if whole and sha256_of(archive) == index["sha256"] else None


def _write_shard(out: Path, shard: Shard, plan: str) -> dict[str, Any]:
    # It takes seconds to import, and reading shards does without it.
    from webdataset import TarWriter

    archive, sidecar = out / f"{shard.stem}.tar", out / f"{shard.stem}.json"
    sidecar.unlink(missing_ok=True)
    partial = out / f"{shard.stem}.tar.partial"
    samples: list[dict[str, Any]] = []
    left_out = []
    try:
        with partial.open("wb") as file, TarWriter(file, encoder=False, mtime=0) as writer:
            for image in shard.images:
                record, key = image.record, f"{shard.stem}-{len(samples):06d}"
                try:
                    if image.left_out:
                        raise ValueError(image.left_out)
                    suffix, content, (width, height) = _encoded(record.path)
                except ValueError as error:
                    left_out.append({"file": record.name, "reason": str(error)})
                    continue
                sample = {**described(record), "width": width, "height": height}
                writer.write({"__key__": key, suffix: content, "json": compact(sample)})
                samples.append({"key": key, "image": f"{key}.{suffix}", **sample})
                if record.scanner is not None:
                    # Not in the tar, whose checksum says which data set a model learned from.
                    samples[-1]["scanner"] = record.scanner
        with tarfile.open(partial) as tar:
            members = {member.name: member for member in tar}
        for sample in samples:
            member = members[sample["image"]]
            sample["offset"], sample["length"] = member.offset_data, member.size
        index = {
            "schema_version": SCHEMA_VERSION,
            "split": shard.split,
            "shard": shard.number,
            "sha256": sha256_of(partial),
            "bytes": partial.stat().st_size,
            "plan": plan,
            "inputs": shard.inputs,
            "left_out": left_out,
            "samples": samples,
        }
        partial.replace(archive)
    finally:
        partial.unlink(missing_ok=True)
    # The index comes last: where it lies, the tar is whole.
    _write_whole(sidecar, _pretty(index))
    return index


def _encoded(path: Path) -> tuple[str, bytes, tuple[int, int]]:
    """The suffix, bytes and `(width, height)` of an image for the tar, decoded to be sure of it.

    Raises:
        ValueError: it cannot be used; the message says why.
    """
    content = path.read_bytes()
    try:
        with Image.open(io.BytesIO(content)) as image:
            frames = getattr(image, "n_frames", 1)
            image.load()
            suffix = _SUFFIXES.get(image.format or "")
            if frames == 1 and image.mode in _EIGHT_BIT_MODES and suffix is None:
                converted = io.BytesIO()
                grey = image.mode in {"1", "L", "LA"}
                image.convert("L" if grey else "RGB").save(converted, "PNG")
                suffix, content = "png", converted.getvalue()
    except UnidentifiedImageError as error:
        raise ValueError("is no image of a format that is known") from error
    # On a broken file Pillow raises nearly anything, from SyntaxError to struct.error.
    except Exception as error:
        raise ValueError(f"cannot be decoded: {error}") from error
    if frames > 1:
        raise ValueError(f"holds {frames} frames; give each as an image of its own")
    if suffix is None or image.mode not in _EIGHT_BIT_MODES:
        raise ValueError(f"has mode {image.mode!r}; store it with 8 bits per channel")
    return suffix, content, image.size


def _manifest(
    data_sets: Sequence[DataSet],
    out: Path,
    indexes: Sequence[Mapping[str, Any]],
    *,
    images_per_shard: int,
    seed: int,
) -> dict[str, Any]:
    shards = []
    for index in indexes:
        stem = f"{index['split']}-{index['shard']:06d}"
        shards.append(
            {
                "file": f"{stem}.tar",
                "split": index["split"],
                "images": len(index["samples"]),
                "bytes": index["bytes"],
                "sha256": index["sha256"],
                "index_sha256": sha256_of(out / f"{stem}.json"),
            }
        )
    samples = {
        split: [s for index in indexes if index["split"] == split for s in index["samples"]]
        for split in SPLITS
    }
    return {
        "schema_version": SCHEMA_VERSION,
        # The tars hold bytes, facts, patients and splits, so this stands for all of them.
        "sha256": digest([[shard["file"], shard["sha256"]] for shard in shards]),
        "images_per_shard": images_per_shard,
        "seed": seed,
        "sources": [
            {"layout": data_set.layout, "images": len(data_set.records), "notes": data_set.notes}
            for data_set in data_sets
        ],
        "splits": {split: _counts(samples[split]) for split in SPLITS},
        "shards": shards,
        "patients": {split: sorted({s["group"] for s in samples[split]}) for split in SPLITS},
        "left_out": [asdict(left) for data_set in data_sets for left in data_set.left_out]
        + [left for index in indexes for left in index["left_out"]],
    }


def _counts(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    facts = [Facts(**{"plane": None, **sample["facts"]}) for sample in samples]

    def tally(names: Iterator[str | None]) -> dict[str, int]:
        return dict(sorted(Counter(name for name in names if name is not None).items()))

    return {
        "images": len(samples),
        "patients": len({sample["group"] for sample in samples}),
        "planes": tally(fact.plane for fact in facts),
        "brain_planes": tally(fact.brain_plane for fact in facts),
        "gestational_ages": sum(fact.gestational_age_days is not None for fact in facts),
        "captions": sum(fact.caption is not None for fact in facts),
    }


def _load(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return loaded


def _write_whole(path: Path, content: bytes) -> None:
    """An interruption leaves the old file, or none, but never half of one."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def _pretty(value: object) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
