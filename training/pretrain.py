"""Train a dual encoder on image-caption pairs: `python -m training.pretrain CONFIG --out RUN`.

Every epoch ends with a checkpoint, so a run that was cut off goes on where it stood when the
same command is given again. The run's folder then holds what `export.bundle` reads: `model.json`,
`image_tower.safetensors` and `prompts.safetensors`, besides the text tower, `log.csv` and
TensorBoard's events; or, of a published architecture, `weights.pt` in its authors' layout. Several
processes: `accelerate launch -m training.pretrain ...`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from training.objectives import Contrastive
from training.session import prepare, told_and_ended
from training.starting import check_start, first_model, origin_of

__all__ = ["main"]


def main(
    config_path: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML of the experiment")],
    out: Annotated[Path, typer.Option(help="folder of the run; an unfinished run goes on")],
    data: Annotated[Path, typer.Option(help="shards, written by training.data")],
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK=FILE.json",
            help="prompts of your own for planes or brain_planes: class -> list of sentences",
        ),
    ] = None,
) -> None:
    """Train image tower and text tower contrastively on image-caption pairs."""
    console = Console(stderr=True)
    try:
        session = prepare(config_path, out, data, prompts or (), console, distilling=False)
        model = first_model(session.config)
        check_start(session.config, session.held_out, session.data_sha256)
        origin = origin_of(session.config, model, session.data_sha256)
        run = session.start(model, Contrastive())
    except (OSError, ValueError) as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    if run is not None:
        with told_and_ended(console):
            run.to_end(origin)


if __name__ == "__main__":
    typer.run(main)
