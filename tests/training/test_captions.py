"""Captions claim what is known, and say what they claim; prompts keep the order of the scores."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetalclip_edge.results import BRAIN_PLANES, PLANES
from training.captions import (
    BRAIN_PLANE_PROMPTS,
    PLANE_PROMPTS,
    PromptSet,
    describe,
    weeks_and_days,
)
from training.facts import Facts
from training.models import ModelConfig

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


@given(
    st.sampled_from(PLANES),
    st.none() | st.floats(98, 272),
    st.none() | st.floats(0.05, 0.5),
    st.none() | st.sampled_from((*BRAIN_PLANES, "other")),
    st.integers(0, 2**32),
)
def test_a_caption_claims_only_what_is_known_and_says_it(
    plane: str, age: float | None, pixel: float | None, part: str | None, seed: int
) -> None:
    known = Facts(plane, part if plane == "brain" else None, age, pixel)
    text, claimed = describe(known, random.Random(seed))
    assert claimed.plane == plane
    assert any(sign in text for sign in SIGNS[plane])
    for name in ("brain_plane", "gestational_age_days", "pixel_size_mm"):
        assert getattr(claimed, name) in (None, getattr(known, name))
    for label, signs in BRAIN_SIGNS.items():
        assert any(sign in text for sign in signs) == (claimed.brain_plane == label)
    assert ("weeks and" in text) == (claimed.gestational_age_days is not None)
    if claimed.gestational_age_days is not None:
        days = round(claimed.gestational_age_days)
        assert f"at {days // 7} weeks and {days % 7} day" in text
    assert ("pixel size" in text) == (claimed.pixel_size_mm is not None)
    if claimed.pixel_size_mm is not None:
        assert f"pixel size {claimed.pixel_size_mm:.2f} mm" in text
    assert text.endswith(".")


def test_every_fact_is_mentioned_sometimes_and_left_out_sometimes() -> None:
    rng = random.Random(1)
    claims = [describe(FULL, rng)[1] for _ in range(200)]
    for name in ("brain_plane", "gestational_age_days", "pixel_size_mm"):
        said = sum(getattr(claim, name) is not None for claim in claims)
        assert 60 < said < 180, name


def test_a_seed_gives_the_same_captions_again() -> None:
    once, again = random.Random(5), random.Random(5)
    assert [describe(FULL, once) for _ in range(20)] == [describe(FULL, again) for _ in range(20)]


def test_the_longest_caption_fits_the_text_tower() -> None:
    # The tokenizer cuts what is too long without a word.
    context = ModelConfig().text_context
    tokenizer = SimpleTokenizer(context_length=2 * context)
    rng = random.Random(0)
    parts = [replace(FULL, brain_plane=part, gestational_age_days=272) for part in BRAIN_PLANES]
    texts = [describe(facts, rng)[0] for facts in parts for _ in range(400)]
    texts += [
        t for s in (PLANE_PROMPTS, BRAIN_PLANE_PROMPTS) for p in s.prompts.values() for t in p
    ]
    assert int((tokenizer(texts) != 0).sum(dim=1).max()) <= context


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


def test_prompts_come_in_the_order_of_the_scores() -> None:
    assert PLANE_PROMPTS.labels == PLANES
    assert BRAIN_PLANE_PROMPTS.labels == BRAIN_PLANES
    assert (PLANE_PROMPTS.name, BRAIN_PLANE_PROMPTS.name) == ("planes", "brain_planes")


def test_every_prompt_names_its_class_and_belongs_to_no_other() -> None:
    for prompts, signs in ((PLANE_PROMPTS, SIGNS), (BRAIN_PLANE_PROMPTS, BRAIN_SIGNS)):
        for label, texts in prompts.prompts.items():
            assert all(any(sign in text for sign in signs[label]) for text in texts)
        every = [text for texts in prompts.prompts.values() for text in texts]
        assert len(every) == len(set(every))


def test_the_hash_changes_with_a_word_and_with_the_order() -> None:
    prompts = PromptSet("planes", {"brain": ("A head.",), "femur": ("A bone.",)})
    # sha256sum of [["brain", ["A head."]], ["femur", ["A bone."]]]
    expected = "54e51b06d9da4bf17ca4fcdd5ba74256adac351afc571878de82c3c1ce4c06c3"
    assert prompts.sha256 == expected
    word = PromptSet("planes", {"brain": ("A skull.",), "femur": ("A bone.",)})
    order = PromptSet("planes", {"femur": ("A bone.",), "brain": ("A head.",)})
    assert len({prompts.sha256, word.sha256, order.sha256}) == 3
