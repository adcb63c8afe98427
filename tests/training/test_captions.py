"""Captions claim what they say, say only what is known, and fit the text tower."""

from __future__ import annotations

import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetalclip_edge.results import BRAIN_PLANES, PLANES
from training.captions import describe
from training.facts import SUPPORTS, Facts, relations
from training.models import ModelConfig
from training.wordings import (
    AGES,
    BRAIN_PLANE_TERMS,
    OPENINGS,
    PIXEL_SIZES,
    PLANE_TERMS,
    sentence,
    weeks_and_days,
)

from open_clip.tokenizer import SimpleTokenizer  # isort: skip  (after training.models)

# What a reader would look for, written apart from the module's own terms.
SIGNS = {
    "abdomen": ("abdom",),
    "brain": ("head", "brain"),
    "femur": ("femur", "thigh"),
    "thorax": ("thorax", "chest", "heart"),
    "cervix": ("cervix", "cervical"),
    "other": ("no standard plane", "non-standard", "outside the standard"),
}
BRAIN_SIGNS = {
    "trans-thalamic": ("thalam",),
    "trans-cerebellum": ("cerebell",),
    "trans-ventricular": ("ventric",),
}
FULL = Facts("brain", "trans-thalamic", 165.0, 0.2137)


def captions(facts: Facts, count: int) -> list[tuple[str, Facts]]:
    rng = random.Random(1)
    return [describe(facts, rng) for _ in range(count)]


@given(
    st.sampled_from(PLANES),
    st.none() | st.floats(98, 272),
    st.none() | st.floats(0.001, 3),
    st.none() | st.sampled_from((*BRAIN_PLANES, "other")),
    st.integers(0, 2**32),
)
def test_a_caption_claims_only_what_is_known_and_says_it(
    plane: str, age: float | None, pixel: float | None, part: str | None, seed: int
) -> None:
    known = Facts(plane, part if plane == "brain" else None, age, pixel)
    text, claimed = describe(known, random.Random(seed))
    assert relations([known], [claimed]).tolist() == [[SUPPORTS]]
    text = text.lower()

    assert claimed.plane == plane
    assert any(sign in text for sign in SIGNS[plane])

    assert claimed.brain_plane in (None, known.brain_plane)
    for label, signs in BRAIN_SIGNS.items():
        assert any(sign in text for sign in signs) == (claimed.brain_plane == label)

    assert ("weeks" in text) == (claimed.gestational_age_days is not None)
    if claimed.gestational_age_days is not None:
        assert age is not None
        days = round(age)
        exact = f"{days // 7} weeks and {days % 7} day"
        assert exact in text or (f"{days // 7} weeks" in text and " day" not in text)
        middle = days // 7 * 7 + 3
        assert claimed.gestational_age_days == (days if exact in text else middle)

    assert (" mm" in text) == (claimed.pixel_size_mm is not None)
    if claimed.pixel_size_mm is not None:
        assert pixel is not None
        assert claimed.pixel_size_mm == float(f"{pixel:.2f}")
        assert f"{pixel:.2f} mm" in text


def test_every_fact_is_mentioned_sometimes_and_left_out_sometimes() -> None:
    claims = [claimed for _, claimed in captions(FULL, 200)]
    for name in ("brain_plane", "gestational_age_days", "pixel_size_mm"):
        said = sum(getattr(claim, name) is not None for claim in claims)
        assert 60 < said < 180, name


def test_wordings_and_orders_vary() -> None:
    texts = {text for text, _ in captions(FULL, 20_000)}
    for wanted in (
        "Ultrasound of the fetal head.",
        "Ultrasound of the fetal head, trans-thalamic plane.",
        "Ultrasound of the fetal head at 23 weeks and 4 days.",
        "At 23 weeks and 4 days, ultrasound of the fetal head.",
        "Obstetric ultrasound, fetal brain, 23 weeks gestation.",
        "B-mode image of the fetal brain, 0.21 mm per pixel.",
        "0.21 mm/pixel, prenatal scan of the fetal brain.",
        "Ultrasound of the fetal head, trans-thalamic plane, 0.21 mm/pixel.",
        "Ultrasound of the fetal head, 0.21 mm/pixel, trans-thalamic plane.",
    ):
        assert wanted in texts


@pytest.mark.parametrize(
    ("age", "told"),
    [
        (161.0, {"23 weeks", "23 weeks and 0 days"}),
        (167.0, {"23 weeks", "23 weeks and 6 days"}),
        # More than three days from the middle of every week: only the day can be told.
        (167.4, {"23 weeks and 6 days"}),
        (167.6, {"24 weeks and 0 days"}),
    ],
)
def test_whole_weeks_are_told_within_their_week(age: float, told: set[str]) -> None:
    texts = {text.split("fetus of ")[-1] for text, _ in captions(Facts("femur", None, age), 800)}
    assert {text.rstrip(".") for text in texts if text[0].isdigit() and "," not in text} == told


@pytest.mark.parametrize("pixel_size", [0.001, 0.0149, 0.054])
def test_a_pixel_size_that_two_decimals_do_not_tell_is_left_out(pixel_size: float) -> None:
    found = captions(Facts("femur", pixel_size_mm=pixel_size), 50)
    assert all(claimed.pixel_size_mm is None and "mm" not in text for text, claimed in found)


def test_a_free_caption_is_taken_as_it_is() -> None:
    facts = Facts(plane="brain", gestational_age_days=165, caption="BPD 58 mm, r. Ventrikel ")
    text, claimed = describe(facts, random.Random(0))
    assert text == "BPD 58 mm, r. Ventrikel "
    assert claimed == Facts(plane=None, caption="BPD 58 mm, r. Ventrikel ")
    assert relations([facts], [claimed]).tolist() == [[SUPPORTS]]


def test_facts_that_name_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="must have a plane or a caption"):
        describe(Facts(plane=None, gestational_age_days=165), random.Random(0))


def test_a_seed_gives_the_same_captions_again() -> None:
    assert captions(FULL, 20) == captions(FULL, 20)


def test_every_sentence_fits_the_text_tower() -> None:
    # The tokenizer cuts what is too long without a word.
    context = ModelConfig().text_context
    tokenizer = SimpleTokenizer(context_length=2 * context)
    terms = [term for options in PLANE_TERMS.values() for term in options]
    views = [view for options in BRAIN_PLANE_TERMS.values() for view in options]
    rows = list(product(OPENINGS, terms, [*views, None], AGES, PIXEL_SIZES))

    def longest(pixel_size_mm: float) -> int:
        texts = []
        for opening, term, view, age, pixel in rows:
            if view is None or term in PLANE_TERMS["brain"]:
                parts = [opening.format(term), *([view] if view else [])]
                parts += [age.format("38 weeks and 6 days"), pixel.format(pixel_size_mm)]
                texts.append(sentence(*parts))
        assert len(texts) > 1000
        return int((tokenizer(texts) != 0).sum(dim=1).max())

    assert longest(0.37) <= 40
    assert longest(123.45) <= context


@pytest.mark.parametrize(
    ("days", "text"),
    [
        (98, "14 weeks and 0 days"),
        (99, "14 weeks and 1 day"),
        (165, "23 weeks and 4 days"),
        (272, "38 weeks and 6 days"),
        (3, "0 weeks and 3 days"),
    ],
)
def test_ages_are_written_in_weeks_and_days(days: int, text: str) -> None:
    assert weeks_and_days(days) == text


def test_every_label_has_its_terms() -> None:
    assert tuple(PLANE_TERMS) == PLANES
    assert tuple(BRAIN_PLANE_TERMS) == BRAIN_PLANES
