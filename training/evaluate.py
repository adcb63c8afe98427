"""Measure a model as the papers do: `python -m training.evaluate MODEL --data SHARDS --out DIR`.

MODEL is a bundle, a release of `training.pretrain` or `training.distill`, or a published
checkpoint. docs/evaluation.md tells what is measured and how.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from fetalclip_edge.errors import BackendError
from fetalclip_edge.results import BRAIN_PLANES
from training.datasets import Example
from training.evaluation.encoders import Encoder, NotMeasurableError, open_encoder
from training.evaluation.gestational_age import days_of
from training.evaluation.labels import LabelTable, read_labels
from training.evaluation.report import assemble, show, write
from training.evaluation.tasks import TASKS, Evaluation
from training.prompts import PromptSet, load_prompts, prompt_file_paths
from training.shards import read_examples, read_manifest
from training.zero_shot import SCORED_PLANES

__all__ = ["main"]

_SPLITS = ("train", "test")
_PROMPTED = {"planes": SCORED_PLANES, "brain_planes": BRAIN_PLANES, "gestational_age": ()}


def main(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="a bundle, a release or a published checkpoint")
    ],
    data: Annotated[Path, typer.Option(help="shards made by training.data")],
    out: Annotated[Path, typer.Option(help="folder for evaluation.json, .md and pictures")],
    architecture: Annotated[
        str | None, typer.Option(help="of a checkpoint: fetalclip or mobile-fetalclip")
    ] = None,
    tasks: Annotated[
        str, typer.Option(help=f"some of {','.join(TASKS)}, with commas; default: all")
    ] = ",".join(TASKS),
    prompts: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK=FILE.json", help="your own prompts; needs a text tower"),
    ] = None,
    probe: Annotated[
        list[Path] | None,
        typer.Option(metavar="CSV", help="a table of labels (file,label,...) for a further probe"),
    ] = None,
    device: Annotated[str, typer.Option(help="of PyTorch: auto, cpu, cuda")] = "auto",
    backend: Annotated[
        str, typer.Option(help="that runs a bundle: onnxruntime, openvino, ...")
    ] = "auto",
) -> None:
    """Measure a model on the test split of a data set."""
    console = Console(stderr=True)
    try:
        names = _task_names(tasks)
        own = _own_prompts(prompts or [], names)
        tables = _tables(probe or [], names)
        examples = _examples(data)
        manifest = read_manifest(data)
        encoder = open_encoder(model, architecture, _device(device), backend)
        _check_prompts(encoder, own)
        out.mkdir(parents=True, exist_ok=True)
        evaluation = Evaluation(
            encoder, examples, out / "pictures", console, prompts=own, tables=tables
        )
        results = evaluation.run(names)
        if not results.tasks:
            reasons = "; ".join(f"{name}: {why}" for name, why in results.left_out.items())
            raise NotMeasurableError(f"nothing could be measured: {reasons}")
        command = shlex.join(["python", "-m", "training.evaluate", *sys.argv[1:]])
        report = assemble(encoder, manifest, examples, results, command)
        write(report, out)
    except (OSError, ValueError, BackendError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    show(report, Console())
    console.print(
        f"wrote {out / 'evaluation.json'} and evaluation.md", highlight=False, soft_wrap=True
    )


def _task_names(given: str) -> list[str]:
    names = [name.strip() for name in given.split(",") if name.strip()]
    unknown = [name for name in names if name not in TASKS]
    if unknown or not names:
        raise ValueError(
            f"--tasks must be some of {', '.join(TASKS)}, not {', '.join(unknown) or 'nothing'}"
        )
    return names


def _own_prompts(given: list[str], names: list[str]) -> dict[str, PromptSet]:
    own = {}
    for task, path in prompt_file_paths(given, _PROMPTED).items():
        # The maps look at what recognition answers.
        if not {task, "activations" if _PROMPTED[task] else task} & set(names):
            raise ValueError(f"--prompts {task}={path}: --tasks leaves {task} out")
        own[task] = load_prompts(path, task)
        if missing := [label for label in _PROMPTED[task] if label not in own[task].labels]:
            raise ValueError(
                f"--prompts {task}={path}: the file lacks the classes {', '.join(missing)}"
            )
    if "gestational_age" in own:
        days_of(own["gestational_age"])
    return own


def _check_prompts(encoder: Encoder, own: dict[str, PromptSet]) -> None:
    if own and not encoder.has_text:
        raise ValueError(
            f"--prompts needs a text tower, and {encoder.name} has none: a bundle or a release "
            "without one recognises by the prompts stored in it"
        )


def _tables(paths: list[Path], names: list[str]) -> list[LabelTable]:
    if paths and "probes" not in names:
        raise ValueError("--probe is for the task probes, which --tasks leaves out")
    tables = [read_labels(path) for path in paths]
    taken = {"planes", "brain_planes"}
    for table in tables:
        if table.name in taken:
            raise ValueError(f"two probes would be called {table.name!r}; rename the table")
        taken.add(table.name)
    return tables


def _examples(data: Path) -> dict[str, list[Example]]:
    counts = read_manifest(data)["splits"]
    if not counts.get("test", {}).get("images"):
        raise ValueError(
            f"--data {data} has no images of split 'test': there is nothing to measure"
        )
    return {
        split: read_examples(data, split)
        for split in _SPLITS
        if counts.get(split, {}).get("images")
    }


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"--device {name!r} cannot be used: {first}") from error
    return name


if __name__ == "__main__":
    typer.run(main)
