"""The tasks of an evaluation: which there are, what each needs, and how they are run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from fetalclip_edge.results import BRAIN_PLANES
from training.datasets import Example
from training.evaluation.activation import Shown, activation_map, draw_activations
from training.evaluation.encoders import (
    Embeddings,
    Encoder,
    NotMeasurableError,
    TowerEncoder,
)
from training.evaluation.few_shot import few_shot_curve
from training.evaluation.gestational_age import (
    SCORED_MM,
    estimate_ages,
    estimate_by_bank,
    input_pixel_size,
    is_valid,
    measure_ages,
    with_pixel_size,
)
from training.evaluation.labels import LabelTable, pool_clips
from training.evaluation.pictures import draw_ages, draw_few_shot, draw_map, embedding_map
from training.evaluation.probes import Samples, measure_probe
from training.evaluation.zero_shot import measure_recognition
from training.prompts import PromptSet, gestational_age_prompts
from training.zero_shot import SCORED_PLANES

__all__ = ["RECOGNISED", "TASKS", "Evaluation", "Results", "label_of", "recognise"]

_SHOWN_PER_CLASS = 2

RECOGNISED: dict[str, tuple[str, ...]] = {"planes": SCORED_PLANES, "brain_planes": BRAIN_PLANES}
"""Task of recognition -> the classes that are scored."""


@dataclass(frozen=True, slots=True)
class Results:
    """What was measured.

    Attributes:
        tasks: name -> figures.
        left_out: name of a task, or "task, part" -> why it could not be measured.
        pictures: file name within the pictures' folder -> whether it shows patients' images.
    """

    tasks: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, bool] = field(default_factory=dict)


def recognise(
    encoder: Encoder,
    embeddings: Embeddings,
    examples: Sequence[Example],
    task: str,
    prompts: PromptSet,
) -> dict[str, Any]:
    """Zero-shot recognition of images, as `measure_recognition` scores it.

    Args:
        encoder: the model.
        embeddings: `(N, D)`, what it makes of the images.
        examples: what they show; those not labelled for the task are left out.
        task: "planes" or "brain_planes".
        prompts: of the classes.
    """
    found = measure_recognition(
        embeddings @ encoder.embed_prompts(prompts).T,
        prompts.labels,
        [label_of(example, task) for example in examples],
        [example.group for example in examples],
        RECOGNISED[task],
    )
    return {**found, "prompts": _describe(prompts)}


class Evaluation:
    """Runs tasks on one model and one data set; each image is embedded once.

    Args:
        encoder: the model.
        examples: split -> its images.
        pictures: folder for pictures.
        console: for progress.
        prompts: task -> prompts in place of the model's own; they need a text tower.
        tables: labels for further probes.
    """

    def __init__(
        self,
        encoder: Encoder,
        examples: Mapping[str, Sequence[Example]],
        pictures: Path,
        console: Console,
        *,
        prompts: Mapping[str, PromptSet] | None = None,
        tables: Sequence[LabelTable] = (),
    ) -> None:
        self._encoder = encoder
        self._examples = examples
        self._pictures = pictures
        self._console = console
        self._prompts = dict(prompts or {})
        self._tables = tables
        self._embedded: dict[str, Embeddings] = {}
        self._results = Results()

    def run(self, names: Sequence[str]) -> Results:
        """Run tasks of `TASKS`; one that the model or data does not allow is left out, with why."""
        for name in TASKS:
            if name not in names:
                continue
            self._console.print(f"{name} ...", style="dim", highlight=False)
            try:
                self._results.tasks[name] = TASKS[name](self)
            except NotMeasurableError as error:
                self._results.left_out[name] = str(error)
        return self._results

    def recognise(self, task: str) -> dict[str, Any]:
        """Zero-shot planes or brain sub-planes of the test split."""
        rows = self._labelled("test", task)
        examples = [self._examples["test"][row] for row in rows]
        prompts = self._prompts.get(task) or self._encoder.prompts(task)
        return recognise(self._encoder, self._embed("test")[rows], examples, task, prompts)

    def ages(self) -> dict[str, Any]:
        """Zero-shot gestational age of the test split's heads."""
        bank = self._encoder.age_bank
        if bank is None and not self._encoder.has_text:
            # Says why; a bundle and a release without a text tower have different reasons.
            self._encoder.embed_texts([""])
        test = self._examples["test"]
        rows = [
            row
            for row, example in enumerate(test)
            if example.head_circumference_mm is not None and example.facts.pixel_size_mm is not None
        ]
        heads = [test[row] for row in rows]
        low, high = SCORED_MM
        if not any(low <= (head.head_circumference_mm or 0) <= high for head in heads):
            raise NotMeasurableError(
                "the test split has no head with a pixel size and a circumference of "
                f"{low:g} to {high:g} mm"
            )
        size = self._encoder.preprocess.size
        own = self._prompts.get("gestational_age")
        embeddings, sizes = self._embed("test")[rows], [input_pixel_size(h, size) for h in heads]
        if bank is not None:
            days = estimate_by_bank(embeddings, sizes, bank)
            told = [row for row, day in enumerate(days) if day]
            days, heads = days[told], [heads[row] for row in told]
            if not any(low <= (head.head_circumference_mm or 0) <= high for head in heads):
                raise NotMeasurableError(
                    "the bundle tells no ages at the pixel sizes of the test split's heads"
                )
        else:
            prompts = gestational_age_prompts if own is None else partial(with_pixel_size, own)
            days = estimate_ages(embeddings, sizes, prompts, self._encoder)
        measured = measure_ages(days, heads)
        pairs = zip(days.tolist(), [head.head_circumference_mm or 0 for head in heads], strict=True)
        shown = [(day, mm, is_valid(day, mm)) for day, mm in pairs if low <= mm <= high]
        self._results.pictures["gestational_age.png"] = False
        draw_ages(shown, self._pictures / "gestational_age.png")
        described = _describe(gestational_age_prompts() if own is None else own)
        return {**measured, "prompts": described}

    def probes(self) -> dict[str, Any]:
        """Linear probes on planes, sub-planes and the user's tables."""

        def probe(task: str) -> dict[str, Any]:
            return measure_probe(self._samples("train", task), self._samples("test", task))

        parts = {task: partial(probe, task) for task in RECOGNISED}
        parts |= {table.name: partial(self._probe_table, table) for table in self._tables}
        return self._each("probes", parts)

    def few_shot(self) -> dict[str, Any]:
        """Few-shot curves of planes and sub-planes."""

        def curve(task: str) -> dict[str, Any]:
            return few_shot_curve(self._samples("train", task), self._samples("test", task))

        curves = self._each("few_shot", {task: partial(curve, task) for task in RECOGNISED})
        measured = self._results.tasks
        flat = {task: measured[task]["macro_f1"] for task in RECOGNISED if task in measured}
        self._results.pictures["few_shot.png"] = False
        draw_few_shot(curves, flat, self._pictures / "few_shot.png")
        return curves

    def map(self) -> dict[str, Any]:
        """A map of the test images' embeddings."""
        rows = [row for row, e in enumerate(self._examples["test"]) if e.facts.plane is not None]
        examples = [self._examples["test"][row] for row in rows]
        places = embedding_map(self._embed("test")[rows])
        columns = {
            "planes": [example.facts.plane or "" for example in examples],
            "brain sub-planes": [label_of(example, "brain_planes") or "" for example in examples],
        }
        self._results.pictures["embedding_map.png"] = False
        draw_map(places, columns, self._pictures / "embedding_map.png")
        return {"images": len(rows), "method": "UMAP, cosine, 15 neighbours, seed 42"}

    def activations(self) -> dict[str, Any]:
        """Class activation maps of the first test images of each class, and what they were for."""
        encoder = self._encoder
        if not isinstance(encoder, TowerEncoder) or encoder.tower is None:
            raise NotMeasurableError(
                "an exported graph has no gradients; evaluate the release that it was made from"
            )
        self._pictures.mkdir(parents=True, exist_ok=True)
        # So that patients' images are not committed by mistake, wherever the output folder lies.
        (self._pictures / ".gitignore").write_text("activation_*.png\n", encoding="utf-8")
        return self._each(
            "activations", {task: partial(self._draw, encoder, task) for task in RECOGNISED}
        )

    def _draw(self, encoder: TowerEncoder, task: str) -> dict[str, Any]:
        assert encoder.tower is not None
        prompts = self._prompts.get(task) or encoder.prompts(task)
        embeddings = encoder.embed_prompts(prompts)
        rows, test = self._labelled("test", task), self._examples["test"]
        images = []
        for name in RECOGNISED[task]:
            chosen = [row for row in rows if label_of(test[row], task) == name]
            for row in chosen[:_SHOWN_PER_CLASS]:
                best = int((embeddings @ self._embed("test")[row]).argmax())
                levels = encoder.grey_levels(np.asarray(test[row].open()))
                weights = activation_map(encoder.tower, levels, embeddings[best])
                title = f"{name}, taken for {prompts.labels[best]}"
                images.append(Shown(levels[0, 0], weights, title))
        file = f"activation_{task}.png"
        draw_activations(images, self._pictures / file)
        self._results.pictures[file] = True
        return {"images": len(images), "towards": "the class that is answered"}

    def _each(self, task: str, parts: Mapping[str, Callable[[], dict[str, Any]]]) -> dict[str, Any]:
        """Measure a task's parts; one that cannot be is left out, with why.

        Raises:
            NotMeasurableError: none can be measured.
        """
        found, reasons = {}, {}
        for name, measure in parts.items():
            try:
                found[name] = measure()
            except NotMeasurableError as error:
                reasons[name] = str(error)
        if not found:
            raise NotMeasurableError("; ".join(f"{name}: {why}" for name, why in reasons.items()))
        self._results.left_out.update({f"{task}, {name}": why for name, why in reasons.items()})
        return found

    def _probe_table(self, table: LabelTable) -> dict[str, Any]:
        embeddings = self._encoder.embed(table.images, f"images of {table.name}")
        train, test = (pool_clips(embeddings, table.images, split) for split in ("train", "test"))
        if not len(train.labels):
            raise NotMeasurableError("the table has no rows of split train")
        frames = {"frames": len(table.images), "notes": list(table.notes)}
        return {**measure_probe(train, test), **frames}

    def _embed(self, split: str) -> Embeddings:
        if split not in self._embedded:
            self._embedded[split] = self._encoder.embed(self._examples[split], f"images of {split}")
        return self._embedded[split]

    def _labelled(self, split: str, task: str) -> list[int]:
        rows = [
            row
            for row, example in enumerate(self._examples.get(split, ()))
            if label_of(example, task) in RECOGNISED[task]
        ]
        if not rows:
            raise NotMeasurableError(
                f"the {split} split has no image labelled with any of {', '.join(RECOGNISED[task])}"
            )
        return rows

    def _samples(self, split: str, task: str) -> Samples:
        rows = self._labelled(split, task)
        examples = [self._examples[split][row] for row in rows]
        return Samples(
            self._embed(split)[rows],
            np.array([label_of(example, task) for example in examples], dtype=str),
            np.array([example.group for example in examples], dtype=str),
        )


TASKS: dict[str, Callable[[Evaluation], dict[str, Any]]] = {
    "planes": lambda evaluation: evaluation.recognise("planes"),
    "brain_planes": lambda evaluation: evaluation.recognise("brain_planes"),
    "gestational_age": Evaluation.ages,
    "probes": Evaluation.probes,
    "few_shot": Evaluation.few_shot,
    "map": Evaluation.map,
    "activations": Evaluation.activations,
}
"""Every task by its name, in the order in which they run."""


def label_of(example: Example, task: str) -> str | None:
    """The label that a task goes by.

    HC18's heads are called brain by us, not by a person who looked for planes: they are not
    scored as planes.
    """
    if example.head_circumference_mm is not None:
        return None
    return example.facts.plane if task == "planes" else example.facts.brain_plane


def _describe(prompts: PromptSet) -> dict[str, Any]:
    return {
        "version": prompts.version,
        "sha256": prompts.sha256,
        "sentences": sum(len(texts) for texts in prompts.prompts.values()),
    }
