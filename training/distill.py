"""Distil teachers into a student: `python -m training.distill CONFIG --teacher TEACHER --out RUN`.

The student is an image tower of its own that learns to embed into the teacher's space: the
teacher's text tower, which never goes to the probe, embeds captions and prompts for both. What
the teacher saw in every view is kept under `--cache`, so that it runs once for every seed of the
views, however many students it teaches. Checkpoints, logs and several processes are as in
`training.pretrain`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from accelerate.utils import broadcast_object_list
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.config import ExperimentConfig
from training.ensemble import as_one, sample_captions, sentence_basis
from training.models import PUBLISHED, DualEncoder, ModelConfig
from training.objectives import Distilling
from training.options import Cache, Config, Holdout, Out, Prompts, Seed, Shards, told
from training.release import Origin
from training.session import Session, prepare
from training.starting import begin_tower, check_start, origin_of_student
from training.teacher import FrozenText, Teacher, TeacherCache, load_teacher
from training.view_set import tensors_sha256

__all__ = ["main"]

_SAMPLE = 1024  # captions that tell what sentences can say


def make_student(config: ExperimentConfig, teacher: Teacher) -> DualEncoder:
    """A student that speaks the teacher's language.

    The length of its embedding and the shape of its text tower are the teacher's, whatever the
    configuration says; only where several teach, it says the length.
    """
    torch.manual_seed(config.seed)  # the same first weights in every process
    assert isinstance(config.model, ModelConfig)
    own = config.model.to_dict()
    shape = ModelConfig(**{**own, **teacher.text_shape, "embed_dim": teacher.embed_dim})
    student = DualEncoder(shape, text=FrozenText(teacher.text))
    begin_tower(student.image, config)
    return student


def check_teacher(session: Session, teacher: Teacher) -> None:
    """Refuse a teacher that the experiment cannot learn from.

    Raises:
        ValueError: it learned from patients who are held out here, as far as it is known whom it
            learned from, or wants larger images than are kept in memory.
    """
    known = teacher.held_out is not None and teacher.data_sha256 in (None, session.data_sha256)
    if known and (learned := session.held_out - (teacher.held_out or frozenset())):
        raise ValueError(
            f"the teacher learned from {len(learned)} of the {len(session.held_out)} patients held "
            "out here, so validation would be worth nothing; use its holdout and holdout_seed"
        )
    if teacher.size > session.config.canvas:
        raise ValueError(
            f"canvas must be at least the {teacher.size} pixels that the teacher sees, "
            f"not {session.config.canvas}"
        )


def main(
    config_path: Config,
    teacher_paths: Annotated[
        list[Path],
        typer.Option(
            "--teacher",
            help="folder written by training.pretrain, or FetalCLIP's published weights (.pt); "
            "several, each with a --teacher of its own, teach what they say on average",
        ),
    ],
    out: Out,
    data: Shards,
    cache: Cache = Path("runs/cache"),
    architecture: Annotated[
        str, typer.Option(help=f"of a .pt file: {' or '.join(PUBLISHED)}")
    ] = "fetalclip",
    prompts: Prompts = None,
    seed: Seed = None,
    holdout: Holdout = None,
) -> None:
    """Distil teachers into a student for the ultrasound device."""
    console = Console(stderr=True)
    with told(console, 2, OSError, ValueError):
        session = prepare(
            config_path,
            out,
            data,
            cache,
            prompts or (),
            console,
            distilling=True,
            seed=seed,
            holdout=holdout,
        )
        teachers = [load_teacher(path, architecture) for path in teacher_paths]
        for one in teachers:
            check_teacher(session, one)
        check_start(session.config, session.held_out, session.data_sha256)
        teacher = teachers[0] if len(teachers) == 1 else _together(session, teachers)
        origin = origin_of_student(
            session.config,
            Origin("distill", teacher.license, teacher.name, teacher.credit, session.data_sha256),
        )
        teacher.image.to(session.accelerator.device)
        objective = make_objective(session, teacher)
        run = session.start(make_student(session.config, teacher), objective)
    if run is not None:
        with told(console, 1, OSError, FloatingPointError):
            run.to_end(origin)


def _together(session: Session, teachers: list[Teacher]) -> Teacher:
    """Several teachers as one, in every process alike, and alike when the run goes on."""
    basis: list[Tensor | None] = [None]
    if session.accelerator.is_main_process:
        basis = [_kept_basis(session, teachers)]
    if session.accelerator.num_processes > 1:
        broadcast_object_list(basis)
    assert basis[0] is not None
    return as_one(teachers, basis[0])


def _kept_basis(session: Session, teachers: list[Teacher]) -> Tensor:
    """From the cache where it has it: another machine's last digits would be another teacher."""
    assert isinstance(session.config.model, ModelConfig)
    length = session.config.model.embed_dim
    prompts = [
        text
        for prompt_set in session.prompts.values()
        for texts in prompt_set.prompts.values()
        for text in texts
    ]
    captions = sample_captions([example.facts for example in session.learn], _SAMPLE)
    sentences = [*prompts, *captions]
    about = ([teacher.sha256 for teacher in teachers], sentences, length)
    path = session.cache / f"{tensors_sha256(about)[:32]}.basis.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        save_file({"basis": sentence_basis(teachers, sentences, length)}, temporary)
        temporary.replace(path)
    return load_file(path)["basis"]


def make_objective(session: Session, teacher: Teacher) -> Distilling:
    """What the student learns, with the teacher's embeddings kept in the session's cache."""
    config = session.config
    assert config.distillation is not None
    seen = TeacherCache(session.cache, teacher, session.views, config.precision)
    return Distilling(config.distillation, seen)


if __name__ == "__main__":
    typer.run(main)
