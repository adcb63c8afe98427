"""The model that a run begins with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from training.config import ExperimentConfig, PublishedConfig
from training.models import (
    PUBLISHED,
    DualEncoder,
    ImageTextModel,
    ImageTower,
    ModelConfig,
    PublishedModel,
)
from training.models.untrained import untrained_model
from training.release import (
    Origin,
    Release,
    binding_license,
    joint_credit,
    load_published,
    load_release,
)

__all__ = ["begin_tower", "check_start", "first_model", "origin_of", "origin_of_student"]

_NO_PATH = ("imagenet", "random")


def first_model(config: ExperimentConfig) -> ImageTextModel:
    """Make the model of an experiment with its first weights, the same in every process.

    Raises:
        FileNotFoundError: there is nothing at `config.start`.
        ValueError: what lies there is of another shape, or there are no ImageNet weights for the
            backbone.
    """
    torch.manual_seed(config.seed)
    if isinstance(config.model, PublishedConfig):
        if config.start == "random":
            return untrained_model(config.model.published)
        return _published_start(config.model.published, Path(config.start)).requires_grad_(True)
    model = DualEncoder(config.model)
    if config.start not in _NO_PATH and (run := load_release(Path(config.start))).text is not None:
        _load_run(model, config, run)
        model.image.freeze(config.frozen_stages)
    else:
        begin_tower(model.image, config)
    return model


def begin_tower(tower: ImageTower, config: ExperimentConfig) -> None:
    """Give an image tower its first weights, when its text tower is another or a new one.

    Of a run the backbone is taken alone: its projection leads to the space of its own text tower.

    Raises:
        FileNotFoundError: there is nothing at `config.start`.
        ValueError: what lies there is of another backbone, or there are no ImageNet weights.
    """
    if config.start == "imagenet":
        tower.load_imagenet()
    elif config.start != "random":
        run = load_release(Path(config.start))
        if (found := _backbone(run.config)) != (wanted := _backbone(tower.config)):
            raise ValueError(f"start: {config.start} holds {found}, the experiment wants {wanted}")
        tower.backbone.load_state_dict(run.tower.backbone.state_dict())
    tower.freeze(config.frozen_stages)


def _backbone(shape: ModelConfig) -> str:
    return f"{shape.backbone} (mean {shape.mean:.4f}, std {shape.std:.4f})"


def _published_start(name: str, path: Path) -> PublishedModel:
    if not path.is_dir():
        return PUBLISHED[name](path)
    if (found := load_published(path)) is None or found[0].name != name:
        raise ValueError(f"start: {path} does not hold a {name}")
    return found[0]


def _first_run(config: ExperimentConfig) -> tuple[Origin, frozenset[str]] | None:
    """Where the run to start from comes from, and the patients held out of it."""
    folder = Path(config.start)
    if config.start in _NO_PATH or not folder.is_dir():
        return None
    if (found := load_published(folder)) is not None:
        return found[1:]
    release = load_release(folder)
    return release.origin, release.held_out


def _load_run(model: DualEncoder, config: ExperimentConfig, run: Release) -> None:
    assert run.text is not None
    if run.config != config.model:
        raise ValueError(
            f"start: {config.start} holds {run.config}, the experiment wants {config.model}"
        )
    model.image.load_state_dict(run.tower.state_dict())
    model.text.load_state_dict(run.text.state_dict())
    with torch.no_grad():
        model.log_scale.fill_(run.scale).log_()


def check_start(config: ExperimentConfig, held_out: frozenset[str], data_sha256: str) -> None:
    """Refuse a run to start from that learned from patients who are held out now.

    Of a run that says it learned from other data nobody can tell whom it learned from.

    Raises:
        ValueError: it did.
    """
    if (first := _first_run(config)) is None:
        return
    origin, held_out_before = first
    learned = held_out - held_out_before
    if learned and origin.data_sha256 in (None, data_sha256):
        raise ValueError(
            f"start: {config.start} learned from {len(learned)} of the {len(held_out)} patients "
            "held out here, so validation would be worth nothing; use its holdout and holdout_seed"
        )


def origin_of(config: ExperimentConfig, model: ImageTextModel, data_sha256: str) -> Origin:
    """Where a pretrained model comes from; weights that it began with bind it."""
    if (first := _first_run(config)) is not None:
        return replace(first[0], method="pretrain", data_sha256=data_sha256)
    if isinstance(model, PublishedModel) and config.start != "random":
        credit = f"{model.credit}, {model.url}"
        return Origin("pretrain", model.license, model.name, credit, data_sha256)
    return Origin("pretrain", data_sha256=data_sha256)


def origin_of_student(config: ExperimentConfig, taught: Origin) -> Origin:
    """Where a student comes from: what its teacher says, bound by what it began with as well.

    Args:
        config: the experiment.
        taught: licence, name and credit of its teacher.

    Raises:
        ValueError: teacher and first weights carry different licences that both bind.
    """
    if (first := _first_run(config)) is None:
        return taught
    began = first[0]
    return replace(
        taught,
        license=binding_license([taught.license, began.license]),
        teacher_credit=joint_credit([taught.teacher_credit, began.teacher_credit]),
    )
