"""The words that captions and prompts share, so that zero-shot stays in distribution.

A sentence is a subject ("ultrasound of the fetal head") and clauses (the sub-plane, the gestational
age, the pixel size), in any order. The words are our own, and short: a sentence with every clause
takes at most 40 of CLIP's tokens, and the small text tower is the faster for it.
"""

from __future__ import annotations

__all__ = [
    "AGES",
    "BRAIN_PLANE_TERMS",
    "OPENINGS",
    "PIXEL_SIZES",
    "PLANE_TERMS",
    "sentence",
    "weeks_and_days",
]

PLANE_TERMS = {
    "abdomen": (
        "fetal abdomen",
        "fetal abdominal circumference plane",
        "fetus's abdomen with stomach and umbilical vein",
    ),
    "brain": ("fetal head", "fetal brain", "fetal head in axial section"),
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
"""What a plane is called, for each of `fetalclip_edge.results.PLANES`."""

BRAIN_PLANE_TERMS = {
    "trans-thalamic": ("trans-thalamic plane", "plane through the thalami and cavum"),
    "trans-cerebellum": ("trans-cerebellar plane", "plane through the cerebellum"),
    "trans-ventricular": ("trans-ventricular plane", "plane through the lateral ventricles"),
}
"""What a sub-plane is called, for each of `fetalclip_edge.results.BRAIN_PLANES`."""

OPENINGS = (
    "ultrasound image of the {}",
    "ultrasound of the {}",
    "B-mode image of the {}",
    "obstetric ultrasound, {}",
    "prenatal scan of the {}",
)
"""Subjects of a sentence; the plane's term goes into the braces."""

AGES = ("at {}", "{} gestation", "fetus of {}")
"""Clauses for a gestational age, written out as `weeks_and_days` does or in whole weeks."""

PIXEL_SIZES = ("pixel size {:.2f} mm", "{:.2f} mm per pixel", "{:.2f} mm/pixel")
"""Clauses for the pixel size of the network's input, as exact as FetalCLIP's evaluation has it."""


def weeks_and_days(days: int) -> str:
    """A gestational age as the field writes it out: "23 weeks and 4 days"."""
    weeks, rest = divmod(days, 7)
    return f"{weeks} weeks and {rest} day{'' if rest == 1 else 's'}"


def sentence(*parts: str) -> str:
    """Join a subject and clauses, in the order given: "At 14 weeks and 1 day, ultrasound ...."."""
    text = ", ".join(parts).replace(", at ", " at ")
    return f"{text[0].upper()}{text[1:]}."
