"""Train a dual encoder on image-caption pairs: `python -m training.pretrain CONFIG --out RUN`.

Every epoch ends with a checkpoint, so a run that was cut off goes on where it stood when the
same command is given again. The run's folder then holds what `export.bundle` reads: `model.json`,
`image_tower.safetensors` and `prompts.safetensors`, besides the text tower, `log.csv` and
TensorBoard's events; or, of a published architecture, `weights.pt` in its authors' layout. Several
processes: `accelerate launch -m training.pretrain ...`.
"""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from training.objectives import Contrastive
from training.options import Cache, Config, Holdout, Out, Prompts, Seed, Shards, told
from training.session import prepare
from training.starting import check_start, first_model, origin_of

__all__ = ["main"]


def main(
    config_path: Config,
    out: Out,
    data: Shards,
    prompts: Prompts = None,
    cache: Cache = Path("runs/cache"),
    seed: Seed = None,
    holdout: Holdout = None,
) -> None:
    """Train image tower and text tower contrastively on image-caption pairs."""
    console = Console(stderr=True)
    with told(console, 2, OSError, ValueError):
        session = prepare(
            config_path,
            out,
            data,
            cache,
            prompts or (),
            console,
            distilling=False,
            seed=seed,
            holdout=holdout,
        )
        model = first_model(session.config)
        check_start(session.config, session.held_out, session.data_sha256)
        origin = origin_of(session.config, model, session.data_sha256)
        run = session.start(model, Contrastive())
    if run is not None:
        with told(console, 1, OSError, FloatingPointError):
            run.to_end(origin)


if __name__ == "__main__":
    typer.run(main)
