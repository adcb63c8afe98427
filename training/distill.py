"""Distil a teacher into a student: `python -m training.distill CONFIG --teacher TEACHER --out RUN`.

The student is an image tower of its own that learns to embed into the teacher's space: the
teacher's text tower, which never goes to the device, embeds captions and prompts for both. What
the teacher saw in every view is kept under `--cache`, so that it runs once for every seed of the
views, however many students it teaches. Checkpoints, logs and several processes are as in
`training.pretrain`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from training.config import ExperimentConfig, load_config
from training.models import PUBLISHED, DualEncoder, ModelConfig
from training.objectives import Distilling
from training.release import Origin, save_release
from training.session import Run, load_validation, start_accelerator, train_and_validation
from training.teacher import FrozenText, Teacher, TeacherCache, load_teacher
from training.trainer import Trainer

__all__ = ["main"]


def make_student(config: ExperimentConfig, teacher: Teacher) -> DualEncoder:
    """A student that starts from ImageNet and speaks the teacher's language.

    The length of its embedding and the shape of its text tower are the teacher's, whatever the
    configuration says.
    """
    torch.manual_seed(config.seed)  # the same first weights in every process
    own = config.model.to_dict()
    shape = ModelConfig(**{**own, **teacher.text_shape, "embed_dim": teacher.embed_dim})
    student = DualEncoder(shape, text=FrozenText(teacher.text))
    student.image.load_imagenet()
    return student


def main(
    config_path: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML of the experiment")],
    teacher_path: Annotated[
        Path,
        typer.Option(
            "--teacher",
            help="folder written by training.pretrain, or FetalCLIP's published weights (.pt)",
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder of the run; an unfinished run goes on")],
    data: Annotated[Path, typer.Option(help="shards, written by training.data")],
    cache: Annotated[
        Path, typer.Option(help="folder of what teachers saw; may be deleted afterwards")
    ] = Path("runs/teacher_cache"),
    architecture: Annotated[
        str, typer.Option(help=f"of a .pt file: {' or '.join(PUBLISHED)}")
    ] = "fetalclip",
) -> None:
    """Distil a teacher into a student for the device."""
    console = Console(stderr=True)
    try:
        config = load_config(config_path)
        if config.distillation is None:
            raise ValueError(f"{config_path} has no section `distillation`: use training.pretrain")
        learn, held = train_and_validation(data, config)
        teacher = load_teacher(teacher_path, architecture)
        accelerator = start_accelerator(config, out)
        teacher.image.to(accelerator.device)
        seen = TeacherCache(
            cache,
            teacher,
            learn,
            canvas=config.canvas,
            views=config.views,
            seed=config.augmentation_seed,
        )
        objective = Distilling(config.distillation, seen, teacher.scale)
        trainer = Trainer(config, make_student(config, teacher), learn, objective, accelerator)
        run = Run(trainer, load_validation(held, config.model.image_size), out, console)
    except (OSError, ValueError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(2) from error
    if accelerator.is_main_process:
        console.print(f"{len(learn)} images to learn from, {len(held)} of other patients")
    groups = {example.group for example in held}
    origin = Origin("distill", teacher.license, teacher.name, teacher.credit)
    run.to_end(lambda model, metrics: save_release(out, model, metrics, groups, origin))
    if accelerator.is_main_process:
        console.print(
            f"wrote {out}; next: python -m export.bundle {out} --out BUNDLE --data {data}"
        )


if __name__ == "__main__":
    typer.run(main)
