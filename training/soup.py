"""Average the weights of runs: `python -m training.soup RUN RUN ... --data SHARDS --out RUN`.

Runs that began with the same weights and learned towards the same prompts lie near one another, and
the mean of their weights is often better than each, at the cost of one. The greedy soup of
Wortsman et al. 2022 (arXiv 2203.05482): the best run on the patients held out comes first, and each
next one stays in if those patients are then recognised better. With `--all` every run stays in, as
where a soup was chosen by runs that held more patients out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from torch import Tensor

from training.datasets import Example, load_images
from training.evaluation.tasks import RECOGNISED, label_of
from training.models import ImageTower
from training.options import Shards, told
from training.release import (
    Origin,
    Release,
    binding_license,
    joint_credit,
    load_release,
    write_release,
)
from training.shards import read_examples, read_manifest
from training.zero_shot import embed_images, macro_f1, recognition_log_loss

__all__ = ["Step", "greedy_soup", "main"]

_SAME_PROMPTS = 1e-3
"""Embeddings of the same prompts by the same teacher differ by less, in half precision too."""


@dataclass(frozen=True, slots=True)
class Step:
    """One run tried.

    Attributes:
        run: its folder.
        log_loss: of the average with it in it, over planes and sub-planes together, in nats.
        kept: whether it stayed in.
    """

    run: Path
    log_loss: float
    kept: bool


class _HeldOut:
    """The patients held out, ready to be recognised by one average after another."""

    def __init__(self, examples: Sequence[Example], first: Release) -> None:
        self._truth = {task: [label_of(e, task) for e in examples] for task in RECOGNISED}
        self._images = load_images(examples, first.config.image_size, "reading validation images")

    def logits(self, release: Release) -> dict[str, np.ndarray]:
        embeddings = embed_images(release.tower, self._images).numpy()
        return {
            task: release.scale * embeddings @ release.embeddings[task].T for task in RECOGNISED
        }

    def log_loss(self, release: Release) -> float:
        return sum(
            recognition_log_loss(logits, self._truth[task], _labels(release, task))
            for task, logits in self.logits(release).items()
        )

    def macro_f1(self, release: Release) -> dict[str, float]:
        found = {}
        for task, logits in self.logits(release).items():
            labels = _labels(release, task)
            answers = [labels[best] for best in logits.argmax(axis=1)]
            truth = [label or "" for label in self._truth[task]]
            found[f"{task}_f1"] = macro_f1(truth, answers, RECOGNISED[task])
        return found


def greedy_soup(
    runs: Sequence[Path], data: Path, *, keep_all: bool = False
) -> tuple[Release, list[Step]]:
    """Average those runs that make the average better.

    Args:
        runs: folders of the runs.
        data: the shards that they were trained on.
        keep_all: average all of them.

    Returns:
        The average, with its macro-F1 and log loss on the patients held out, and what was tried,
        in order.

    Raises:
        FileNotFoundError: a run or the shards are not there.
        ValueError: there are fewer than two runs, or they do not belong together.
    """
    if len({run.resolve() for run in runs}) < max(2, len(runs)):
        raise ValueError("give two different runs at least, none of them twice")
    releases = [load_release(run) for run in runs]
    sha256 = read_manifest(data)["sha256"]
    for run, release in zip(runs, releases, strict=True):
        _check(run, release, releases[0], sha256)
    held = [
        example
        for example in read_examples(data, "train")
        if example.group in releases[0].held_out and example.head_circumference_mm is None
    ]
    judge = _HeldOut(held, releases[0])
    alone = sorted(
        ((judge.log_loss(release), index) for index, release in enumerate(releases)),
    )
    least, first = alone[0]
    kept = [first]
    steps = [Step(runs[first], least, kept=True)]
    for _, index in alone[1:]:
        loss = judge.log_loss(_average([releases[i] for i in [*kept, index]]))
        keep = keep_all or loss < least
        steps.append(Step(runs[index], loss, kept=keep))
        if keep:
            least = loss
            kept.append(index)
    soup = _average([releases[i] for i in kept])
    return replace(soup, validation={**judge.macro_f1(soup), "log_loss": least}), steps


def _labels(release: Release, task: str) -> list[str]:
    labels = release.prompts[task]["labels"]
    assert isinstance(labels, list)
    return labels


def _check(run: Path, release: Release, first: Release, sha256: str) -> None:
    if release.origin.data_sha256 != sha256:
        raise ValueError(f"{run} was not trained on these shards")
    if release.config != first.config:
        raise ValueError(f"{run} has another architecture than the first run")
    if release.held_out != first.held_out:
        raise ValueError(f"{run} held out other patients than the first run")
    for task, embeddings in release.embeddings.items():
        if np.abs(embeddings - first.embeddings[task]).max() > _SAME_PROMPTS:
            raise ValueError(
                f"{run} embeds the prompts of {task} elsewhere than the first run: only students "
                "of the same teachers can be averaged"
            )


def _average(releases: Sequence[Release]) -> Release:
    states = [release.tower.state_dict() for release in releases]
    tower = ImageTower(releases[0].config)
    tower.load_state_dict({name: _mean([s[name] for s in states]) for name in states[0]})
    origins = [release.origin for release in releases]
    methods = dict.fromkeys(origin.method for origin in origins)
    averaged = ", weights averaged" if len(releases) > 1 else ""
    return replace(
        releases[0],
        tower=tower.eval().requires_grad_(False),
        text=None,
        scale=float(np.mean([release.scale for release in releases])),
        origin=Origin(
            " and ".join(methods) + averaged,
            binding_license([origin.license for origin in origins]),
            origins[0].teacher,
            joint_credit([origin.teacher_credit for origin in origins]),
            origins[0].data_sha256,
        ),
    )


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    if not tensors[0].is_floating_point():
        return tensors[0]  # a count of batches
    return torch.stack(list(tensors)).mean(dim=0)


def main(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="folders of the runs")],
    data: Shards,
    out: Annotated[Path, typer.Option(help="folder to write, empty or not there yet")],
    keep_all: Annotated[
        bool,
        typer.Option("--all", help="average all of them, whether or not those held out say so"),
    ] = False,
) -> None:
    """Average the weights of runs that began alike, those that help on the patients held out."""
    console = Console(stderr=True)
    with told(console, 2, OSError, ValueError):
        if out.exists() and any(out.iterdir()):
            raise ValueError(f"{out} is not empty; choose another --out")
        soup, steps = greedy_soup(runs, data, keep_all=keep_all)
        out.mkdir(parents=True, exist_ok=True)
        write_release(out, soup)
    for step in steps:
        outcome = f"{step.run}: log loss {step.log_loss:.4f}, {'in' if step.kept else 'left out'}"
        console.print(outcome, markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"wrote {out}; next: python -m export.bundle {out} --out BUNDLE --data {data}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    typer.run(main)
