"""Judge settings by all training patients: `python -m training.cross_validate CONFIG --out RUNS`.

Few patients show a brain sub-plane, so what those of one holdout say hangs on who they are. Here
the experiment is trained once for each fold of the patients, and every patient is recognised by the
model that did not learn from them. A fold is a run of its own, `RUNS/fold_1` and so on, which goes
on where it was stopped when the same command is given again. The test split is not read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from fetalclip_edge.results import BRAIN_PLANES, PLANES
from training.config import PublishedConfig
from training.datasets import Example, load_images
from training.evaluation.report import with_interval
from training.evaluation.tasks import RECOGNISED, label_of
from training.evaluation.zero_shot import measure_recognition
from training.objectives import Contrastive
from training.options import Cache, Config, Out, Seed, Shards, told
from training.release import Release, load_release
from training.session import prepare
from training.starting import check_start, first_model, origin_of
from training.zero_shot import embed_images

__all__ = ["main"]


@dataclass(frozen=True, slots=True, eq=False)
class _Answers:
    """Images that a model has not learned from, and its similarities, task -> `(N, classes)`."""

    examples: list[Example]
    similarities: dict[str, NDArray[np.float32]]


def main(
    config_path: Config,
    out: Out,
    data: Shards,
    cache: Cache = Path("runs/cache"),
    folds: Annotated[
        int, typer.Option(min=2, help="parts into which the training patients are cut")
    ] = 5,
    seed: Seed = None,
) -> None:
    """Train an experiment once for each fold of the patients, and recognise all of them.

    CONFIG is one for training.pretrain, with a model of our own shapes: a teacher would have
    learned from the patients of the fold. Its `holdout_seed` says who is in which fold.
    """
    console = Console(stderr=True)
    answers = []
    for fold in range(folds):
        folder = out / f"fold_{fold + 1}"
        with told(console, 2, OSError, ValueError):
            session = prepare(
                config_path,
                folder,
                data,
                cache,
                (),
                console,
                distilling=False,
                seed=seed,
                fold=(fold, folds),
            )
            if session.accelerator.num_processes > 1:
                raise ValueError("cross-validation runs in one process; leave the launcher out")
            if isinstance(session.config.model, PublishedConfig):
                raise ValueError(
                    f"{config_path} trains a published model, which is recognised by other means: "
                    "cross-validate a model of our own shapes"
                )
            session.say(f"fold {fold + 1} of {folds}")
            model = first_model(session.config)
            check_start(session.config, session.held_out, session.data_sha256)
            origin = origin_of(session.config, model, session.data_sha256)
            run = session.start(model, Contrastive())
        with told(console, 1, OSError, FloatingPointError):
            if run is not None:
                run.to_end(origin)
        with told(console, 2, OSError, ValueError):
            answers.append(_answer(load_release(folder), session.held))
    with told(console, 2, OSError, ValueError):
        found = {task: _measure(answers, task) for task in RECOGNISED}
        path = out / "cross_validation.json"
        path.write_text(json.dumps({"folds": folds, "tasks": found}, indent=2) + "\n", "utf-8")
    console.print(_table(found, folds))
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)


def _answer(release: Release, held: list[Example]) -> _Answers:
    examples = [e for e in held if any(label_of(e, task) is not None for task in RECOGNISED)]
    images = load_images(examples, release.config.image_size, "reading held-out images")
    embeddings = embed_images(release.tower, images).numpy()
    return _Answers(
        examples, {task: embeddings @ release.embeddings[task].T for task in RECOGNISED}
    )


def _measure(answers: list[_Answers], task: str) -> dict[str, Any]:
    """Of all folds together: every image once, by the model that has not seen its patient."""
    examples = [example for each in answers for example in each.examples]
    return measure_recognition(
        np.concatenate([each.similarities[task] for each in answers]),
        {"planes": PLANES, "brain_planes": BRAIN_PLANES}[task],
        [label_of(example, task) for example in examples],
        [example.group for example in examples],
        RECOGNISED[task],
    )


def _table(found: dict[str, Any], folds: int) -> Table:
    table = Table("", "macro-F1", "images", "patients", title=f"{folds} folds, in percent")
    for task, figures in found.items():
        f1 = with_interval(figures["macro_f1"], figures["macro_f1_interval"])
        table.add_row(task, f1, str(figures["images"]), str(figures["patients"]))
        for name, each in figures["classes"].items():
            f1 = with_interval(each["f1"], each["f1_interval"])
            table.add_row(f"  {name}", f1, str(each["images"]), "")
    return table


if __name__ == "__main__":
    typer.run(main)
