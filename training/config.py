"""One YAML file per experiment, checked before anything loads.

A file with a section `distillation` is for `training.distill`, one without for `training.pretrain`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from training.models import ModelConfig
from training.models.untrained import architecture_of

__all__ = [
    "Distillation",
    "ExperimentConfig",
    "PublishedConfig",
    "Reading",
    "Stage",
    "load_config",
]

T = TypeVar("T")

_PRECISIONS = ("no", "bf16", "fp16")

_PLAIN: dict[object, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (int, float),
    str: (str,),
}


@dataclass(frozen=True, slots=True)
class Stage:
    """A number of epochs at one image size."""

    epochs: int
    image_size: int

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "stages.epochs must be at least 1", self.epochs)
        _require(
            self.image_size >= 32 and self.image_size % 32 == 0,
            "stages.image_size must be a multiple of 32",
            self.image_size,
        )


@dataclass(frozen=True, slots=True)
class Distillation:
    """What a student learns from its teacher, besides the captions.

    Attributes:
        logits: weight of the teacher's similarities between images and captions.
        features: weight of the teacher's embeddings.
        off_diagonal_start: weight of wrong pairs within the logits, when training begins. Start
            and end 1 are static distillation; the paper's repulsion goes from 2 to -0.8.
        off_diagonal_end: that weight when training ends; linear in between.
    """

    logits: float
    features: float
    off_diagonal_start: float = 1.0
    off_diagonal_end: float = 1.0

    def __post_init__(self) -> None:
        for name in ("logits", "features"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"distillation.{name} must be 0 or more", value)
        _require(
            self.logits + self.features > 0,
            "distillation.logits and .features must not both be 0",
            self.logits,
        )
        for name in ("off_diagonal_start", "off_diagonal_end"):
            value = getattr(self, name)
            _require(math.isfinite(value), f"distillation.{name} must be finite", value)

    def off_diagonal_at(self, done: float) -> float:
        """Weight of wrong pairs when a share `done` (0 to 1) of the training is over."""
        return self.off_diagonal_start + done * (self.off_diagonal_end - self.off_diagonal_start)


@dataclass(frozen=True, slots=True)
class Reading:
    """How images are read.

    Attributes:
        streaming: read the shards anew in every epoch, every image once, in place of all images
            once into memory. For data that memory does not hold.
        shuffle: then, how many images of a lane wait, as files, to be mixed.
    """

    streaming: bool = False
    shuffle: int = 1000

    def __post_init__(self) -> None:
        _require(self.shuffle >= 1, "data.shuffle must be at least 1", self.shuffle)


@dataclass(frozen=True, slots=True)
class PublishedConfig:
    """One of the published architectures, exactly.

    Attributes:
        published: "fetalclip" or "mobile-fetalclip".
    """

    published: str

    def __post_init__(self) -> None:
        architecture_of(self.published)

    @property
    def image_size(self) -> int:
        """Side of its square input, in pixels."""
        return architecture_of(self.published).preprocess.size


@dataclass(frozen=True, slots=True)
class ExperimentConfig:
    """What training needs to know; the YAML has the same names.

    Attributes:
        seed: of the first weights, the plan of the batches and the wording of captions.
        augmentation_seed: of the views; runs that share it share a teacher's cache.
        views: how many views of an image there are.
        holdout: share of the training patients kept for validation.
        holdout_seed: which patients those are; the same for all runs that are compared.
        canvas: side at which images are kept in memory, in pixels.
        batch_size: images a step, over all processes.
        lanes: parts of a batch that are normalised together; at least the number of processes.
        accumulate: parts of a process's lanes that go through the network one after another, to
            save memory; the gradient is that of the whole batch.
        precision: "no" (float32), "bf16" or "fp16"; a teacher computes in it, too.
        learning_rate: the highest, after `warmup_steps` steps; half a cosine follows.
        weight_decay: of weight matrices alone.
        average_decay: share of the old average that a step keeps.
        checkpoint_steps: steps between checkpoints; every epoch ends with one, too.
        stages: epochs at one image size after another.
        model: shape of what is trained, or which of the published architectures.
        start: the first weights: "imagenet" (image tower of our own shapes alone), "random", or a
            path: of a run's folder, or, for a published architecture, of its file. A student, and
            a model whose start has no text tower, take the backbone of a run alone.
        frozen_stages: stages of the image tower, and its stem, that stay as they began; of our
            own shapes alone. It halves the time of a step on a CPU.
        recognition: weight of recognising planes and sub-planes by their prompts, beside the
            captions; 0 leaves it out.
        sub_plane_balance: by recognition common sub-planes are favoured as much as they are common
            (0), not at all (1), or something in between.
        sub_plane_draws: how many times as often images labelled with a brain sub-plane are drawn
            as they would be.
        distillation: for `training.distill`.
        data: how images are read.
    """

    seed: int
    augmentation_seed: int
    views: int
    holdout: float
    holdout_seed: int
    canvas: int
    batch_size: int
    lanes: int
    accumulate: int
    precision: str
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    average_decay: float
    checkpoint_steps: int
    stages: tuple[Stage, ...]
    model: ModelConfig | PublishedConfig = field(default_factory=ModelConfig)
    start: str = "imagenet"
    frozen_stages: int = 0
    recognition: float = 0.0
    sub_plane_balance: float = 0.0
    sub_plane_draws: float = 1.0
    distillation: Distillation | None = None
    data: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        _require(self.views >= 1, "views must be at least 1", self.views)
        _require(self.lanes >= 1, "lanes must be at least 1", self.lanes)
        _require(
            self.accumulate >= 1 and self.lanes % self.accumulate == 0,
            f"accumulate must divide the {self.lanes} lanes",
            self.accumulate,
        )
        _require(
            self.batch_size % self.lanes == 0,
            f"batch_size must be a multiple of the {self.lanes} lanes",
            self.batch_size,
        )
        _require(
            self.precision in _PRECISIONS,
            f"precision must be one of {', '.join(_PRECISIONS)}",
            self.precision,
        )
        _require(0 < self.holdout < 1, "holdout must lie between 0 and 1", self.holdout)
        _require(self.batch_size >= 2, "batch_size must be at least 2", self.batch_size)
        _require(
            0 < self.learning_rate < math.inf,
            "learning_rate must be above 0 and finite",
            self.learning_rate,
        )
        _require(
            0 <= self.weight_decay < math.inf,
            "weight_decay must be finite and not negative",
            self.weight_decay,
        )
        _require(self.warmup_steps >= 0, "warmup_steps must not be negative", self.warmup_steps)
        _require(0 <= self.average_decay < 1, "average_decay must be in [0, 1)", self.average_decay)
        _require(
            self.checkpoint_steps >= 1, "checkpoint_steps must be at least 1", self.checkpoint_steps
        )
        _require(len(self.stages) > 0, "stages must not be empty", self.stages)
        _require(
            self.stages[-1].image_size == self.model.image_size,
            f"model.image_size must be the last stage's {self.stages[-1].image_size}",
            self.model.image_size,
        )
        if isinstance(self.model, PublishedConfig):
            _require(
                self.start != "imagenet",
                'start must be "random" or a file of weights for a published architecture',
                self.start,
            )
            _require(
                {stage.image_size for stage in self.stages} == {self.model.image_size},
                f"a published architecture wants stages of {self.model.image_size} pixels alone",
                self.stages,
            )
            _require(
                self.distillation is None,
                "a student must be of our own shapes: give model a backbone, not published",
                self.model.published,
            )
        _require(self.frozen_stages >= 0, "frozen_stages must be 0 or more", self.frozen_stages)
        _require(
            self.frozen_stages == 0
            or (isinstance(self.model, ModelConfig) and self.start != "random"),
            "frozen_stages needs a model of our own shapes that starts from trained weights",
            self.frozen_stages,
        )
        _require(
            0 <= self.recognition < math.inf, "recognition must be 0 or more", self.recognition
        )
        _require(
            0 <= self.sub_plane_balance <= 1,
            "sub_plane_balance must lie between 0 and 1",
            self.sub_plane_balance,
        )
        _require(
            self.recognition > 0 or self.sub_plane_balance == 0,
            "sub_plane_balance is of recognition: it must be 0 without it",
            self.sub_plane_balance,
        )
        _require(
            0 < self.sub_plane_draws < math.inf,
            "sub_plane_draws must be above 0 and finite",
            self.sub_plane_draws,
        )
        _require(
            not self.data.streaming or self.sub_plane_draws == 1,
            "data.streaming reads every image once an epoch, so sub_plane_draws must be 1",
            self.sub_plane_draws,
        )
        largest = max(stage.image_size for stage in self.stages)
        _require(self.canvas >= largest, f"canvas must be at least {largest}", self.canvas)

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    def image_size_at(self, epoch: int) -> int:
        """Image size of an epoch, counted from 0."""
        for stage in self.stages:
            if epoch < stage.epochs:
                return stage.image_size
            epoch -= stage.epochs
        raise ValueError(f"there are only {self.epochs} epochs")


def load_config(path: Path) -> ExperimentConfig:
    """Read and check an experiment.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML, or a key is missing, unknown, of the wrong type, or out of
            range; the message names it.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path} must hold keys and values, not {type(document).__name__}")
    values = dict(document)
    if "stages" in values:
        if not isinstance(values["stages"], list):
            raise ValueError(f"{path}: stages must be a list, not {values['stages']!r}")
        values["stages"] = tuple(
            _build(Stage, stage, f"{path}: stages") for stage in values["stages"]
        )
    if "model" in values:
        section = values["model"]
        published = isinstance(section, Mapping) and "published" in section
        kind: type[Any] = PublishedConfig if published else ModelConfig
        values["model"] = _build(kind, section, f"{path}: model")
    if values.get("distillation") is not None:
        values["distillation"] = _build(
            Distillation, values["distillation"], f"{path}: distillation"
        )
    if "data" in values:
        values["data"] = _build(Reading, values["data"], f"{path}: data")
    return _build(ExperimentConfig, values, str(path))


