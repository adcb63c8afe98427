"""Train a dual encoder on image-caption pairs: `python -m training.pretrain CONFIG --out RUN`.

Every epoch ends with a checkpoint, so a run that was cut off goes on where it stood when the
same command is given again. The run's folder then holds what `export.bundle` reads: `model.json`,
`image_tower.safetensors` and `prompts.safetensors`, besides the text tower and `log.csv`.
"""

from __future__ import annotations

import csv
import hashlib
import math
import random
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from training.augment import augment, resize_all
from training.averaging import WeightAverage
from training.captions import BRAIN_PLANE_PROMPTS, PLANE_PROMPTS, describe
from training.config import ExperimentConfig, load_config
from training.datasets import (
    Example,
    hc18_examples,
    holdout_by_group,
    load_images,
    planes_examples,
    stored_side,
)
from training.facts import Facts, relations
from training.losses import contrastive_loss
from training.models import DualEncoder
from training.progress import image_progress
from training.release import save_release
from training.zero_shot import SCORED_PLANES, brain_plane_f1, embed_images, embed_prompts, macro_f1

__all__ = ["Trainer", "main"]


@dataclass(frozen=True, slots=True)
class Split:
    """Examples with their images, uint8 `(N, 1, canvas, canvas)`."""

    examples: list[Example]
    images: Tensor


