"""Prompts of zero-shot recognition: the sentences that stand for each class of a task.

They are worded as the training captions are. A JSON object of class -> list of prompts, the layout
in which FetalCLIP publishes its own, can take their place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from fetalclip_edge.bundle import prompts_sha256
from fetalclip_edge.results import BRAIN_PLANES, PLANES
from fetalclip_edge.tasks.gestational_age import MAX_DAYS, MIN_DAYS
from training.wordings import (
    AGES,
    BRAIN_PLANE_TERMS,
    OPENINGS,
    PIXEL_SIZES,
    PLANE_TERMS,
    sentence,
    weeks_and_days,
)

__all__ = [
    "BRAIN_PLANE_PROMPTS",
    "PLANE_PROMPTS",
    "VERSION",
    "PromptSet",
    "gestational_age_prompts",
    "load_prompts",
    "parse_prompt_files",
    "prompt_file_paths",
]

VERSION = "2"
"""Of our sentences: raised when one of them, or their order, changes."""

# FetalCLIP's names of classes that go by another name here.
_ALIASES = {"heart": "thorax"}


@dataclass(frozen=True, slots=True)
class PromptSet:
    """The sentences that stand for each class of a task.

    Attributes:
        name: what the task is called in a bundle.
        prompts: class label -> its sentences; the order of the classes is that of the scores.
        version: `VERSION` of our own sentences, or the name of the file that they were read from.
    """

    name: str
    prompts: dict[str, tuple[str, ...]]
    version: str = VERSION

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes in the order of the scores."""
        return tuple(self.prompts)

    @property
    def sha256(self) -> str:
        """Hash over the classes and sentences, in order."""
        return prompts_sha256(self.prompts)


PLANE_PROMPTS = PromptSet(
    "planes",
    {
        label: tuple(sentence(o.format(term)) for o in OPENINGS for term in PLANE_TERMS[label])
        for label in PLANES
    },
)
"""Prompts of the standard planes, in the order of `fetalclip_edge.results.PLANES`."""

BRAIN_PLANE_PROMPTS = PromptSet(
    "brain_planes",
    {
        label: tuple(
            sentence(opening.format(head), view)
            for opening in OPENINGS
            for head in PLANE_TERMS["brain"]
            for view in BRAIN_PLANE_TERMS[label]
        )
        for label in BRAIN_PLANES
    },
)
"""Prompts of the brain sub-planes, in the order of `fetalclip_edge.results.BRAIN_PLANES`."""


def gestational_age_prompts(pixel_size_mm: float | None = None) -> PromptSet:
    """Prompts of every gestational age from 14 weeks + 0 days to 38 weeks + 6 days.

    Args:
        pixel_size_mm: millimetres per pixel of the network's input. When known it is mentioned,
            rounded to two decimals, as FetalCLIP's evaluation does (arXiv 2502.14807): how large
            a head is cannot be told without it.

    Returns:
        The set "gestational_age". Labels are ages in days, "98" to "272"; each has one sentence
        for every template, in the same order.

    Raises:
        ValueError: `pixel_size_mm` is not a number that is at least 0.01 when rounded.
    """
    if pixel_size_mm is not None and not (
        math.isfinite(pixel_size_mm) and round(pixel_size_mm, 2) > 0
    ):
        raise ValueError(
            "pixel_size_mm must be a number that is at least 0.01 when rounded to two decimals, "
            f"or None when it is not known; not {pixel_size_mm!r}"
        )
    # One template for every opening: with each day and pixel size, more would take long.
    templates = list(
        zip(OPENINGS, cycle(PLANE_TERMS["brain"]), cycle(AGES), cycle(PIXEL_SIZES), strict=False)
    )
    prompts = {}
    for days in range(MIN_DAYS, MAX_DAYS + 1):
        texts = []
        for opening, term, age, pixel_size in templates:
            parts = [opening.format(term), age.format(weeks_and_days(days))]
            if pixel_size_mm is not None:
                parts.append(pixel_size.format(pixel_size_mm))
            texts.append(sentence(*parts))
        prompts[str(days)] = tuple(texts)
    return PromptSet("gestational_age", prompts)


