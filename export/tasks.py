"""Adding a trained head to a bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.card import CARD, task_section, without_task_section
from export.manifest import write_checksums
from export.replacing import new_bundle
from fetalclip_edge.bundle import CHECKSUM, MANIFEST, ModelBundle
from fetalclip_edge.tasks.class_head import read_head
from fetalclip_edge.tasks.heart import HEART
from training.head_files import read_head_folder

__all__ = ["add_task"]

_TOLD = ("labels", "pooling", "temperature", "threshold", "metrics", "training", "data")


def add_task(head: Path, bundle: Path, out: Path) -> str:
    """Write a copy of a bundle that has a head more, or another one of the same name.

    Args:
        head: folder written by `training.heads`.
        bundle: to be copied; it stays as it is.
        out: folder of the copy; a bundle that is there already is replaced.

    Returns:
        The name of the task.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the head is damaged, was trained on the embeddings of another encoder, or is of
            a kind that the device has no answer for; or `out` is no place for a bundle.
        BundleError: `bundle` is none, or is damaged.
    """
    described, weights = read_head_folder(head)
    task, source = described["task"], ModelBundle.load(bundle)
    _check_encoder(head, described["encoder"], source)
    if (described["pooling"] == "none") == (task == HEART):
        raise ValueError(
            f"{head}: task {task} has the pooling {described['pooling']}; the device answers for "
            f"clips (mean, attention) in the task {HEART}, and for single pictures in all others"
        )
    _check_out(bundle, out)
    file = f"task.{task}.safetensors"
    manifest = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    entry = {
        "file": file,
        "encoder_sha256": described["encoder"]["sha256"],
        **{name: described[name] for name in _TOLD},
    }
    manifest["tasks"] = {**manifest.get("tasks", {}), task: entry}
    with new_bundle(out) as new:
        for name in source.files:
            shutil.copy(bundle / name, new / name)
        (new / file).write_bytes(weights)
        if CARD in source.files:
            card = without_task_section((bundle / CARD).read_text(encoding="utf-8"))
            lines = task_section(manifest["tasks"])
            (new / CARD).write_text("\n".join([card, *lines]) + "\n", encoding="utf-8")
        write_checksums(new, manifest)
        read_head(ModelBundle.load(new), task)
    return str(task)


def _check_encoder(head: Path, encoder: Mapping[str, Any], bundle: ModelBundle) -> None:
    if encoder["sha256"] != bundle.encoder_sha256:
        raise ValueError(
            f"{head} was trained on the embeddings of another encoder ({encoder.get('name')}) than "
            f"those of {bundle.folder}; train it on this one: python -m training.heads LABELS.csv "
            f"--model {bundle.folder}"
        )


def _check_out(bundle: Path, out: Path) -> None:
    if out.resolve() == bundle.resolve():
        raise ValueError(f"--out {out} is the bundle itself; choose another folder for the copy")
    empty = out.is_dir() and not any(out.iterdir())
    is_bundle = all((out / name).is_file() for name in (MANIFEST, CHECKSUM))
    if out.exists() and not (empty or is_bundle):
        raise ValueError(f"--out {out} exists and is not a bundle; choose another folder")