class Trainer:
    """A model in training: what must be kept to go on after an interruption.

    Args:
        config: the experiment.
        train: images to learn from; their `facts.pixel_size_mm` is that of the stored image.

    Attributes:
        model: what learns.
        average: what is validated and kept in the end.
        steps_per_epoch: optimiser steps in an epoch.
        epoch: epochs done.

    Raises:
        ValueError: there are fewer images than `config.batch_size`.
    """

    def __init__(self, config: ExperimentConfig, train: Split) -> None:
        if len(train.examples) < config.batch_size:
            raise ValueError(
                f"batch_size must be at most the {len(train.examples)} images to learn from, "
                f"not {config.batch_size}"
            )
        torch.manual_seed(config.seed)
        self.config, self.train = config, train
        self.model = DualEncoder(config.model)
        self.model.image.load_imagenet()
        self.model.image.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = WeightAverage(self.model, config.average_decay)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.steps_per_epoch = len(train.examples) // config.batch_size
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.rng = torch.Generator().manual_seed(config.seed)
        self.words = random.Random(config.seed)
        self.epoch = 0
        self._weights = _sampling_weights(train.examples)
        self._shrink = [stored_side(example) for example in train.examples]

    def _rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to a hundredth."""
        warmup, total = self.config.warmup_steps, self.config.epochs * self.steps_per_epoch
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, total - warmup)
        return 0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, done))) / 2

    def run_epoch(self, progress: Progress) -> float:
        """Train for one epoch; the mean loss."""
        size, batch_size = self.config.image_size_at(self.epoch), self.config.batch_size
        order = torch.multinomial(
            self._weights, self.steps_per_epoch * batch_size, replacement=True, generator=self.rng
        )
        task = progress.add_task(f"epoch {self.epoch + 1}/{self.config.epochs}", total=len(order))
        self.model.train()
        total = 0.0
        for indices in order.split(batch_size):
            total += self._step(indices, size)
            progress.advance(task, len(indices))
        progress.remove_task(task)
        self.epoch += 1
        return total / self.steps_per_epoch

    def _step(self, indices: Tensor, size: int) -> float:
        views, zoom = augment(self.train.images[indices], size, self.rng)
        shown = [
            self._facts_of_view(index, size, factor)
            for index, factor in zip(indices.tolist(), zoom.tolist(), strict=True)
        ]
        texts, claims = zip(*(describe(facts, self.words) for facts in shown), strict=True)
        truth = torch.from_numpy(relations(shown, claims))
        with torch.autocast("cpu", torch.bfloat16):
            images = self.model.image(views.to(memory_format=torch.channels_last))
            captions = self.model.text(texts)
        loss = contrastive_loss(images, captions, self.model.scale, truth)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.average.update(self.model)
        return float(loss.detach())

    def _facts_of_view(self, index: int, size: int, zoom: float) -> Facts:
        facts = self.train.examples[index].facts
        if facts.pixel_size_mm is None:
            return facts
        return replace(facts, pixel_size_mm=facts.pixel_size_mm * self._shrink[index] / size / zoom)

    def save(self, path: Path) -> None:
        """Write a checkpoint; an interruption leaves the old one whole."""
        words_version, words_state, words_gauss = self.words.getstate()
        state = {
            "experiment": _fingerprint(self.config, self.train.examples),
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "rng": self.rng.get_state(),
            "torch_rng": torch.get_rng_state(),
            "words": [words_version, list(words_state), words_gauss],
        }
        temporary = path.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(path)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint of the same experiment.

        Raises:
            ValueError: the checkpoint is of another experiment.
        """
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state.get("experiment") != _fingerprint(self.config, self.train.examples):
            raise ValueError(
                f"{path} was written with another configuration or other images; choose another "
                "--out. Going on would mix patients to learn from with those held out"
            )
        self.epoch = state["epoch"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.rng.set_state(state["rng"])
        torch.set_rng_state(state["torch_rng"])
        version, words_state, gauss = state["words"]
        self.words.setstate((version, tuple(words_state), gauss))


def _sampling_weights(examples: list[Example]) -> Tensor:
    """Rare kinds of image are drawn more often, by the inverse root of their number."""
    counts = Counter(example.facts.kind for example in examples)
    return torch.tensor([counts[example.facts.kind] ** -0.5 for example in examples])


def _fingerprint(config: ExperimentConfig, examples: list[Example]) -> str:
    """What a checkpoint belongs to: the configuration, and the images that were learned from."""
    listed = sorted((example.group, example.path.name) for example in examples)
    return hashlib.sha256(repr((config, listed)).encode()).hexdigest()


def validate(model: DualEncoder, validation: Split) -> dict[str, float]:
    """Zero-shot macro-F1 of planes and brain sub-planes on the held-out patients."""
    images = resize_all(validation.images, model.config.image_size)
    embeddings = embed_images(model.image, images)
    facts = [example.facts for example in validation.examples]
    answers = {
        prompts.name: [
            prompts.labels[i] for i in (embeddings @ embed_prompts(model, prompts).T).argmax(dim=1)
        ]
        for prompts in (PLANE_PROMPTS, BRAIN_PLANE_PROMPTS)
    }
    return {
        "planes_f1": macro_f1([f.plane for f in facts], answers["planes"], SCORED_PLANES),
        "brain_planes_f1": brain_plane_f1([f.brain_plane for f in facts], answers["brain_planes"]),
    }


def load_split(examples: list[Example], canvas: int, title: str) -> Split:
    """Read the images of some examples into memory."""
    return Split(examples, load_images(examples, canvas, title))


def train_and_validation(
    root: Path, config: ExperimentConfig
) -> tuple[list[Example], list[Example]]:
    """The training patients, parted into those to learn from and those to validate on."""
    examples = planes_examples(root, "train") + hc18_examples(root, "train")
    return holdout_by_group(examples, config.holdout, config.seed)


def main(
    config_path: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML of the experiment")],
    out: Annotated[Path, typer.Option(help="folder of the run; an unfinished run goes on")],
    data: Annotated[Path, typer.Option(help="folder with planes/ and hc18/")] = Path(
        "../shared/data"
    ),
) -> None:
    """Train a dual encoder contrastively on image-caption pairs made from the labels."""
    console = Console(stderr=True)
    checkpoint = out / "checkpoint.pt"
    try:
        config = load_config(config_path)
        learn, held = train_and_validation(data, config)
        counts = f"{len(learn)} images to learn from, {len(held)} of other patients to validate"
        console.print(counts)
        trainer = Trainer(config, load_split(learn, config.canvas, "reading images"))
        validation = load_split(held, config.model.image_size, "reading validation images")
        out.mkdir(parents=True, exist_ok=True)
        if (out / "model.json").exists() and not checkpoint.exists():
            raise ValueError(f"{out} holds a finished run; choose another --out")
        if checkpoint.exists():
            trainer.resume(checkpoint)
            console.print(f"going on after epoch {trainer.epoch}")
    except (OSError, ValueError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(2) from error
    metrics: dict[str, float] = validate(trainer.average.model, validation)
    with image_progress(console) as progress:
        while trainer.epoch < config.epochs:
            loss = trainer.run_epoch(progress)
            metrics = validate(trainer.average.model, validation)
            trainer.save(checkpoint)
            _log(out / "log.csv", {"epoch": trainer.epoch, "loss": loss, **metrics})
            shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            console.print(f"epoch {trainer.epoch}: loss {loss:.4f}, validation {shown}")
    save_release(out, trainer.average.model, metrics, {example.group for example in held})
    console.print(f"wrote {out}; next: python -m export.bundle {out} --out BUNDLE")


def _log(path: Path, row: dict[str, float]) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    typer.run(main)
