"""Train a small head on the embeddings of a model that stays as it is, and add it to a bundle.

python -m training.heads LABELS.csv --model BUNDLE --task NAME --out HEAD
python -m training.heads HEAD --add-to BUNDLE --out NEW_BUNDLE
"""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from export.tasks import add_task
from fetalclip_edge.errors import BackendError
from fetalclip_edge.tasks.heart import HEART
from training.evaluation.encoders import open_encoder
from training.head_files import TrainedHead, write_head_folder
from training.head_training import HeadSettings, train_head
from training.options import told

__all__ = ["main"]

_FIGURES = {
    "auroc": "AUROC",
    "macro_f1": "macro-F1",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ece": "calibration error",
}


class Pooling(str, Enum):
    """How the frames of a clip become one."""

    NONE = "none"
    MEAN = "mean"
    ATTENTION = "attention"


def main(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="LABELS.csv|HEAD",
            help="table with the columns path (image, folder of frames, video or DICOM cine, "
            "relative to the table), label, group (the patient) and, maybe, split (train, "
            "validation, test); or, with --add-to, a folder that this command wrote",
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder of the head, or of the new bundle")],
    model: Annotated[
        Path | None,
        typer.Option(
            help="bundle whose embeddings to learn on; or a release or a published checkpoint, "
            "for figures: what a bundle is to carry must be trained on that bundle"
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="name of the task: heart, or one of your own"),
    ] = None,
    pooling: Annotated[
        Pooling | None,
        typer.Option(help="of a clip's frames; by default none for pictures, mean for clips"),
    ] = None,
    positive: Annotated[
        str | None,
        typer.Option(
            metavar="LABEL", help="of two labels, the one to be found; otherwise the second"
        ),
    ] = None,
    frames: Annotated[
        int, typer.Option(min=1, metavar="N", help="frames of a clip, at most, evenly over it")
    ] = 32,
    about: Annotated[
        str, typer.Option(metavar="TEXT", help="of the data, for the model card: source, licence")
    ] = "",
    add_to: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", help="bundle to copy and to add the head to")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="of a published checkpoint: fetalclip, mobile-fetalclip")
    ] = None,
    device: Annotated[str, typer.Option(help="where PyTorch runs: cpu, cuda")] = "cpu",
    backend: Annotated[str, typer.Option(help="that runs a bundle")] = "auto",
    json_out: Annotated[bool, typer.Option("--json", help="print the metrics as JSON")] = False,
) -> None:
    """Train a small head on frozen embeddings, or add one to a bundle.

    No patient is in two splits. The penalty is chosen by cross-validation over the patients of
    train, temperature and threshold on those of validation; test chooses nothing. Clips that
    cannot be read are listed and left out.

    To begin: python -m training.heads clinic.csv --model BUNDLE --task view --out head

    Then: python -m training.heads head --add-to BUNDLE --out my_bundle
    """
    console = Console(stderr=True)
    if add_to is not None:
        with told(console, 2, OSError, ValueError):
            if model is not None or task is not None:
                raise ValueError("--model and --task are for training; --add-to takes a HEAD")
            name = add_task(source, add_to, out)
        console.print(f"wrote {out} with the task {name}", highlight=False, soft_wrap=True)
        return
    with told(console, 1, BackendError), told(console, 2, OSError, ValueError):
        if model is None or task is None:
            raise ValueError("training needs --model and --task; adding a HEAD needs --add-to")
        settings = HeadSettings(
            task, None if pooling is None else pooling.value, positive, frames, about
        )
        encoder = open_encoder(model, architecture, device, backend)
        trained = train_head(source, encoder, settings, out, console)
        write_head_folder(out, trained)
    _show(trained, console)
    then = f"next: python -m training.heads {out} --add-to BUNDLE --out NEW_BUNDLE"
    if trained.task != HEART and trained.head.pooling != "none":
        then = f"a bundle does not take it: for clips it answers in the task {HEART} alone"
    console.print(f"wrote {out}; {then}", highlight=False, soft_wrap=True)
    if json_out:
        typer.echo(json.dumps(trained.metrics, indent=2))


def _show(trained: TrainedHead, console: Console) -> None:
    metrics = trained.metrics
    table = Table(
        title=f"{trained.task}: {metrics['clips']} test clips of {metrics['groups']} patients"
    )
    for column in ("", "value", "95 % interval"):
        table.add_column(column)
    for key, title in _FIGURES.items():
        if key in metrics:
            table.add_row(title, _number(metrics[key]), _interval(metrics[f"{key}_interval"]))
    console.print(table)


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(value: Any) -> str:
    return "-" if value is None else f"{value[0]:.3f} to {value[1]:.3f}"


if __name__ == "__main__":
    typer.run(main)
