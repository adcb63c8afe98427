"""A training run from beginning to end, for `training.pretrain` and `training.distill` alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import gather_object
from rich.console import Console
from rich.progress import Progress

from training.config import ExperimentConfig, load_config
from training.datasets import Example, holdout_by_group
from training.folds import fold_by_group
from training.frozen import KeptMaps, frozen_sha256
from training.learner import Drawn, Look
from training.models import ImageTextModel, ImageTower, PublishedModel
from training.objectives import Objective
from training.progress import image_progress
from training.prompts import PromptSet, parse_prompt_files
from training.recognition import ClassSentences
from training.release import PROMPTS, Origin, save_release
from training.run_folder import RunFolder, fingerprint
from training.shards import read_examples, read_manifest
from training.trainer import Trainer
from training.validation import Validation
from training.view_set import ViewSet

__all__ = ["Run", "Session", "prepare", "train_and_validation"]


@dataclass(frozen=True, slots=True)
class Session:
    """What a run is about, before any image is read.

    Attributes:
        config: the experiment.
        learn: images to learn from.
        held: images of other patients, to validate on.
        prompts: what planes and sub-planes are recognised by.
        data: the shards.
        data_sha256: what identifies them.
        out: folder of the run.
        cache: folder of what teachers and frozen stages saw.
        accelerator: this process's part of it.
        console: where the first process reports.
    """

    config: ExperimentConfig
    learn: list[Example]
    held: list[Example]
    prompts: Mapping[str, PromptSet]
    data: Path
    data_sha256: str
    out: Path
    cache: Path
    accelerator: Accelerator
    console: Console

    @property
    def held_out(self) -> frozenset[str]:
        """The patients who are validated on."""
        return frozenset(example.group for example in self.held)

    @property
    def views(self) -> ViewSet:
        """What there is to learn from."""
        config = self.config
        return ViewSet(
            self.learn, config.canvas, config.views, config.augmentation_seed, self.data_sha256
        )

    def say(self, text: str) -> None:
        """Report, once for all processes."""
        if self.accelerator.is_main_process:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def start(self, model: ImageTextModel, objective: Objective) -> Run | None:
        """Read the images and go to the last checkpoint, if there is one.

        Returns:
            The run, ready to train; None when it is finished already.

        Raises:
            ValueError: the folder is another run's or not the same for all processes, the
                checkpoint is damaged, or batch, lanes and processes do not fit each other.
        """
        folder = RunFolder(self.out, self._fingerprint(objective, model))
        self._check_all_see(folder.finished)
        if folder.finished:
            self.say(f"{self.out} is finished already")
            return None
        self.say(f"{len(self.learn)} images to learn from, {len(self.held)} of other patients")
        self._tell_cut_captions(model)
        trainer = Trainer(
            self.config,
            model,
            self.learn,
            objective,
            self.accelerator,
            folder.experiment,
            self._look(model),
            self._sentences() if self.config.recognition else None,
        )
        self._resume(trainer, folder)
        held = self.held if self.accelerator.is_main_process else []
        validation = Validation(held, model.preprocess.size, self.prompts)
        return Run(self, trainer, validation, folder)

    def _sentences(self) -> ClassSentences:
        known = [example.facts for example in self.learn]
        config = self.config
        return ClassSentences(self.prompts, config.seed, known, config.sub_plane_balance)

    def _look(self, model: ImageTextModel) -> Look:
        """How views are looked at: through what stages that are frozen made of them, if any are.

        Raises:
            ValueError: the disk has no room for what they make.
        """
        config, tower = self.config, model.image
        if not config.frozen_stages:
            return Drawn(config.augmentation_seed)
        assert isinstance(tower, ImageTower)
        kept = KeptMaps(self.cache, tower, self.views)
        kept.prepare([stage.image_size for stage in config.stages])
        return kept

    def _fingerprint(self, objective: Objective, model: ImageTextModel) -> str:
        prompts = [p.sha256 for p in self.prompts.values()]
        identity = objective.identity
        if self.config.frozen_stages:  # a checkpoint holds only what learns
            assert isinstance(model.image, ImageTower)
            identity += f", stages {frozen_sha256(model.image)}"
        return fingerprint(self.config, self.learn, self.data_sha256, identity, prompts)

    def _tell_cut_captions(self, model: ImageTextModel) -> None:
        if not self.accelerator.is_main_process:
            return
        captions = [e.facts.caption for e in self.learn if e.facts.caption is not None]
        text: Any = model.text
        if cut := text.too_long(captions):
            self.say(
                f"warning: {cut} of {len(captions)} captions are longer than the text tower's "
                "context; their ends are not learned"
            )

    def _resume(self, trainer: Trainer, folder: RunFolder) -> None:
        if folder.checkpoint.exists():
            trainer.resume(folder.checkpoint)
            self.say(f"going on after epoch {trainer.epoch}")
            if self.accelerator.is_main_process:
                folder.forget_after(trainer.epoch)
        elif self.accelerator.is_main_process:
            folder.start()
        self.accelerator.wait_for_everyone()
        self._check_all_see(trainer.step)

    def _check_all_see(self, found: int) -> None:
        """What this process found in the run's folder must be what all processes found there."""
        if len(set(gather_object([found]))) > 1:
            raise ValueError(f"--out {self.out} must be one folder that all machines see")


