"""The model card, from a bundle's manifest and its evaluation.

python -m training.evaluate BUNDLE --data SHARDS --out runs/evaluation
python -m export.card BUNDLE runs/evaluation/evaluation.json
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from export.manifest import write_checksums
from export.metrics import withheld_shares
from export.replacing import new_bundle
from fetalclip_edge.bundle import MANIFEST, ModelBundle
from training.evaluation.report import SCHEMA_VERSION, percent, with_interval

__all__ = [
    "CARD",
    "check_same_model",
    "model_card",
    "task_section",
    "without_task_section",
    "write_card",
]

CARD = "MODEL_CARD.md"

# What the card speaks of; curves and pictures are the evaluation's own.
_FIGURES = {
    "planes": "planes",
    "brain_planes": "brain sub-planes",
    "gestational_age": "gestational age",
    "probes": "linear probes",
    "probes, planes": "linear probe of planes",
    "probes, brain_planes": "linear probe of brain sub-planes",
}
_NEEDED = ("architecture", "limits", "training_data")
_ADDED = "## Added tasks"
_OF_HEADS = {
    "auroc": "AUROC",
    "macro_f1": "macro-F1",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ece": "calibration error",
}
_TASKS = {"planes": "planes", "brain_planes": "brain sub-planes"}


def model_card(manifest: Mapping[str, Any], evaluation: Mapping[str, Any] | None = None) -> str:
    """The model card in Markdown.

    Args:
        manifest: of the bundle, as `export.manifest.describe` makes it.
        evaluation: its `evaluation.json`; None before there is one, and the card says so.

    Raises:
        ValueError: the evaluation is of another model.
    """
    if evaluation is not None:
        check_same_model(manifest, evaluation)
    size = manifest["preprocess"]["size"]
    channels = {"gray": "one grey channel", "rgb": "three channels"}[
        manifest["preprocess"]["color"]
    ]
    lines = [
        f"# {manifest['name']} {manifest['version']}",
        "",
        manifest["intended_use"],
        "",
        f"Image tower: {manifest['architecture']} (timm) on {channels} of {size} x {size} "
        f"pixels, to an embedding of {manifest['embedding_dim']} numbers, "
        f"{_told(manifest.get('training', {}))}. Planes are recognised by cosine with prompt "
        f"embeddings. Licence of the weights: {manifest['license']}.",
        "",
        "## Measured",
        "",
    ]
    if evaluation is None:
        lines += ["Not evaluated yet: `python -m training.evaluate`, then `python -m export.card`."]
    else:
        lines += _measured(evaluation)
    lines += _at_export(manifest["metrics"])
    lines += _of_heads(manifest.get("head"))
    lines += _of_ages(manifest["metrics"].get("age_bank"))
    lines += ["", "## Limits", ""]
    lines += [f"- {limit}" for limit in manifest["limits"]]
    lines += ["", "## Training data and credits", ""]
    lines += [
        f"- {data['name']}: {data['credit']}, {data['url']}, {data['license']}. "
        f"Changes: {data['changes']}."
        for data in manifest["training_data"]
    ]
    if manifest.get("tasks"):
        lines += task_section(manifest["tasks"])
    return "\n".join(lines) + "\n"


def task_section(tasks: Mapping[str, Any]) -> list[str]:
    """What heads that were added to a bundle are worth, by those who added them."""
    lines = ["", _ADDED, "", "Small heads on this model's embeddings, by those who added them.", ""]
    for name, entry in tasks.items():
        found, data = entry["metrics"], entry["data"]
        figures = [
            f"{title} {found[key]:.3f} {_between(found.get(f'{key}_interval'))}".rstrip()
            for key, title in _OF_HEADS.items()
            if found.get(key) is not None
        ]
        about = f" {data['about']}" if data.get("about") else ""
        lines.append(
            f"- {name} ({', '.join(entry['labels'])}; pooling {entry['pooling']}):{about} On "
            f"{found['clips']} clips of {found['groups']} patients held out: {', '.join(figures)}"
        )
    return lines


def without_task_section(card: str) -> str:
    """A card as it was before any head was added."""
    return card.partition(f"\n{_ADDED}\n")[0].rstrip("\n")


def _between(interval: list[float] | None) -> str:
    return "" if interval is None else f"({interval[0]:.3f} to {interval[1]:.3f})"


def _of_heads(head: Mapping[str, Any] | None) -> list[str]:
    """What the bundle's map of the head is worth; nothing where it has none."""
    if head is None:
        return []
    lines = ["", "## Heads", ""]
    lines += [
        f"Head circumference, {head['edges']} diameters and gestational age from a map of the head "
        f"on frames whose plane is `brain`. Learned from {head['training_data']}.",
        "",
    ]
    for split, found in head["metrics"].items():
        lines.append(
            f"- {split}: {found['heads']} heads of HC18, {found['withheld']} withheld; "
            f"circumference off by {found['circumference_mean_absolute_error_mm']:.2f} mm, mean "
            f"error {found['circumference_mean_error_mm']:+.2f} mm"
        )
    return lines


