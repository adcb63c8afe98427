"""Runs side by side: `python -m training.compare alone=RUN alone=RUN static=RUN ... --data SHARDS`.

Runs that differ in their seed alone share a name. Every run is measured, by its own prompts, on the
patients held out of its training and on the test patients. The best is chosen by the patients held
out; the test chooses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from training.datasets import Example
from training.evaluation.encoders import Embeddings, Encoder, open_encoder
from training.evaluation.tasks import RECOGNISED, label_of, recognise
from training.options import told
from training.release import load_release
from training.shards import read_examples, read_manifest
from training.zero_shot import recognition_log_loss

__all__ = ["compare", "main", "markdown"]

_TITLES = {"planes": "planes", "brain_planes": "brain sub-planes"}
_SPLITS = ("validation", "test")


def compare(runs: Sequence[tuple[str, Path]], data: Path) -> dict[str, Any]:
    """Measure runs on the patients they held out and on the test patients.

    Args:
        runs: name of the method and folder of the run, one pair a run.
        data: the shards that they were trained on.

    Returns:
        `runs`: of each its method, folder, macro-F1 by split and task, 0 to 1, and log loss on the
        patients held out by task, in nats; `methods`: mean, smallest and largest macro-F1 over the
        runs of each; `best`: the run whose log losses add up to the least. Of few images F1 moves
        by whole images, and cannot tell a narrow miss from a wide one.

    Raises:
        FileNotFoundError: a run or the shards are not there.
        ValueError: a run was trained on other data, or held out other patients than the others.
    """
    if len({folder.resolve() for _, folder in runs}) < len(runs):
        raise ValueError("a run is given twice")
    sha256 = read_manifest(data)["sha256"]
    releases = [load_release(folder) for _, folder in runs]
    for (_, folder), release in zip(runs, releases, strict=True):
        if release.origin.data_sha256 != sha256:
            raise ValueError(f"{folder} was not trained on {data}")
        if release.held_out != releases[0].held_out:
            raise ValueError(f"{folder} held out other patients than {runs[0][1]}")
    train, test = read_examples(data, "train"), read_examples(data, "test")
    examples = {
        "validation": [e for e in train if e.group in releases[0].held_out],
        "test": test,
    }
    kept = {
        split: [e for e in found if e.facts.plane and e.head_circumference_mm is None]
        for split, found in examples.items()
    }
    measured = [
        {"method": method, "run": str(folder), **_measure(folder, release.scale, kept)}
        for (method, folder), release in zip(runs, releases, strict=True)
    ]
    best = min(measured, key=lambda run: sum(run["log_loss"].values()))
    return {
        "data_sha256": sha256,
        "images": {split: len(found) for split, found in kept.items()},
        "patients": {split: len({e.group for e in found}) for split, found in kept.items()},
        "runs": measured,
        "methods": _by_method(measured),
        "best": {"method": best["method"], "run": best["run"]},
    }


def _measure(
    folder: Path, scale: float, examples: Mapping[str, Sequence[Example]]
) -> dict[str, Any]:
    encoder = open_encoder(folder)
    found: dict[str, Any] = {}
    for split, pictures in examples.items():
        embeddings = encoder.embed(pictures, f"{folder.name}, {split}")
        found[split] = {
            task: recognise(encoder, embeddings, pictures, task, encoder.prompts(task))["macro_f1"]
            for task in RECOGNISED
        }
        if split == "validation":
            found["log_loss"] = {
                task: _log_loss(encoder, scale * embeddings, pictures, task) for task in RECOGNISED
            }
    return found


def _log_loss(
    encoder: Encoder, embeddings: Embeddings, examples: Sequence[Example], task: str
) -> float:
    prompts = encoder.prompts(task)
    truth = [label_of(example, task) for example in examples]
    return recognition_log_loss(
        embeddings @ encoder.embed_prompts(prompts).T, truth, prompts.labels
    )


def _by_method(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    methods: dict[str, Any] = {}
    for method in dict.fromkeys(run["method"] for run in runs):
        own = [run for run in runs if run["method"] == method]
        methods[method] = {
            "runs": len(own),
            **{
                split: {task: _spread([run[split][task] for run in own]) for task in own[0][split]}
                for split in _SPLITS
            },
        }
    return methods


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "smallest": min(values), "largest": max(values)}


def _rows(report: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for method, found in report["methods"].items():
        cells = [_cell(each) for split in _SPLITS for each in found[split].values()]
        rows.append([method, str(found["runs"]), *cells])
    return rows


def _cell(spread: Mapping[str, float]) -> str:
    mean, smallest, largest = (f"{100 * value:.1f}" for value in spread.values())
    return f"{mean} ({smallest} to {largest})"


def _header() -> list[str]:
    return ["", "runs", *(f"{_TITLES[task]}, {split}" for split in _SPLITS for task in RECOGNISED)]


def _legend(report: Mapping[str, Any]) -> str:
    counts = ", ".join(
        f"{split}: {report['images'][split]} images of {report['patients'][split]} patients"
        for split in _SPLITS
    )
    best = report["best"]
    return (
        f"Macro-F1 in percent, mean over runs (smallest to largest). {counts}. "
        f"Best by validation (least log loss): {best['run']} ({best['method']})."
    )


def markdown(report: Mapping[str, Any]) -> str:
    """The comparison as a table in Markdown, with a line that explains it."""
    lines = [_header(), ["---"] * len(_header()), *_rows(report)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{_legend(report)}\n"


def _parse(given: Sequence[str]) -> list[tuple[str, Path]]:
    runs = []
    for text in given:
        method, equals, folder = text.partition("=")
        if not (method and equals and folder):
            raise ValueError(f"a run is given as NAME=FOLDER, not {text!r}")
        runs.append((method, Path(folder)))
    return runs


def main(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="NAME=RUN...", help="name of the method and folder of a run"),
    ],
    data: Annotated[Path, typer.Option(help="shards that the runs were trained on")],
    out: Annotated[
        Path | None, typer.Option(help="folder for comparison.json and comparison.md")
    ] = None,
) -> None:
    """Compare runs on the patients held out and on the test patients, seeds side by side."""
    console = Console(stderr=True)
    with told(console, 2, OSError, ValueError):
        report = compare(_parse(runs), data)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            text = json.dumps(report, indent=2, allow_nan=False) + "\n"
            (out / "comparison.json").write_text(text, encoding="utf-8")
            (out / "comparison.md").write_text(markdown(report), encoding="utf-8")
    table = Table(*_header(), title="macro-F1 in percent")
    for row in _rows(report):
        table.add_row(*row)
    Console().print(table)
    Console().print(_legend(report), highlight=False, markup=False)


if __name__ == "__main__":
    typer.run(main)
