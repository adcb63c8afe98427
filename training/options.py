"""The options that `training.pretrain` and `training.distill` share, and how they fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

__all__ = ["Cache", "Config", "Holdout", "Out", "Prompts", "Seed", "Shards", "told"]

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML of the experiment")]
Out = Annotated[Path, typer.Option(help="folder of the run; an unfinished run goes on")]
Cache = Annotated[
    Path,
    typer.Option(help="folder of what teachers and frozen stages saw; may be deleted afterwards"),
]
Seed = Annotated[
    int | None,
    typer.Option(help="in place of CONFIG's, for runs that differ in it alone"),
]
Holdout = Annotated[
    float | None,
    typer.Option(
        help="in place of CONFIG's: a small share for a run whose settings were chosen before, by "
        "a twin that held more patients out"
    ),
]
Shards = Annotated[Path, typer.Option(help="shards, written by training.data")]
Prompts = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TASK=FILE.json",
        help="prompts of your own for planes or brain_planes: class -> list of sentences",
    ),
]


@contextmanager
def told(console: Console, code: int, *kinds: type[Exception]) -> Iterator[None]:
    """Errors of these kinds are told without a traceback, and end the command with `code`."""
    try:
        yield
    except kinds as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(code) from error