def _of_ages(ages: Mapping[str, Any] | None) -> list[str]:
    """What the age of heads that were not measured is worth, or why there is none."""
    if ages is None:
        return []
    lines = ["", "## Gestational age without a measured head", ""]
    if "left_out" in ages:
        return [*lines, f"None: {ages['left_out']}."]
    lines += [
        "Zero-shot, on frames whose plane is `brain` and whose pixel size is known: the median of "
        "the 15 days whose prompts are nearest. An age is valid if the circumference that a person "
        "measured is within WHO's 2.5 to 97.5 % at it.",
        "",
    ]
    for split, found in ages.items():
        interval = with_interval(found["validity"], found["validity_interval_by_patient"])
        lines.append(f"- {split}: {interval} % of {found['images']} heads of HC18")
    return lines


def check_same_model(manifest: Mapping[str, Any], evaluation: Mapping[str, Any]) -> None:
    """Refuse an evaluation of anything but the bundle that a manifest describes.

    Raises:
        ValueError: it is no evaluation, or not of a bundle, or a file has another checksum.
    """
    model, version = evaluation.get("model"), evaluation.get("schema_version")
    if not isinstance(model, Mapping) or version != SCHEMA_VERSION:
        raise ValueError(
            f"this is not an evaluation.json of this version of training.evaluate: its "
            f"schema_version is {version!r}, not {SCHEMA_VERSION}"
        )
    if model.get("kind") != "bundle":
        raise ValueError(
            f"the evaluation is of a {model.get('kind')}, not of a bundle: its numbers are those "
            "of other weights; run training.evaluate on the bundle"
        )
    wanted = {n: f["sha256"] for n, f in manifest["files"].items() if not n.endswith(".md")}
    found = dict(model["files"])
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise ValueError(
                f"the evaluation is of another model, {model.get('name')}: its {name} is not the "
                f"bundle's; run training.evaluate on this bundle"
            )


def write_card(folder: Path, evaluation: Mapping[str, Any]) -> None:
    """Write the card into a bundle and put its checksums right, all at once.

    Raises:
        BundleError: `folder` is not a bundle, or is damaged.
        ValueError: `folder` is a bundle of another make, or the evaluation is of another model.
    """
    ModelBundle.load(folder)
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if lacking := [key for key in _NEEDED if key not in manifest]:
        raise ValueError(
            f"{folder} was not made by export.bundle: its manifest lacks {', '.join(lacking)}"
        )
    card = model_card(manifest, evaluation)
    with new_bundle(folder) as new:
        shutil.copytree(folder, new, dirs_exist_ok=True)
        (new / CARD).write_text(card, encoding="utf-8")
        write_checksums(new, manifest)


def _measured(evaluation: Mapping[str, Any]) -> list[str]:
    model, data, tasks = evaluation["model"], evaluation["data"], evaluation["tasks"]
    splits = [
        f"{split} {counts['images']} images of {counts['patients']} patients"
        for split, counts in data["splits"].items()
    ]
    lines = [
        f"In {model['precision']} by {model['backend']}, with 95 % intervals by bootstrap over "
        "patients, in percent. `python -m training.evaluate` gives these numbers.",
        "",
        f"Data: {', '.join(data['sources'])}. Splits by patient: {'; '.join(splits)}. Every figure "
        f"is of the test split. Shards {data['sha256']}.",
        *(["", data["note"]] if data["note"] else []),
        "",
        "| | this model | FetalCLIP | MobileFetalCLIP |",
        "|---|---|---|---|",
    ]
    for row in evaluation["published"]["rows"]:
        ours = with_interval(row["ours"], row["ours_interval"])
        papers = f"{percent(row['fetalclip'])} | {percent(row['mobile_fetalclip'])}"
        lines.append(f"| {row['figure']} | {ours} | {papers} |")
    lines += ["", evaluation["published"]["note"]]
    for name, reason in evaluation["left_out"].items():
        if name in _FIGURES:
            lines += ["", f"Not measured: {_FIGURES[name]}: {reason}."]
    for task, title in _TASKS.items():
        if task not in tasks:
            continue
        found = tasks[task]
        lines += [
            "",
            f"{title.capitalize()}, zero-shot, {found['images']} images of {found['patients']} "
            f"patients: accuracy {with_interval(found['accuracy'], found['accuracy_interval'])}.",
            "",
            "| class | images | F1 | recall |",
            "|---|---|---|---|",
        ]
        for label, each in found["classes"].items():
            f1 = with_interval(each["f1"], each["f1_interval"])
            lines.append(f"| {label} | {each['images']} | {f1} | {percent(each['recall'])} |")
        if found["absent"]:
            lines += ["", f"No test image shows {', '.join(found['absent'])}: not scored."]
    return lines


