"""What an evaluation leaves behind: one JSON with everything, a page to read, a table to see."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fetalclip_edge.machine import describe_machine
from training.datasets import Example
from training.evaluation.encoders import Encoder
from training.evaluation.published import SUBSET, compare
from training.evaluation.tasks import Results

__all__ = ["SCHEMA_VERSION", "assemble", "markdown", "percent", "show", "with_interval", "write"]

SCHEMA_VERSION = 1

_PACKAGES = (
    "fetalclip-edge",
    "matplotlib",
    "numpy",
    "onnxruntime",
    "open_clip_torch",
    "scikit-learn",
    "timm",
    "torch",
    "umap-learn",
)
_NONE = "-"


def assemble(
    encoder: Encoder,
    manifest: Mapping[str, Any],
    examples: Mapping[str, Sequence[Example]],
    results: Results,
    command: str,
) -> dict[str, Any]:
    """Everything about an evaluation, as plain values for JSON.

    Args:
        encoder: the model.
        manifest: of the shards.
        examples: split -> its images.
        results: what was measured.
        command: with which it is repeated.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "model": encoder.identity,
        "data": {
            "sha256": manifest["sha256"],
            "note": _note(encoder.identity.get("data_sha256"), manifest["sha256"]),
            "sources": [source["layout"] for source in manifest["sources"]],
            "splits": {
                split: {
                    "images": len(found),
                    "patients": len({example.group for example in found}),
                }
                for split, found in examples.items()
            },
            "images_left_out": len(manifest.get("left_out", ())),
        },
        "tasks": results.tasks,
        "left_out": results.left_out,
        "pictures": [
            {"file": f"pictures/{name}", "shows_patients_images": shows}
            for name, shows in results.pictures.items()
        ],
        "published": {"rows": compare(results.tasks), "note": SUBSET},
        "command": command,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "versions": _versions(),
    }


