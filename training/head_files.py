"""A trained head on disk: `head.safetensors` and `head.json`, without pickle."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from fetalclip_edge.tasks.class_head import ClassHead
from training.clip_embeddings import LeftOut

__all__ = [
    "HEAD_WEIGHTS",
    "TrainedHead",
    "check_task_name",
    "read_head_folder",
    "write_head_folder",
]

HEAD_WEIGHTS = "head.safetensors"
_DESCRIPTION = "head.json"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_NEEDED = {
    "task": str,
    "labels": list,
    "pooling": str,
    "temperature": float,
    "encoder": dict,
    "metrics": dict,
    "training": dict,
    "data": dict,
    "weights_sha256": str,
}


@dataclass(frozen=True, slots=True)
class TrainedHead:
    """A head and what is known of it.

    Attributes:
        task: its name.
        head: itself.
        encoder: whose embeddings it reads: `sha256`, and in words which it was.
        metrics: on the test patients.
        training: how it was chosen.
        data: what it learned from and was measured on: counts, no names.
        left_out: clips that could not be used.
    """

    task: str
    head: ClassHead
    encoder: dict[str, Any]
    metrics: dict[str, Any]
    training: dict[str, Any]
    data: dict[str, Any]
    left_out: Sequence[LeftOut]


def check_task_name(name: str) -> str:
    """The name of a task, which becomes part of a file's name.

    Raises:
        ValueError: it is none.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"the name of a task must be small letters, digits and _, at most 40, not {name!r}"
        )
    return name


def write_head_folder(folder: Path, trained: TrainedHead) -> None:
    """Write both files; `head.json` last, so that it never tells of other weights."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = save(_tensors(trained.head))
    (folder / HEAD_WEIGHTS).write_bytes(weights)
    described: dict[str, Any] = {
        "task": trained.task,
        "labels": list(trained.head.labels),
        "pooling": trained.head.pooling,
        "temperature": trained.head.temperature,
        "threshold": trained.head.threshold,
        "encoder": trained.encoder,
        "metrics": trained.metrics,
        "training": trained.training,
        "data": trained.data,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "left_out": [asdict(each) for each in trained.left_out],
    }
    temporary = folder / f"{_DESCRIPTION}.tmp"
    temporary.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / _DESCRIPTION)


def read_head_folder(folder: Path) -> tuple[dict[str, Any], bytes]:
    """What `write_head_folder` wrote: the description, and the bytes of the weights.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the description is damaged, or the weights are not those that it tells of.
    """
    path = folder / _DESCRIPTION
    for each in (path, folder / HEAD_WEIGHTS):
        if not each.is_file():
            raise FileNotFoundError(
                f"{each} is missing; make it with: python -m training.heads LABELS.csv "
                f"--model BUNDLE --task NAME --out {folder}"
            )
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    wrong = [
        name
        for name, kind in _NEEDED.items()
        if not isinstance(described, dict) or not isinstance(described.get(name), kind)
    ]
    if not wrong:
        within = {"labels": all(isinstance(label, str) for label in described["labels"])}
        within["threshold"] = "threshold" in described
        within["encoder"] = "sha256" in described["encoder"]
        within["metrics"] = {"clips", "groups"} <= described["metrics"].keys()
        wrong = [name for name, right in within.items() if not right]
    if wrong:
        raise ValueError(f"{path} was not written by training.heads: look at {', '.join(wrong)}")
    check_task_name(described["task"])
    weights = (folder / HEAD_WEIGHTS).read_bytes()
    if hashlib.sha256(weights).hexdigest() != described["weights_sha256"]:
        raise ValueError(
            f"{folder / HEAD_WEIGHTS} differs from the checksum in {_DESCRIPTION}: one of the two "
            "was changed. Train the head again"
        )
    return described, weights


def _tensors(head: ClassHead) -> dict[str, Any]:
    tensors = {"weight": head.weight, "bias": head.bias}
    if head.attention is not None:
        tensors |= {
            "attention.hidden": head.attention.hidden,
            "attention.offset": head.attention.offset,
            "attention.query": head.attention.query,
        }
    return tensors