def _at_export(metrics: Mapping[str, Any]) -> list[str]:
    """Both precisions, confidence and abstention, as measured when the bundle was made."""
    fp32, int8 = metrics["fp32"], metrics.get("int8")
    if int8 is None:
        return _alone(metrics)
    lines = [
        "",
        "## Quantisation and confidence",
        "",
        f"On {metrics['measured_on']}. Confidence and threshold were fitted on patients held out "
        "of the training split, by which INT8 is accepted or not, too. `python -m export.bundle` "
        "gives these numbers.",
        "",
        "| | FP32 | INT8 |",
        "|---|---|---|",
    ]
    for task, title in _TASKS.items():
        key = f"{task}_macro_f1"
        lines.append(f"| {title}, macro-F1 | {fp32[key]:.3f} | {int8[key]:.3f} |")
    for plane, value in int8["planes_f1"].items():
        lines.append(f"| {plane}, F1 | {fp32['planes_f1'][plane]:.3f} | {value:.3f} |")
    for task, title in _TASKS.items():
        error = int8[f"{task}_expected_calibration_error"]
        lines.append(f"| {title}, expected calibration error | | {error:.3f} |")
    for name, share in withheld_shares(metrics).items():
        lines.append(f"| {name}, withheld | | {share['images']} of {share['of']} |")
    return [*lines, "", _on_validation(metrics["validation"])]


def _on_validation(validation: Mapping[str, Any]) -> str:
    if validation.get("learned_from"):
        return (
            "This model has learned from nearly all patients of the train split. Confidence and "
            "abstention were fitted to a twin that had not, on the patients it held out."
        )
    return (
        "On the patients held out of training INT8 reached a macro-F1 of "
        f"{validation['int8']['planes_macro_f1']:.3f} on planes and "
        f"{validation['int8']['brain_planes_macro_f1']:.3f} on brain sub-planes. Where the test "
        "differs, expect the lower figure."
    )


def _alone(metrics: Mapping[str, Any]) -> list[str]:
    """FP32, confidence and abstention, of a bundle without INT8."""
    fp32 = metrics["fp32"]
    lines = [
        "",
        "## Confidence",
        "",
        f"On {metrics['measured_on']}, in FP32. Confidence and threshold were fitted on patients "
        "held out. `python -m export.bundle` gives these numbers.",
        "",
        "| | FP32 |",
        "|---|---|",
    ]
    for task, title in _TASKS.items():
        lines.append(f"| {title}, macro-F1 | {fp32[f'{task}_macro_f1']:.3f} |")
        error = fp32[f"{task}_expected_calibration_error"]
        lines.append(f"| {title}, expected calibration error | {error:.3f} |")
    for name, share in withheld_shares(metrics).items():
        lines.append(f"| {name}, withheld | {share['images']} of {share['of']} |")
    return lines


def _told(training: Mapping[str, Any]) -> str:
    """How the image tower was trained, as part of a sentence."""
    if training.get("teacher") is None:
        return "trained contrastively with a text tower on pairs of image and caption"
    return (
        f"trained on pairs of image and caption with {training['teacher']} as its teacher "
        f"(method: {training['method']}), which embedded the captions"
    )


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="folder of the bundle")],
    evaluation: Annotated[
        Path, typer.Argument(metavar="EVALUATION_JSON", help="written by training.evaluate")
    ],
) -> None:
    """Write a bundle's model card from its evaluation, and put its checksums right."""
    console = Console(stderr=True)
    try:
        found = json.loads(evaluation.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"{evaluation} must hold a JSON object")
        write_card(bundle, found)
    except (OSError, ValueError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    console.print(f"wrote {bundle / CARD}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
