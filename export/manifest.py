"""The manifest of a bundle: what it says of the model, and the checksums of its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from export.credits import credit, is_resized
from export.examples import BundleData
from export.published import PUBLISHED
from export.source import Source
from fetalclip_edge.bundle import CHECKSUM, MANIFEST, SCHEMA_VERSION, file_sha256

__all__ = ["describe", "write_checksums"]

INTENDED_USE = (
    "Research and engineering: telling fetal standard planes apart in ultrasound frames. "
    "Not a medical device. Not for diagnosis, and not validated on any device or population."
)

LIMITS = (
    "Trained and measured on images of few hospitals and scanners; other probes, presets and "
    "populations are untried.",
    "`cervix` and `other` were learned from a handful of images: do not rely on them. "
    "On test images labelled Other, `other` is hardly ever the highest score; most are withheld.",
    "Brain sub-planes are often mistaken for one another, and their confidence is too high on new "
    "patients; read them with the figures above.",
    "Abstention looks at each frame alone; single pictures of other things pass.",
)
PUBLISHED_LIMITS = (
    "Published weights, asked with our own prompts: their authors measured them with theirs.",
    "Colour is taken as grey, so an overlay in colour is seen otherwise than by its authors' code.",
    "Abstention looks at the embedding alone, and at each frame alone.",
)
_RESIZED = "Trained and measured on images resized to a longest side of 448 pixels."
_NON_COMMERCIAL = (
    "Not for commercial use: the licence of what they were made from binds these weights."
)


def describe(
    release: Source,
    examples: BundleData,
    temperatures: dict[str, float],
    thresholds: dict[str, float],
    metrics: dict[str, Any],
    *,
    calibration: dict[str, Any] | None,
    graphs: dict[str, dict[str, str]],
    name: str,
    version: str,
) -> dict[str, Any]:
    """The manifest, but for the checksums that `write_checksums` adds.

    Args:
        release: the trained model.
        examples: what it was fitted to and measured on.
        temperatures: task -> temperature.
        thresholds: name -> value.
        metrics: as measured at export.
        calibration: of the INT8 graphs; None without any.
        graphs: backend -> precision -> file name.
        name: of the bundle.
        version: of the bundle.
    """
    origin = release.origin
    limits = list(PUBLISHED_LIMITS if origin.method == PUBLISHED else LIMITS)
    if is_resized(examples.layouts):
        limits.append(_RESIZED)
    if "-NC" in origin.license:
        limits.append(_NON_COMMERCIAL)
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "version": version,
        "license": origin.license,
        "intended_use": INTENDED_USE,
        "training_data": credit(examples.layouts, release),
        "data_sha256": examples.sha256,
        "training": {"method": origin.method, "teacher": origin.teacher},
        "architecture": release.config.backbone,
        "preprocess": release.preprocess.to_dict(),
        "graphs": graphs,
        "embedding_dim": release.config.embed_dim,
        "prompt_sets": {
            task: {**prompts, "temperature": temperatures[task]}
            for task, prompts in release.prompts.items()
        },
        "thresholds": thresholds,
        "metrics": metrics,
        **({} if calibration is None else {"calibration": calibration}),
        "limits": limits,
    }


def write_checksums(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest with the checksum of every file in `folder`, and its own beside it."""
    files = {
        path.name: {"sha256": file_sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.name not in (MANIFEST, CHECKSUM)
    }
    text = json.dumps({**manifest, "files": files}, indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    digest = file_sha256(folder / MANIFEST)
    (folder / CHECKSUM).write_bytes(f"{digest}  {MANIFEST}\n".encode())
