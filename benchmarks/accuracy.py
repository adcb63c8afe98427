"""Score the answers of `fetalclip-edge analyze --json` against labels, as the papers do.

    fetalclip-edge analyze ../shared/data/planes/images --json > answers.jsonl
    python -m benchmarks.accuracy answers.jsonl --labels ../shared/data/planes/labels.csv

Recognition is measured on the class with the largest score, over abdomen, brain, femur and thorax;
the share of abstentions is reported beside it. Needs scikit-learn (extra `train`).
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.metrics import f1_score

from fetalclip_edge.results import BRAIN_PLANES

__all__ = ["score"]

_PLANES = {
    "Fetal abdomen": "abdomen",
    "Fetal brain": "brain",
    "Fetal femur": "femur",
    "Fetal thorax": "thorax",
}
_RESAMPLES = 1000


def score(answers: list[dict[str, Any]], labels: list[dict[str, str]]) -> dict[str, Any]:
    """Metrics of answers on labelled images.

    Args:
        answers: objects of `fetalclip-edge analyze --json`.
        labels: rows of `planes/labels.csv`; every row must have an answer by base name.

    Returns:
        Macro-F1 with its 95 % interval (bootstrap over patients), F1 of each plane, macro-F1 of
        the brain sub-planes, likewise, and the share of the images on which the model abstains.

    Raises:
        ValueError: an image has no answer.
    """
    by_name = {Path(answer["source"]).name: answer for answer in answers}
    wanted = [row for row in labels if row["plane"] in _PLANES]
    if not wanted:
        raise ValueError("the labels have no image of the four planes in this split")
    missing = [row["file"] for row in wanted if Path(row["file"]).name not in by_name]
    if missing:
        raise ValueError(f"{len(missing)} images have no answer, the first is {missing[0]}")
    matched = [by_name[Path(row["file"]).name] for row in wanted]
    if unreadable := [answer["source"] for answer in matched if "error" in answer]:
        raise ValueError(f"{len(unreadable)} images were unreadable, the first is {unreadable[0]}")
    truth = np.array([_PLANES[row["plane"]] for row in wanted])
    found = np.array([_best(answer["plane"]) for answer in matched])
    patients = np.array([row["patient"] for row in wanted])
    names = list(_PLANES.values())
    each = f1_score(truth, found, labels=names, average=None, zero_division=0)
    kept = np.array([row["brain_plane"].lower() in BRAIN_PLANES for row in wanted])
    parts = np.array([row["brain_plane"].lower() for row in wanted])[kept]
    found_parts = np.array([_best(answer["brain_plane"]) for answer in matched])[kept]
    return {
        "images": len(wanted),
        "patients": len(set(patients)),
        "planes_macro_f1": _macro(truth, found, names),
        "planes_macro_f1_interval": _bootstrap(truth, found, patients, names),
        "planes_f1": dict(zip(names, map(float, each), strict=True)),
        "brain_planes_macro_f1": _macro(parts, found_parts, list(BRAIN_PLANES)),
        "brain_planes_macro_f1_interval": _bootstrap(
            parts, found_parts, patients[kept], list(BRAIN_PLANES)
        ),
        "abstained": sum(a["state"] != "live" for a in matched) / len(matched),
    }


def _best(plane: dict[str, Any] | None) -> str:
    scores: dict[str, float] = {} if plane is None else plane["scores"]
    return max(scores, key=scores.__getitem__, default="none")


def _macro(truth: NDArray[np.str_], found: NDArray[np.str_], names: list[str]) -> float:
    return float(f1_score(truth, found, labels=names, average="macro", zero_division=0))


def _bootstrap(
    truth: NDArray[np.str_],
    found: NDArray[np.str_],
    patients: NDArray[np.str_],
    names: list[str],
) -> list[float]:
    """95 % interval of the macro-F1, patients drawn with replacement."""
    rng = np.random.default_rng(0)
    rows = {patient: np.flatnonzero(patients == patient) for patient in np.unique(patients)}
    keys = list(rows)
    values = []
    for _ in range(_RESAMPLES):
        drawn = np.concatenate([rows[keys[i]] for i in rng.integers(0, len(keys), len(keys))])
        values.append(_macro(truth[drawn], found[drawn], names))
    low, high = np.quantile(values, (0.025, 0.975))
    return [float(low), float(high)]


def _read_answers(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise ValueError(f"{path} must hold lines of JSON: {error}") from error


def _with_interval(report: dict[str, Any], name: str) -> str:
    low, high = report[f"{name}_interval"]
    return f"{report[name]:.4f} ({low:.4f} to {high:.4f})"


def main(
    answers: Annotated[Path, typer.Argument(help="Lines of fetalclip-edge analyze --json")],
    labels: Annotated[Path, typer.Option(help="planes/labels.csv")],
    split: Annotated[str, typer.Option(help="Split to score")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table")] = False,
) -> None:
    """Score answers against the labels of one split."""
    console = Console()
    try:
        lines = _read_answers(answers)
        with labels.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
        report = score(lines, rows)
    except (OSError, ValueError, KeyError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    if as_json:
        print(json.dumps(report, indent=2))
        return
    table = Table("", "F1", title=f"{report['images']} images of {report['patients']} patients")
    table.add_row("planes, macro", _with_interval(report, "planes_macro_f1"))
    for plane, value in report["planes_f1"].items():
        table.add_row(f"  {plane}", f"{value:.4f}")
    table.add_row("brain sub-planes, macro", _with_interval(report, "brain_planes_macro_f1"))
    table.add_row("abstained", f"{100 * report['abstained']:.1f} %")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
