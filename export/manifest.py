"""The manifest of a bundle and its model card, both from the same facts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from export.credits import credit, is_resized
from export.examples import BundleData
from export.metrics import withheld_shares
from fetalclip_edge.bundle import CHECKSUM, MANIFEST, SCHEMA_VERSION, file_sha256
from training.release import Release

__all__ = ["describe", "model_card", "write_checksums"]

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
    "Abstention looks at each frame's embedding alone; single pictures of other things pass.",
)
_RESIZED = "Trained and measured on images resized to a longest side of 448 pixels."
_NON_COMMERCIAL = "Not for commercial use: the teacher's licence binds these weights, too."


def describe(
    release: Release,
    examples: BundleData,
    temperatures: dict[str, float],
    thresholds: dict[str, float],
    metrics: dict[str, Any],
    *,
    graph: str,
    name: str,
    version: str,
) -> dict[str, Any]:
    """The manifest, but for the checksums that `write_checksums` adds."""
    origin = release.origin
    limits = list(LIMITS)
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
        "graphs": {"onnxruntime": {"file": graph, "precision": "int8"}},
        "embedding_dim": release.config.embed_dim,
        "prompt_sets": {
            task: {**prompts, "temperature": temperatures[task]}
            for task, prompts in release.prompts.items()
        },
        "thresholds": thresholds,
        "metrics": metrics,
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


def model_card(manifest: dict[str, Any]) -> str:
    """The model card in Markdown."""
    metrics = manifest["metrics"]
    fp32, int8 = metrics["fp32"], metrics["int8"]
    validation = metrics["validation"]["int8"]
    planes = "\n".join(
        f"| {plane}, F1 | {fp32['planes_f1'][plane]:.3f} | {value:.3f} |"
        for plane, value in int8["planes_f1"].items()
    )
    withheld = "\n".join(
        f"| {name}, withheld | | {share['images']} of {share['of']} |"
        for name, share in withheld_shares(metrics).items()
    )
    credit_lines = "\n".join(
        f"- {entry['name']}: {entry['credit']}, {entry['url']}, {entry['license']}. "
        f"Changes: {entry['changes']}."
        for entry in manifest["training_data"]
    )
    limits = "\n".join(f"- {limit}" for limit in manifest["limits"])
    return f"""# {manifest["name"]} {manifest["version"]}

{manifest["intended_use"]}

Image tower: {manifest["architecture"]} (timm) on one grey channel of \
{manifest["preprocess"]["size"]} x {manifest["preprocess"]["size"]} pixels, to an embedding of \
{manifest["embedding_dim"]} numbers, \
{_told(manifest["training"])}. Planes are recognised by cosine with prompt embeddings. \
Weights: {manifest["license"]}. Data set measured on: sha256 {manifest["data_sha256"]}.

## Measured

On {metrics["measured_on"]}. Confidence and threshold were fitted on patients held out of the \
training split, by which INT8 is accepted or not, too. `python -m export.bundle` gives these \
numbers.

| | FP32 | INT8 |
|---|---|---|
| planes, macro-F1 | {fp32["planes_macro_f1"]:.3f} | {int8["planes_macro_f1"]:.3f} |
{planes}
| brain sub-planes, macro-F1 | {fp32["brain_planes_macro_f1"]:.3f} | \
{int8["brain_planes_macro_f1"]:.3f} |
| planes, expected calibration error | | {int8["planes_expected_calibration_error"]:.3f} |
| brain sub-planes, expected calibration error | | \
{int8["brain_planes_expected_calibration_error"]:.3f} |
{withheld}

On the patients held out of training the brain sub-planes reached \
{validation["brain_planes_macro_f1"]:.2f} in INT8: expect the lower figure.

## Limits

{limits}

## Training data and credits

{credit_lines}
"""


def _told(training: dict[str, str | None]) -> str:
    """How the image tower was trained, as part of a sentence."""
    if training["teacher"] is None:
        return "trained contrastively with a text tower on pairs of image and caption"
    return (
        f"trained on pairs of image and caption with {training['teacher']} as its teacher "
        f"(method: {training['method']}), whose text tower it shares"
    )