@dataclass(frozen=True, slots=True)
class Run:
    """A run under way.

    Attributes:
        session: what it is about.
        trainer: what learns.
        validation: what the average of the weights is measured on.
        folder: where it is kept.
    """

    session: Session
    trainer: Trainer
    validation: Validation
    folder: RunFolder

    def to_end(self, origin: Origin) -> None:
        """Train, with a checkpoint and a line of the log after every epoch; write the release.

        Raises:
            FloatingPointError: the loss is not a number any more; the last checkpoint is kept.
            OSError: a file cannot be written.
        """
        session, trainer, accelerator = self.session, self.trainer, self.session.accelerator
        accelerator.init_trackers("tensorboard")
        metrics = {} if trainer.step < trainer.steps else self._measure()
        with image_progress(session.console, disable=not accelerator.is_main_process) as progress:
            while trainer.step < trainer.steps:
                losses = self._epoch(progress)
                metrics = self._measure()
                self._log(losses, metrics)
                trainer.save(self.folder.checkpoint)
                accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            model, held_out = trainer.average.model, session.held_out
            save_release(session.out, model, metrics, held_out, origin, session.prompts)
        accelerator.end_training()
        session.say(f"wrote {session.out}; next: {self._what_next()}")

    def _what_next(self) -> str:
        run, data = self.session.out, self.session.data
        if isinstance(self.trainer.model, PublishedModel):  # too large for a bundle
            return f"python -m training.distill CONFIG --teacher {run} --data {data} --out STUDENT"
        return f"python -m export.bundle {run} --out BUNDLE --data {data}"

    def _epoch(self, progress: Progress) -> dict[str, float]:
        trainer, config = self.trainer, self.session.config
        left = trainer.plan.steps_per_epoch - trainer.step % trainer.plan.steps_per_epoch
        title = f"epoch {trainer.epoch + 1}/{config.epochs}"
        task = progress.add_task(title, total=left * config.batch_size)

        def after_step(state: dict[str, float]) -> None:
            progress.advance(task, config.batch_size)
            named = {f"step/{name}": value for name, value in state.items()}
            self.session.accelerator.log(named, trainer.step)
            if trainer.step % config.checkpoint_steps == 0:
                trainer.save(self.folder.checkpoint)

        losses = trainer.run_epoch(after_step)
        progress.remove_task(task)
        return losses

    def _measure(self) -> dict[str, float]:
        if not self.session.accelerator.is_main_process:
            return {}
        return self.validation.measure(self.trainer.average.model)

    def _log(self, losses: dict[str, float], metrics: dict[str, float]) -> None:
        if not self.session.accelerator.is_main_process:
            return
        row = {"loss": sum(losses.values()), **losses, **metrics}
        self.folder.log({"epoch": self.trainer.epoch, **row})
        self.session.accelerator.log(row, self.trainer.step)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in row.items())
        self.session.say(f"epoch {self.trainer.epoch}: {shown}")


def prepare(
    config_path: Path,
    out: Path,
    data: Path,
    cache: Path,
    prompt_files: Sequence[str],
    console: Console,
    *,
    distilling: bool,
    seed: int | None = None,
    holdout: float | None = None,
    fold: tuple[int, int] | None = None,
) -> Session:
    """Check all that a run needs, before any image is read.

    Args:
        config_path: YAML of the experiment.
        out: folder of the run.
        data: the shards.
        cache: folder of what teachers and frozen stages saw.
        prompt_files: prompts of the user's own, as TASK=FILE.json.
        console: where the first process reports.
        distilling: whether `training.distill` asks.
        seed: in place of the configuration's.
        holdout: likewise.
        fold: in place of the configuration's holdout, which of how many folds of the patients is
            held out, counted from 0.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the configuration, the shards or a file of prompts cannot be used; or the
            configuration is for the other of `training.pretrain` and `training.distill`.
    """
    config = load_config(config_path)
    if seed is not None:
        config = replace(config, seed=seed)
    if holdout is not None:
        config = replace(config, holdout=holdout)
    if distilling and config.distillation is None:
        raise ValueError(f"{config_path} has no section `distillation`: use training.pretrain")
    if not distilling and config.distillation is not None:
        raise ValueError(f"{config_path} has a section `distillation`: use training.distill")
    prompts = {**PROMPTS, **parse_prompt_files(prompt_files)}
    if fold is None:
        learn, held = train_and_validation(data, config)
    else:
        learn, held = fold_by_group(read_examples(data, "train"), *fold, config.holdout_seed)
    accelerator = start_accelerator(config, out)
    sha256 = str(read_manifest(data)["sha256"])
    return Session(config, learn, held, prompts, data, sha256, out, cache, accelerator, console)


def train_and_validation(
    shards: Path, config: ExperimentConfig
) -> tuple[list[Example], list[Example]]:
    """The training patients, parted into those to learn from and those to validate on."""
    return holdout_by_group(read_examples(shards, "train"), config.holdout, config.holdout_seed)


def start_accelerator(config: ExperimentConfig, out: Path) -> Accelerator:
    """One process's part of the run, as `accelerate launch` or torchrun started it."""
    return Accelerator(
        mixed_precision=config.precision,
        log_with="tensorboard",
        project_dir=out,
        cpu=not torch.accelerator.is_available(),  # else processes under torchrun stay strangers
        # The trainer averages the statistics of batch normalisation over the processes instead.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
