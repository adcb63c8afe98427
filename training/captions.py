"""Captions for training and prompts for recognition. The sentences are our own."""

from __future__ import annotations

import random
from dataclasses import dataclass

from fetalclip_edge.bundle import prompts_sha256
from fetalclip_edge.results import BRAIN_PLANES, PLANES
from training.facts import Facts

__all__ = ["BRAIN_PLANE_PROMPTS", "PLANE_PROMPTS", "PromptSet", "describe"]

_PLANE_TERMS = {
    "abdomen": (
        "fetal abdomen",
        "fetal abdominal circumference plane",
        "fetus's abdomen with stomach and umbilical vein",
    ),
    "brain": ("fetal head", "fetal brain", "axial plane of the fetal head"),
    "femur": ("fetal femur", "fetal thigh bone", "long axis of the fetal femur"),
    "thorax": (
        "fetal thorax",
        "fetal chest with the heart",
        "four-chamber view of the fetal heart",
    ),
    "cervix": ("maternal cervix", "mother's cervix", "cervical canal of the mother"),
    "other": (
        "fetus in no standard plane",
        "non-standard view in a fetal scan",
        "fetal anatomy outside the standard planes",
    ),
}

_BRAIN_PLANE_TERMS = {
    "trans-thalamic": (
        "trans-thalamic plane",
        "plane through the thalami and cavum septi pellucidi",
    ),
    "trans-cerebellum": (
        "trans-cerebellar plane",
        "plane through the cerebellum and cisterna magna",
    ),
    "trans-ventricular": ("trans-ventricular plane", "plane through the lateral ventricles"),
}

_OPENINGS = (
    "Ultrasound image of the {term}",
    "Ultrasound of the {term}",
    "B-mode picture that shows the {term}",
    "Obstetric ultrasound, {term}",
    "Prenatal scan of the {term}",
)

# How often a known fact is mentioned; left out often enough that short prompts work as well.
_MENTION_BRAIN_PLANE, _MENTION_AGE, _MENTION_PIXEL_SIZE = 0.7, 0.7, 0.5


def describe(facts: Facts, rng: random.Random) -> tuple[str, Facts]:
    """Put some of the facts into a sentence.

    Args:
        facts: what is known of the image.
        rng: draws the wording and which facts are mentioned.

    Returns:
        The sentence, and the facts it claims (a part of `facts`).
    """
    text = rng.choice(_OPENINGS).format(term=rng.choice(_PLANE_TERMS[facts.plane]))
    brain_plane = age = pixel_size = None
    if facts.brain_plane in _BRAIN_PLANE_TERMS and rng.random() < _MENTION_BRAIN_PLANE:
        brain_plane = facts.brain_plane
        text += f", {rng.choice(_BRAIN_PLANE_TERMS[brain_plane])}"
    if facts.gestational_age_days is not None and rng.random() < _MENTION_AGE:
        age = facts.gestational_age_days
        text += f" at {weeks_and_days(round(age))}"
    if facts.pixel_size_mm is not None and rng.random() < _MENTION_PIXEL_SIZE:
        pixel_size = facts.pixel_size_mm
        text += f", pixel size {pixel_size:.2f} mm"
    return text + ".", Facts(facts.plane, brain_plane, age, pixel_size)


def weeks_and_days(days: int) -> str:
    """A gestational age as the field writes it out: "23 weeks and 4 days"."""
    weeks, rest = divmod(days, 7)
    return f"{weeks} weeks and {rest} day{'' if rest == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class PromptSet:
    """The sentences that stand for each class of a task.

    Attributes:
        name: what the task is called in a bundle.
        prompts: class label -> its sentences; the order of the classes is that of the scores.
    """

    name: str
    prompts: dict[str, tuple[str, ...]]

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes in the order of the scores."""
        return tuple(self.prompts)

    @property
    def sha256(self) -> str:
        """Hash over the classes and sentences, in order."""
        return prompts_sha256(self.prompts)


def _prompt_set(name: str, terms: dict[str, list[str]]) -> PromptSet:
    return PromptSet(
        name,
        {
            label: tuple(f"{o.format(term=term)}." for o in _OPENINGS for term in options)
            for label, options in terms.items()
        },
    )


PLANE_PROMPTS = _prompt_set("planes", {label: list(_PLANE_TERMS[label]) for label in PLANES})
"""Prompts of the standard planes, in the order of `fetalclip_edge.results.PLANES`."""

BRAIN_PLANE_PROMPTS = _prompt_set(
    "brain_planes",
    {
        label: [f"{head}, {view}" for head in _PLANE_TERMS["brain"] for view in views]
        for label, views in ((name, _BRAIN_PLANE_TERMS[name]) for name in BRAIN_PLANES)
    },
)
"""Prompts of the brain sub-planes, in the order of `fetalclip_edge.results.BRAIN_PLANES`."""
