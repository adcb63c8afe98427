"""Train a dual encoder on image-caption pairs: `python -m training.pretrain CONFIG --out RUN`.

Every epoch ends with a checkpoint, so a run that was cut off goes on where it stood when the
same command is given again. The run's folder then holds what `export.bundle` reads: `model.json`,
`image_tower.safetensors` and `prompts.safetensors`, besides the text tower, `log.csv` and
TensorBoard's events. Several processes: `accelerate launch -m training.pretrain ...`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from training.config import load_config
from training.models import DualEncoder
from training.objectives import Contrastive
from training.release import Origin, save_release
from training.session import Run, load_validation, start_accelerator, train_and_validation
from training.trainer import Trainer

__all__ = ["main"]


def main(
    config_path: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML of the experiment")],
    out: Annotated[Path, typer.Option(help="folder of the run; an unfinished run goes on")],
    data: Annotated[Path, typer.Option(help="shards, written by training.data")],
) -> None:
    """Train image tower and text tower contrastively on image-caption pairs."""
    console = Console(stderr=True)
    try:
        config = load_config(config_path)
        if config.distillation is not None:
            raise ValueError(f"{config_path} has a section `distillation`: use training.distill")
        accelerator = start_accelerator(config, out)
        learn, held = train_and_validation(data, config)
        torch.manual_seed(config.seed)  # the same first weights in every process
        model = DualEncoder(config.model)
        model.image.load_imagenet()
        trainer = Trainer(config, model, learn, Contrastive(), accelerator)
        run = Run(trainer, load_validation(held, config.model.image_size), out, console)
    except (OSError, ValueError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(2) from error
    if accelerator.is_main_process:
        console.print(f"{len(learn)} images to learn from, {len(held)} of other patients")
    groups = {example.group for example in held}
    run.to_end(lambda model, metrics: save_release(out, model, metrics, groups, Origin("pretrain")))
    if accelerator.is_main_process:
        console.print(
            f"wrote {out}; next: python -m export.bundle {out} --out BUNDLE --data {data}"
        )


if __name__ == "__main__":
    typer.run(main)
