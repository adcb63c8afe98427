"""Prepare data sets for training: `python -m training.data SOURCE... --out SHARDS`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from training.progress import image_progress
from training.shards import SPLITS, write_shards
from training.sources import DataSet, read_source

__all__ = ["main"]

_SHOWN_LEFT_OUT = 20

_HELP = """Make webdataset shards, ready for training, of one or more data sets.

A SOURCE is one of:

- the folder of FETAL_PLANES_DB (https://doi.org/10.5281/zenodo.3904280), unpacked: it holds
FETAL_PLANES_DB_data.csv and Images/

- the folder of HC18 (https://doi.org/10.5281/zenodo.1327317), unpacked: it holds
training_set_pixel_size_and_HC.csv and training_set/

- the folder of the subset, with planes/ and hc18/, each with a labels.csv

- your own CSV file with the columns image and caption, and patient, split (train or test) and
scanner where you know them; the images' paths are relative to the file

Several sources make one data set. Stopped half-way, the same command goes on where it stood.
Images that cannot be decoded are left out and listed. docs/data.md tells more.

Example: python -m training.data FETAL_PLANES HC18 --out shards
"""


def prepare(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", show_default=False)],
    out: Annotated[Path, typer.Option(help="folder for the shards", show_default=False)],
    images_per_shard: Annotated[
        int, typer.Option(min=1, help="at most so many images in a shard")
    ] = 100,
    seed: Annotated[int, typer.Option(help="decides which image goes into which shard")] = 0,
) -> None:
    """Prepare the data; the help text is given to typer below, line by line as it stands."""
    console = Console(stderr=True)
    try:
        data_sets = [data_set for source in sources for data_set in read_source(source)]
        for data_set in data_sets:
            for line in (f"{data_set.layout}: {len(data_set.records)} images", *data_set.notes):
                console.print(line, markup=False, highlight=False)
        manifest = _write(data_sets, out, images_per_shard, seed, console)
    except (OSError, ValueError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        told = f"stopped; {out} keeps what is done. Give the same command again to go on"
        console.print(told, markup=False, highlight=False)
        raise typer.Exit(130) from None
    _print_left_out(manifest["left_out"], console)
    Console().print(_table(manifest))
    count = len(manifest["shards"])
    console.print(f"wrote {count} shards and manifest.json to {out}", markup=False, highlight=False)


def _write(
    data_sets: list[DataSet], out: Path, images_per_shard: int, seed: int, console: Console
) -> dict[str, Any]:
    with image_progress(console) as progress:
        tasks = {stage: progress.add_task(stage, total=None) for stage in ("checking", "writing")}

        def report(stage: str, done: int, total: int) -> None:
            progress.update(tasks[stage], completed=done, total=total)

        return write_shards(
            data_sets, out, images_per_shard=images_per_shard, seed=seed, report=report
        )


def _print_left_out(left_out: list[dict[str, str]], console: Console) -> None:
    if not left_out:
        return
    console.print(f"{len(left_out)} left out:", style="yellow")
    for left in left_out[:_SHOWN_LEFT_OUT]:
        console.print(f"  {left['file']}: {left['reason']}", markup=False, highlight=False)
    if len(left_out) > _SHOWN_LEFT_OUT:
        console.print(f"  and {len(left_out) - _SHOWN_LEFT_OUT} more, all in manifest.json")


def _table(manifest: dict[str, Any]) -> Table:
    table = Table("", *SPLITS)
    for name in SPLITS:
        table.columns[1 + SPLITS.index(name)].justify = "right"
    splits = [manifest["splits"][split] for split in SPLITS]
    for kind, prefix in (("planes", ""), ("brain_planes", "  brain: ")):
        for name in sorted({name for split in splits for name in split[kind]}):
            table.add_row(prefix + name, *(str(split[kind].get(name, 0)) for split in splits))
    table.add_section()
    for kind, title in (
        ("gestational_ages", "with gestational age"),
        ("captions", "with a caption of their own"),
        ("images", "images"),
        ("patients", "patients"),
    ):
        table.add_row(title, *(str(split[kind]) for split in splits))
    return table


def main() -> None:
    """Run the command."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(help=_HELP)(prepare)
    app()


if __name__ == "__main__":
    main()
