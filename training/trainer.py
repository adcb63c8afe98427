"""The loop of a training run: steps, weight averaging, checkpoints, several processes."""

from __future__ import annotations

import contextlib
import math
import pickle
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

import training.torchvision_ops  # noqa: F401  (before open_clip)
from training.averaging import WeightAverage
from training.config import ExperimentConfig
from training.datasets import Example
from training.facts import relations
from training.lanes import Lanes
from training.learner import (
    Batch,
    Images,
    Learner,
    Look,
    batch_norms,
    make_batch,
    still_statistics,
)
from training.losses import recognition_loss
from training.models import ImageTextModel
from training.objectives import Known, Objective, Pairs
from training.recognition import ClassSentences
from training.streaming import ShardStream, StreamedLanes

from open_clip.loss import gather_features  # isort: skip

__all__ = ["Trainer"]

_LARGEST_GRADIENT = 1.0  # longer ones are cut to this length


class Trainer:
    """A model in training: what must be kept to go on after an interruption.

    Args:
        config: the experiment.
        model: what learns; parameters that need no gradient stay as they are.
        examples: images to learn from, the same list in every process.
        objective: what is minimised.
        accelerator: of this process.
        experiment: what its checkpoints belong to.
        look: draws the views, or looks up what the model's frozen stages made of them.
        sentences: of the classes, to recognise by; None where `config.recognition` is 0.

    Attributes:
        average: what is validated and kept in the end.
        plan: which image is learned from when.
        step: steps done.
        steps: of the whole run.

    Raises:
        ValueError: batch size, lanes and number of processes do not fit each other or the images.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        model: ImageTextModel,
        examples: Sequence[Example],
        objective: Objective,
        accelerator: Accelerator,
        experiment: str,
        look: Look,
        sentences: ClassSentences | None,
    ) -> None:
        self.config, self.objective, self.accelerator = config, objective, accelerator
        self.look, self.sentences = look, sentences
        offsets = [] if sentences is None else sentences.offsets
        self._offsets = torch.tensor(offsets, device=accelerator.device)
        self.plan = _plan(config, examples)
        self.lanes = self.plan.of_process(accelerator.process_index, accelerator.num_processes)
        if len(self.lanes) % config.accumulate:
            raise ValueError(
                f"accumulate ({config.accumulate}) must divide the {len(self.lanes)} lanes of a "
                "process"
            )
        self.images = self._images(examples)
        model.to(accelerator.device)
        _slow_statistics(model, len(self.lanes))
        learner = Learner(model, self.plan.lane_size)
        self.average = WeightAverage(model, config.average_decay)
        optimizer = torch.optim.AdamW(_groups(model, config), lr=config.learning_rate, fused=True)
        self.learner, self.optimizer = accelerator.prepare(learner, optimizer)
        self.model = model
        self.step, self.steps = 0, config.epochs * self.plan.steps_per_epoch
        self._losses: dict[str, float] = {}  # sums of this epoch
        self._experiment = experiment

    def _images(self, examples: Sequence[Example]) -> Images | ShardStream:
        """Those of the process's lanes: in memory, or read as they are needed."""
        if isinstance(self.plan, StreamedLanes):
            return ShardStream(examples, self.plan, self.lanes, self.config.canvas)
        indices = [index for lane in self.lanes for index in self.plan.members[lane]]
        quiet = not self.accelerator.is_main_process
        return Images.load(examples, indices, self.config.canvas, quiet=quiet)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.step // self.plan.steps_per_epoch

    def run_epoch(self, after_step: Callable[[dict[str, float]], None]) -> dict[str, float]:
        """Train to the end of the epoch; the mean of every loss over its steps.

        Args:
            after_step: called after every step but the last with its losses, learning rate and
                logit scale.
        """
        self.learner.train()
        end = (self.epoch + 1) * self.plan.steps_per_epoch
        with ThreadPoolExecutor(1, "next-batch") as ahead:
            coming = ahead.submit(self._make_batch, self.step)
            while self.step < end:
                batch = coming.result()
                if self.step + 1 < end:
                    coming = ahead.submit(self._make_batch, self.step + 1)
                losses = self._one_step(batch)
                for name, value in losses.items():
                    self._losses[name] = self._losses.get(name, 0.0) + value
                if self.step < end:
                    scale = float(self.model.scale.detach())
                    after_step({**losses, "learning_rate": self._rate(), "logit_scale": scale})
        means = {name: sum_ / self.plan.steps_per_epoch for name, sum_ in self._losses.items()}
        self._losses.clear()
        return means

    def _make_batch(self, step: int) -> Batch:
        size = self.config.image_size_at(step // self.plan.steps_per_epoch)
        images = self.images.of_step(step)
        return make_batch(images, self.plan, self.lanes, step, size, self.look)

    def _one_step(self, batch: Batch) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.optimizer.zero_grad()
        losses = self._backward(batch, self.step / max(1, self.steps - 1))
        if not math.isfinite(sum(losses.values())):
            raise FloatingPointError(
                f"the loss is not a number at step {self.step + 1}: {losses}; lower learning_rate, "
                "or take another precision, and choose another --out"
            )
        self.accelerator.clip_grad_norm_(self.learner.parameters(), _LARGEST_GRADIENT)
        self.optimizer.step()
        self._share_statistics()
        self.step += 1
        self.average.update(self.model)
        return losses

    def _rate(self) -> float:
        """Learning rate: linear warm-up, then half a cosine down to a hundredth."""
        config, warmup = self.config, self.config.warmup_steps
        if self.step < warmup:
            return config.learning_rate * (self.step + 1) / warmup
        done = (self.step - warmup) / max(1, self.steps - warmup)
        return config.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)

    def _share_statistics(self) -> None:
        """Every process has seen other lanes: average what batch normalisation remembers."""
        if self.accelerator.num_processes == 1:
            return
        kept = [
            statistic
            for layer in batch_norms(self.model)
            if layer.training  # those of frozen stages are still, and the same everywhere
            for statistic in (layer.running_mean, layer.running_var)
            if statistic is not None
        ]
        if not kept:
            return
        shared = self.accelerator.reduce(torch.cat([s.flatten() for s in kept]), "mean")
        for statistic, mean in zip(kept, shared.split([s.numel() for s in kept]), strict=True):
            statistic.copy_(mean.view_as(statistic))

    def _backward(self, batch: Batch, done: float) -> dict[str, float]:
        """Gradients of the loss over the whole batch, that of other processes included.

        With `accumulate` the embeddings are first computed without gradients; then one part after
        another is embedded again and the loss taken with the others' embeddings, which adds up to
        the gradient of the whole (as in open_clip's `accum_freq`).
        """
        size = len(self.lanes) // self.config.accumulate * self.plan.lane_size
        parts = batch.split(size)
        kept = self._embed_ahead(parts) if len(parts) > 1 else []
        everyone = self._gather(batch)
        classes = [] if self.sentences is None else self.sentences.draw(self.step)
        for position, (views, texts) in enumerate(parts):
            last = position == len(parts) - 1
            with self._without_sync(not last):
                images, captions, scale = self._embed(views, [*texts, *classes])
                captions, of_classes = captions.split([len(texts), len(classes)])
                around = [*kept[:position], (images, captions), *kept[position + 1 :]]
                own = [torch.cat([pair[k] for pair in around]) for k in range(2)]
                # Every part's loss has the whole of their gradient: one of them is enough.
                if not last:
                    scale, of_classes = scale.detach(), of_classes.detach()
                pairs = self._pairs(own[0], own[1], scale, everyone.counted)
                losses = self.objective(pairs, everyone, done)
                if self.sentences is not None and everyone.classes is not None:
                    losses["recognition"] = self.config.recognition * recognition_loss(
                        pairs.images,
                        of_classes,
                        scale,
                        everyone.classes,
                        self.sentences.tasks,
                        self._offsets,
                    )
                self.accelerator.backward(sum(losses.values(), start=torch.zeros(())))
        return {name: float(value.detach()) for name, value in losses.items()}

    def _embed(self, views: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        with self.accelerator.autocast():
            images, captions, scale = self.learner(views.to(self.accelerator.device), texts)
        return images.float(), captions.float(), scale

    def _embed_ahead(self, parts: list[tuple[Tensor, list[str]]]) -> list[tuple[Tensor, Tensor]]:
        with torch.no_grad(), still_statistics(self.model):
            return [self._embed(views, texts)[:2] for views, texts in parts]

    def _without_sync(self, wanted: bool) -> contextlib.AbstractContextManager[Any]:
        return self.accelerator.no_sync(self.learner) if wanted else contextlib.nullcontext()

    def _pairs(
        self, images: Tensor, captions: Tensor, scale: Tensor, counted: Tensor | None
    ) -> Pairs:
        if self.accelerator.num_processes > 1:
            with warnings.catch_warnings():
                # open_clip 3 calls what torch 2.13 has begun to deprecate.
                warnings.simplefilter("ignore", FutureWarning)
                images, captions = gather_features(
                    images,
                    captions,
                    gather_with_grad=True,
                    rank=self.accelerator.process_index,
                    world_size=self.accelerator.num_processes,
                )
        if counted is not None:
            images, captions = images[counted], captions[counted]
        return Pairs(images, captions, scale)

    def _gather(self, batch: Batch) -> Known:
        """What is known of the images and captions of all processes."""
        teacher = self.objective.teach(batch)
        facts, claims, learned = batch.facts, batch.claims, batch.counted
        if self.accelerator.num_processes > 1:
            facts, claims, learned = map(gather_object, (facts, claims, learned))
        device = self.accelerator.device
        if teacher is not None:
            teacher = self.accelerator.gather(teacher.to(device))
        classes = counted = None
        if not all(learned):
            rows = [row for row, each in enumerate(learned) if each]
            counted = torch.tensor(rows, device=device)
            facts, claims = [facts[row] for row in rows], [claims[row] for row in rows]
            teacher = None if teacher is None else teacher[counted]
        if self.sentences is not None:
            classes = torch.from_numpy(relations(facts, self.sentences.claims)).to(device)
        related = torch.from_numpy(relations(facts, claims)).to(device)
        return Known(related, teacher, classes, counted)

    def save(self, path: Path) -> None:
        """Write a checkpoint, from the first process; an interruption leaves the old one whole."""
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        state = {
            "experiment": self._experiment,
            "step": self.step,
            "losses": dict(self._losses),
            "model": self._learned(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "rng": torch.get_rng_state(),
        }
        temporary = path.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(path)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint of the same experiment.

        Raises:
            ValueError: the checkpoint is of another experiment, or is damaged.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
            raise ValueError(f"{path} is damaged; delete it to start anew") from error
        if state.get("experiment") != self._experiment:
            raise ValueError(
                f"{path} was written with another configuration or other images; choose another "
                "--out. Going on would mix patients to learn from with those held out"
            )
        self.step, self._losses = state["step"], state["losses"]
        self.model.load_state_dict({**self.model.state_dict(), **state["model"]})
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])

    def _learned(self) -> dict[str, Tensor]:
        frozen = {name for name, p in self.model.named_parameters() if not p.requires_grad}
        return {k: v for k, v in self.model.state_dict().items() if k not in frozen}


def _plan(config: ExperimentConfig, examples: Sequence[Example]) -> Lanes:
    if config.data.streaming:
        return StreamedLanes(
            examples,
            lanes=config.lanes,
            batch_size=config.batch_size,
            views=config.views,
            seed=config.seed,
            shuffle=config.data.shuffle,
        )
    return Lanes(
        examples,
        lanes=config.lanes,
        batch_size=config.batch_size,
        views=config.views,
        seed=config.seed,
        sub_plane_draws=config.sub_plane_draws,
    )


def _slow_statistics(model: nn.Module, lanes: int) -> None:
    """Batch normalisation remembers as much of a step, in however many lanes it comes."""
    for layer in batch_norms(model):
        if layer.momentum is not None:
            layer.momentum /= lanes


def _groups(model: ImageTextModel, config: ExperimentConfig) -> list[dict[str, Any]]:
    """Weight decay pulls on matrices alone; biases, norms and the temperature are left free."""
    learned = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in learned if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
    ]