def _build(kind: type[T], values: object, where: str) -> T:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must hold keys and values, not {values!r}")
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(str(key) for key in values if key not in known):
        raise ValueError(f"{where}: unknown keys {', '.join(unknown)}; known: {sorted(known)}")
    _check_types(kind, values, where)
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _check_types(kind: type[Any], values: Mapping[str, object], where: str) -> None:
    hints = get_type_hints(kind)
    for name, value in values.items():
        wanted = _PLAIN.get(hints[name])
        if wanted is not None and not _is_one_of(value, wanted):
            # YAML takes 6e-4 for text, the commonest slip in such a file.
            hint = " (YAML wants a point and a sign: 6.0e-4)" if _is_number(value) else ""
            if value is False and wanted == (str,):
                hint = ' (YAML takes a bare no for false: "no")'
            raise ValueError(
                f"{where}: {name} must be of type {hints[name].__name__}, not {value!r}{hint}"
            )


def _is_one_of(value: object, wanted: tuple[type, ...]) -> bool:
    # True is a whole number to Python, and to nobody else.
    return isinstance(value, wanted) and isinstance(value, bool) == (wanted == (bool,))


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False


def _require(condition: bool, message: str, value: Any) -> None:
    if not condition:
        raise ValueError(f"{message}, not {value!r}")
