"""Captions for training: some of what is known of an image, put into a sentence of our own."""

from __future__ import annotations

import random

from training.facts import AGE_TOLERANCE_DAYS, PIXEL_SIZE_TOLERANCE, Facts
from training.wordings import (
    AGES,
    BRAIN_PLANE_TERMS,
    OPENINGS,
    PIXEL_SIZES,
    PLANE_TERMS,
    sentence,
    weeks_and_days,
)

__all__ = ["describe"]

# How often a known fact is mentioned; left out often enough that short prompts work as well.
_MENTION_BRAIN_PLANE, _MENTION_AGE, _MENTION_PIXEL_SIZE = 0.7, 0.7, 0.5

# How often a mentioned age is told in whole weeks, and how often the subject does not come first.
_WHOLE_WEEKS, _CLAUSE_FIRST = 0.2, 0.25


def describe(facts: Facts, rng: random.Random) -> tuple[str, Facts]:
    """Put some of the facts into a sentence.

    Args:
        facts: what is known of the image. A free caption is taken as it is.
        rng: draws the wording, the order and which facts are mentioned.

    Returns:
        The sentence, and the facts it claims, which `relations` finds true of `facts`. Numbers
        are claimed as the sentence states them: the gestational age in whole days, or the middle
        of the week where only weeks are told; the pixel size rounded to two decimals.

    Raises:
        ValueError: `facts` has neither a caption nor a plane.
    """
    if facts.caption is not None:
        return facts.caption, Facts(plane=None, caption=facts.caption)
    if facts.plane is None:
        raise ValueError(f"facts must have a plane or a caption to be described, not {facts}")
    subject = rng.choice(OPENINGS).format(rng.choice(PLANE_TERMS[facts.plane]))
    clauses: list[str] = []
    brain_plane = age = pixel_size = None
    if facts.brain_plane in BRAIN_PLANE_TERMS and rng.random() < _MENTION_BRAIN_PLANE:
        brain_plane = facts.brain_plane
        clauses.append(rng.choice(BRAIN_PLANE_TERMS[brain_plane]))
    if facts.gestational_age_days is not None and rng.random() < _MENTION_AGE:
        told, age = _tell_age(facts.gestational_age_days, rng)
        clauses.append(rng.choice(AGES).format(told))
    if facts.pixel_size_mm is not None and rng.random() < _MENTION_PIXEL_SIZE:
        rounded = round(facts.pixel_size_mm, 2)
        # What cannot be stated so that `relations` counts it as right is not mentioned.
        if rounded > 0 and abs(facts.pixel_size_mm / rounded - 1) <= PIXEL_SIZE_TOLERANCE.right:
            pixel_size = rounded
            clauses.append(rng.choice(PIXEL_SIZES).format(rounded))
    rng.shuffle(clauses)
    parts = [subject, *clauses]
    if clauses and rng.random() < _CLAUSE_FIRST:
        parts[0], parts[1] = parts[1], parts[0]
    return sentence(*parts), Facts(facts.plane, brain_plane, age, pixel_size)


def _tell_age(known: float, rng: random.Random) -> tuple[str, float]:
    """An age in words, and the days that they claim."""
    days = round(known)
    # "23 weeks" is true from 23 weeks + 0 days to + 6 days: three days about the middle.
    middle = days // 7 * 7 + 3
    if abs(known - middle) <= AGE_TOLERANCE_DAYS.right and rng.random() < _WHOLE_WEEKS:
        return f"{days // 7} weeks", float(middle)
    return weeks_and_days(days), float(days)