def load_prompts(path: Path, name: str, labels: Sequence[str] | None = None) -> PromptSet:
    """Read a JSON object of class -> list of prompts.

    FetalCLIP's class `heart` is read as `thorax`, unless `labels` has a class `heart`.

    Args:
        path: the file, in UTF-8.
        name: what the task is called in a bundle, as "planes".
        labels: the classes that the file must hold, in the order of the scores. None takes the
            file's classes in the file's order: FetalCLIP's file for planes also has classes that
            its test images never show (as `kidney`), and none for `other`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not such an object, a class is missing, unknown, empty or given
            twice, or a prompt is not a text, is blank or is given twice. The message names the
            file and the class.
    """
    given = _read_classes(path)
    prompts: dict[str, tuple[str, ...]] = {}
    owners: dict[str, str] = {}
    for given_label, texts in given:
        label = given_label
        if given_label in _ALIASES and (labels is None or given_label not in labels):
            label = _ALIASES[given_label]
        if label in prompts:
            also = "" if label == given_label else f" ({given_label} is another name for it)"
            raise ValueError(f"{path}: class {label!r} is given twice{also}; merge its prompts")
        prompts[label] = _checked_texts(texts, f"{path}: class {given_label!r}")
        for text in prompts[label]:
            if text in owners:
                raise ValueError(
                    f"{path}: class {given_label!r} repeats a prompt of class "
                    f"{owners[text]!r}: {text!r}; give every prompt once"
                )
            owners[text] = given_label
    if labels is not None:
        prompts = _in_order(prompts, labels, path)
    return PromptSet(name, prompts, version=path.name)


def parse_prompt_files(values: Sequence[str]) -> dict[str, PromptSet]:
    """Read the prompts of training from values of `--prompts`, as "planes=FILE.json".

    Args:
        values: "planes=FILE.json", "brain_planes=FILE.json" or both. Each file must hold the
            classes of `PLANE_PROMPTS` or `BRAIN_PLANE_PROMPTS`, and no others: a bundle answers
            in these.

    Returns:
        The sets that were given, by their names.

    Raises:
        FileNotFoundError, ValueError: as for `prompt_file_paths` and `load_prompts`.
    """
    labels = {own.name: own.labels for own in (PLANE_PROMPTS, BRAIN_PLANE_PROMPTS)}
    paths = prompt_file_paths(values, labels)
    return {task: load_prompts(path, task, labels[task]) for task, path in paths.items()}


def prompt_file_paths(values: Sequence[str], tasks: Collection[str]) -> dict[str, Path]:
    """The file of each task in values of `--prompts`, as "planes=FILE.json".

    Args:
        values: as given on the command line.
        tasks: those that prompts may be given for.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a value is not TASK=FILE, or names an unknown task or one a second time.
    """
    paths: dict[str, Path] = {}
    for value in values:
        task, _, file = value.partition("=")
        if not file or task not in tasks:
            raise ValueError(
                f"--prompts must be TASK=FILE.json with a task of {', '.join(tasks)}, not {value!r}"
            )
        if task in paths:
            raise ValueError(f"--prompts gives {task} twice: {paths[task]} and {file}; give one")
        paths[task] = Path(file)
        if not paths[task].is_file():
            raise FileNotFoundError(f"--prompts {value}: there is no file {file}")
    return paths


def _read_classes(path: Path) -> list[tuple[str, object]]:
    try:
        # A dict would keep only the last of two classes of one name, without a word. Inner
        # objects become tuples too, which keeps them apart from the lists that prompts must be.
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=tuple)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON in UTF-8: {error}") from error
    if not isinstance(content, tuple) or not content:
        raise ValueError(f"{path} must hold a JSON object of class -> list of prompts")
    return list(content)


def _checked_texts(texts: object, where: str) -> tuple[str, ...]:
    if not isinstance(texts, list) or not texts:
        raise ValueError(f"{where} must have a list of at least one prompt, not {texts!r}")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{where} has a prompt that is not a text: {text!r}")
    return tuple(texts)


def _in_order(
    prompts: dict[str, tuple[str, ...]], labels: Sequence[str], path: Path
) -> dict[str, tuple[str, ...]]:
    missing = [label for label in labels if label not in prompts]
    extra = [label for label in prompts if label not in labels]
    if missing or extra:
        faults = [f"lacks {', '.join(missing)}"] if missing else []
        faults += [f"has unknown {', '.join(extra)}"] if extra else []
        raise ValueError(f"{path} {' and '.join(faults)}; the classes must be {', '.join(labels)}")
    return {label: prompts[label] for label in labels}