def write(report: Mapping[str, Any], out: Path) -> None:
    """Write `evaluation.json` and `evaluation.md` into `out`."""
    text = json.dumps(report, indent=2, allow_nan=False) + "\n"
    (out / "evaluation.json").write_text(text, encoding="utf-8")
    (out / "evaluation.md").write_text(markdown(report), encoding="utf-8")


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print ours beside the published numbers, and what is missing."""
    table = Table("in percent", "ours (95 %)", "FetalCLIP", "MobileFetalCLIP")
    for row in report["published"]["rows"]:
        table.add_row(*_published_row(row))
    console.print(table)
    console.print(report["published"]["note"], highlight=False)
    if report["data"]["note"]:
        console.print(report["data"]["note"], style="yellow", highlight=False)
    for name, reason in report["left_out"].items():
        console.print(f"not measured: {name}: {reason}", markup=False, highlight=False)
    if any(picture["shows_patients_images"] for picture in report["pictures"]):
        console.print(_WARNING, highlight=False)


def markdown(report: Mapping[str, Any]) -> str:
    """The page `evaluation.md`."""
    model, data, tasks = report["model"], report["data"], report["tasks"]
    test = data["splits"]["test"]
    lines = [
        f"# Evaluation of {model['name']}",
        "",
        f"{model['kind'].capitalize()}, {model['precision']}. Data: {', '.join(data['sources'])}; "
        f"test split of {test['images']} images of {test['patients']} patients.",
        *(["", data["note"]] if data["note"] else []),
        "",
        "## Beside the papers",
        "",
        "| in percent | ours (95 %) | FetalCLIP | MobileFetalCLIP |",
        "|---|---|---|---|",
        *(f"| {' | '.join(_published_row(row))} |" for row in report["published"]["rows"]),
        "",
        report["published"]["note"],
    ]
    for name in ("planes", "brain_planes"):
        if name in tasks:
            lines += _recognition(name, tasks[name])
    if "gestational_age" in tasks:
        lines += _ages(tasks["gestational_age"])
    if "probes" in tasks:
        lines += _probes(tasks["probes"])
    if "few_shot" in tasks:
        lines += _few_shot(tasks["few_shot"])
    if report["left_out"]:
        lines += ["", "## Not measured", ""]
        lines += [f"- {name}: {reason}" for name, reason in report["left_out"].items()]
    if report["pictures"]:
        lines += ["", "## Pictures", ""]
        for picture in report["pictures"]:
            shows = ": shows patients' images" if picture["shows_patients_images"] else ""
            lines.append(f"- {picture['file']}{shows}")
        if any(picture["shows_patients_images"] for picture in report["pictures"]):
            lines += ["", _WARNING]
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    lines += [
        "",
        "## Repeat it",
        "",
        "```",
        report["command"],
        "```",
        "",
        f"Shards {data['sha256']}. {versions}. {report['machine']['processor']}. {report['made']}.",
        "",
    ]
    return "\n".join(lines)


def _note(learned: str | None, measured: str) -> str | None:
    """What must be said where the test patients are not those that training was kept from."""
    if learned in (None, measured):
        return None
    return (
        "These are not the shards that the model was made from. Where they share patients or data "
        "sets, its training may have seen images of this test split, and the figures flatter it."
    )


def percent(value: float | None) -> str:
    """A share as percent with two decimals, or a dash."""
    return _NONE if value is None else f"{100 * value:.2f}"


def with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    """A share and its interval in percent."""
    if value is None or interval is None:
        return percent(value)
    return f"{percent(value)} ({percent(interval[0])} to {percent(interval[1])})"


_SEEN = (
    "Fitted on the train split, scored on the test split. A model that was itself trained on this "
    "train split has seen the labels, so its probes need few of them."
)

_WARNING = (
    "Pictures that show patients' images lie in the output folder alone. Do not publish or commit "
    "them unless you have the right to."
)


def _published_row(row: Mapping[str, Any]) -> list[str]:
    return [
        row["figure"],
        with_interval(row["ours"], row["ours_interval"]),
        percent(row["fetalclip"]),
        percent(row["mobile_fetalclip"]),
    ]


def _recognition(name: str, found: Mapping[str, Any]) -> list[str]:
    title = {"planes": "Planes, zero-shot", "brain_planes": "Brain sub-planes, zero-shot"}[name]
    lines = [
        "",
        f"## {title}",
        "",
        f"{found['images']} images of {found['patients']} patients, any of "
        f"{len(found['candidates'])} classes may be answered; intervals by patient. Balanced: "
        "every class counts the same, as in FetalCLIP's tables.",
        "",
        "| in percent | |",
        "|---|---|",
        f"| macro-F1 | {with_interval(found['macro_f1'], found['macro_f1_interval'])} |",
        f"| accuracy | {with_interval(found['accuracy'], found['accuracy_interval'])} |",
        f"| accuracy, balanced | {percent(found['balanced_accuracy'])} |",
    ]
    for k in (2, 3):
        if f"top_{k}_accuracy" in found:
            lines.append(f"| top-{k} accuracy | {percent(found[f'top_{k}_accuracy'])} |")
            balanced = found[f"balanced_top_{k}_accuracy"]
            lines.append(f"| top-{k} accuracy, balanced | {percent(balanced)} |")
    lines += ["", "| class | images | F1 | recall |", "|---|---|---|---|"]
    for label, each in found["classes"].items():
        f1 = with_interval(each["f1"], each["f1_interval"])
        lines.append(f"| {label} | {each['images']} | {f1} | {percent(each['recall'])} |")
    if found["absent"]:
        lines += [
            "",
            f"Without an image in the test, and not scored: {', '.join(found['absent'])}.",
        ]
    lines += [
        "",
        f"| is \\ taken for | {' | '.join(found['candidates'])} |",
        "|---|" + "---|" * len(found["candidates"]),
    ]
    for label, counts in found["confusion"].items():
        lines.append(f"| {label} | {' | '.join(str(n) for n in counts.values())} |")
    return lines


def _ages(found: Mapping[str, Any]) -> list[str]:
    low, high = found["circumference_mm"]
    validity = with_interval(found["validity"], found["validity_interval"])
    by_patient = with_interval(found["validity"], found["validity_interval_by_patient"])
    lines = [
        "",
        "## Gestational age, zero-shot",
        "",
        f"{found['images']} heads of {found['patients']} patients with a circumference of "
        f"{low:g} to {high:g} mm ({found['images_outside_range']} outside). Valid: the true "
        "circumference lies within the WHO chart's 2.5 to 97.5 % at the estimated age.",
        "",
        "| | |",
        "|---|---|",
        f"| validity, percent (by image, as the paper) | {validity} |",
        f"| the same, with the interval by patient | {by_patient} |",
    ]
    if "mean_absolute_error_days" in found:
        error = found["mean_absolute_error_days"]
        lines.append(f"| mean absolute error against the WHO median's age, days | {error:.1f} |")
    return lines


def _probes(found: Mapping[str, Any]) -> list[str]:
    lines = [
        "",
        "## Linear probes",
        "",
        _SEEN,
        "",
        "| labels | train | test | macro-F1 | accuracy | AUROC | C |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, probe in found.items():
        figures = [
            with_interval(probe[key], probe[f"{key}_interval"]) if key in probe else _NONE
            for key in ("macro_f1", "accuracy", "auroc")
        ]
        counts = [
            f"{probe[f'{split}_images']} of {probe[f'{split}_patients']} patients"
            for split in ("train", "test")
        ]
        strength = f"{probe['regularisation']['c']:g}"
        lines.append(f"| {' | '.join([name, *counts, *figures, strength])} |")
    for name, probe in found.items():
        lines += [f"\n{name}: {note}." for note in probe.get("notes", ())]
    return lines


def _few_shot(found: Mapping[str, Any]) -> list[str]:
    lines = [
        "",
        "## Few-shot probes",
        "",
        _SEEN,
        "",
        "| labels | images per class | macro-F1 | spread |",
    ]
    lines.append("|---|---|---|---|")
    for name, curve in found.items():
        for point in curve["points"]:
            mean, spread = percent(point["macro_f1_mean"]), percent(point["macro_f1_std"])
            lines.append(f"| {name} | {point['shots']} | {mean} | {spread} |")
    for name, curve in found.items():
        if curve["too_few_images_for"]:
            numbers = ", ".join(map(str, curve["too_few_images_for"]))
            lines.append(f"\n{name}: too few training images for {numbers} per class.")
    return lines


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # not needed for what was measured, or it would have failed
    return found
