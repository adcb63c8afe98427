"""Copies of the shipped bundle with a head of a test's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from export.manifest import write_checksums
from fetalclip_edge.bundle import DEFAULT_BUNDLE, ModelBundle

DIM = ModelBundle.load().embedding_dim
ENCODER = ModelBundle.load().encoder_sha256


def linear_head(classes: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "weight": rng.normal(0, 3, (classes, DIM)).astype(np.float32),
        "bias": rng.normal(0, 1, classes).astype(np.float32),
    }


def attention_head(classes: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        **linear_head(classes, seed),
        "attention.hidden": rng.normal(0, 3, (5, DIM)).astype(np.float32),
        "attention.offset": rng.normal(0, 1, 5).astype(np.float32),
        "attention.query": rng.normal(0, 3, 5).astype(np.float32),
    }


def entry(**changes: Any) -> dict[str, Any]:
    """What a manifest says of a head of two labels for single pictures."""
    return {
        "file": "task.safetensors",
        "labels": ["no", "yes"],
        "pooling": "none",
        "temperature": 1.0,
        "threshold": None,
        "encoder_sha256": ENCODER,
        **changes,
    }


def headed(
    folder: Path,
    tasks: dict[str, Any],
    tensors: dict[str, np.ndarray],
    *,
    knows_everything: bool = True,
    brain_is_thorax: bool = False,
) -> Path:
    """A bundle with tasks whose tensors are all in one file.

    Args:
        folder: to write.
        tasks: as the manifest has them.
        tensors: of `task.safetensors`.
        knows_everything: nothing is out of domain.
        brain_is_thorax: what it would call brain it calls thorax, as which no picture may be here.
    """
    shutil.copytree(DEFAULT_BUNDLE, folder)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["tasks"] = tasks
    if knows_everything:
        manifest["thresholds"]["domain_distance"] = 1e9
    save_file(tensors, folder / "task.safetensors")
    if brain_is_thorax:
        prompts = load_file(folder / "prompts.safetensors")
        labels = manifest["prompt_sets"]["planes"]["labels"]
        order = list(range(len(labels)))
        brain, thorax = labels.index("brain"), labels.index("thorax")
        order[brain], order[thorax] = thorax, brain
        prompts["planes"] = np.ascontiguousarray(prompts["planes"][order])
        save_file(prompts, folder / "prompts.safetensors")
    write_checksums(folder, manifest)
    return folder
