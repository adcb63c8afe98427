"""A training run from beginning to end, for `training.pretrain` and `training.distill` alike."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import TaskID
from torch import Tensor

from fetalclip_edge.results import BRAIN_PLANES
from training.augment import resize_all
from training.config import ExperimentConfig
from training.datasets import Example, holdout_by_group, load_images
from training.models import DualEncoder
from training.progress import image_progress
from training.prompts import BRAIN_PLANE_PROMPTS, PLANE_PROMPTS
from training.shards import read_examples
from training.trainer import Trainer
from training.zero_shot import SCORED_PLANES, embed_images, embed_prompts, macro_f1

__all__ = [
    "Run",
    "Validation",
    "load_validation",
    "start_accelerator",
    "train_and_validation",
    "validate",
]

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, slots=True)
class Validation:
    """Examples of patients held out of training, with their images at the model's size.

    Attributes:
        examples: those with a label to validate by.
        images: uint8 `(N, 1, S, S)`.
    """

    examples: list[Example]
    images: Tensor


def train_and_validation(
    shards: Path, config: ExperimentConfig
) -> tuple[list[Example], list[Example]]:
    """The training patients, parted into those to learn from and those to validate on."""
    return holdout_by_group(read_examples(shards, "train"), config.holdout, config.holdout_seed)


def validate(model: DualEncoder, validation: Validation) -> dict[str, float]:
    """Zero-shot macro-F1 of planes and brain sub-planes on the held-out patients."""
    device = next(model.image.parameters()).device
    images = resize_all(validation.images, model.config.image_size).to(device)
    embeddings = embed_images(model.image, images)
    facts = [example.facts for example in validation.examples]
    truth = {
        "planes": ([f.plane or "" for f in facts], SCORED_PLANES),
        "brain_planes": ([f.brain_plane or "" for f in facts], BRAIN_PLANES),
    }
    metrics = {}
    for prompts in (PLANE_PROMPTS, BRAIN_PLANE_PROMPTS):
        known, scored = truth[prompts.name]
        if not set(known) & set(scored):
            continue  # captions alone say nothing of planes
        nearest = (embeddings @ embed_prompts(model, prompts).T).argmax(dim=1)
        answers = [prompts.labels[i] for i in nearest]
        metrics[f"{prompts.name}_f1"] = macro_f1(known, answers, scored)
    return metrics


def start_accelerator(config: ExperimentConfig, out: Path) -> Accelerator:
    """One process's part of the run, as `accelerate launch` or torchrun started it."""
    return Accelerator(
        mixed_precision=config.precision,
        log_with="tensorboard",
        project_dir=out,
        cpu=not torch.accelerator.is_available(),  # else processes under torchrun stay strangers
    )


class Run:
    """Trains, validates after every epoch, writes checkpoints and logs.

    Args:
        trainer: what trains.
        validation: what the average of the weights is measured on.
        out: folder of the run.
        console: where the first process reports.

    Raises:
        ValueError: the folder holds a finished run, or a checkpoint of another experiment.
    """

    def __init__(
        self, trainer: Trainer, validation: Validation, out: Path, console: Console
    ) -> None:
        self.trainer, self.validation, self.out, self.console = trainer, validation, out, console
        self._main = trainer.accelerator.is_main_process
        checkpoint = out / CHECKPOINT
        if (out / "model.json").exists() and not checkpoint.exists():
            raise ValueError(f"{out} holds a finished run; choose another --out")
        if checkpoint.exists():
            trainer.resume(checkpoint)
            self._say(f"going on after epoch {trainer.epoch}")
        elif self._main:
            out.mkdir(parents=True, exist_ok=True)

    def to_end(self, finish: Callable[[DualEncoder, dict[str, float]], None]) -> None:
        """Train to the end.

        Args:
            finish: called by the first process with the averaged model and its metrics.
        """
        trainer, accelerator = self.trainer, self.trainer.accelerator
        accelerator.init_trackers("tensorboard")
        metrics = self._validate()
        per_step, per_epoch = trainer.config.batch_size, trainer.plan.steps_per_epoch
        with image_progress(self.console, disable=not self._main) as progress:
            while trainer.step < trainer.steps:
                task = progress.add_task(
                    f"epoch {trainer.epoch + 1}/{trainer.config.epochs}",
                    total=(per_epoch - trainer.step % per_epoch) * per_step,
                )

                def after_step(task: TaskID = task) -> None:
                    progress.advance(task, per_step)
                    if trainer.step % trainer.config.checkpoint_steps == 0:
                        trainer.save(self.out / CHECKPOINT)

                losses = trainer.run_epoch(after_step)
                progress.remove_task(task)
                metrics = self._validate()
                trainer.save(self.out / CHECKPOINT)
                total = sum(losses.values())
                self._log({"epoch": trainer.epoch, "loss": total, **losses, **metrics})
                accelerator.wait_for_everyone()
        if self._main:
            finish(trainer.average.model, metrics)
        accelerator.end_training()

    def _validate(self) -> dict[str, float]:
        return validate(self.trainer.average.model, self.validation) if self._main else {}

    def _say(self, text: str) -> None:
        if self._main:
            self.console.print(text)

    def _log(self, row: dict[str, float]) -> None:
        if not self._main:
            return
        self.trainer.accelerator.log(row, step=int(row["epoch"]))
        path = self.out / "log.csv"
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in row.items() if name != "epoch")
        self._say(f"epoch {int(row['epoch'])}: {shown}")


def load_validation(examples: list[Example], size: int) -> Validation:
    """Read the images of the patients held out."""
    return Validation(examples, load_images(examples, size, "reading validation images"))
