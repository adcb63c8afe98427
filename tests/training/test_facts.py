"""Three-valued truth of captions: literal cases, and laws that hold for any facts."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetalclip_edge.results import BRAIN_PLANES, PLANES
from training.captions import describe
from training.facts import CONTRADICTS, SUPPORTS, UNKNOWN, Facts, relations

BRAIN = Facts("brain")


def plainly(image: Facts, caption: Facts) -> int:
    """The definition for one pair, in plain words and Python."""
    verdicts = []
    if caption.plane is not None:
        unknown = image.plane is None
        verdicts.append(0 if unknown else 1 if image.plane == caption.plane else -1)
    if caption.brain_plane is not None:
        unknown = image.brain_plane is None
        verdicts.append(0 if unknown else 1 if image.brain_plane == caption.brain_plane else -1)
    if (image.caption is None) != (caption.caption is None):
        verdicts.append(0)
    elif image.caption != caption.caption:
        verdicts.append(-1)
    if caption.gestational_age_days is not None:
        if image.gestational_age_days is None:
            verdicts.append(0)
        else:
            days = abs(image.gestational_age_days - caption.gestational_age_days)
            verdicts.append(1 if days <= 3 else -1 if days > 7 else 0)
    if caption.pixel_size_mm is not None:
        if image.pixel_size_mm is None:
            verdicts.append(0)
        else:
            share = abs(image.pixel_size_mm / caption.pixel_size_mm - 1)
            verdicts.append(1 if share <= 0.05 else -1 if share > 0.15 else 0)
    return min(verdicts, default=1)


def anything() -> st.SearchStrategy[Facts]:
    """Facts of few values, so that many agree, with and without each."""
    return st.builds(
        Facts,
        st.none() | st.sampled_from(["brain", "femur", "brain plane"]),
        # Names of one kind may be those of another.
        st.none() | st.sampled_from(["trans-thalamic", "brain", "other"]),
        st.none() | st.sampled_from([160.0, 163.0, 164, 167.0, 168.0]) | st.floats(98, 272),
        st.none() | st.sampled_from([0.2, 0.21, 0.22, 0.23, 0.24]) | st.floats(0.01, 2.0),
        st.none() | st.sampled_from(["femur", "brain", "a longer caption, of the femur"]),
    )


def facts() -> st.SearchStrategy[Facts]:
    return st.builds(
        Facts,
        st.sampled_from(PLANES),
        st.none() | st.sampled_from((*BRAIN_PLANES, "other")),
        st.none() | st.floats(98, 272),
        st.none() | st.floats(0.01, 2.0),
    )


@pytest.mark.parametrize(
    ("image", "caption", "verdict"),
    [
        (Facts("femur"), Facts("femur"), SUPPORTS),
        (Facts("femur"), Facts("brain"), CONTRADICTS),
        # A sub-plane that nobody labelled is neither true nor false.
        (BRAIN, Facts("brain", "trans-thalamic"), UNKNOWN),
        (Facts("brain", "trans-thalamic"), Facts("brain", "trans-thalamic"), SUPPORTS),
        (Facts("brain", "trans-thalamic"), Facts("brain", "trans-cerebellum"), CONTRADICTS),
        (Facts("brain", "other"), Facts("brain", "trans-cerebellum"), CONTRADICTS),
        # Known of the image, but not claimed.
        (Facts("brain", "trans-thalamic", 160, 0.2), BRAIN, SUPPORTS),
        # Age: right up to 3 days, wrong beyond 7, and between them nobody says.
        (Facts("brain", None, 160), Facts("brain", None, 163), SUPPORTS),
        (Facts("brain", None, 160), Facts("brain", None, 156.9), UNKNOWN),
        (Facts("brain", None, 160), Facts("brain", None, 167), UNKNOWN),
        (Facts("brain", None, 160), Facts("brain", None, 167.1), CONTRADICTS),
        (BRAIN, Facts("brain", None, 160), UNKNOWN),
        # Pixel size: right up to 5 % of what is claimed, wrong beyond 15 %.
        (Facts("brain", None, None, 0.208), Facts("brain", None, None, 0.2), SUPPORTS),
        (Facts("brain", None, None, 0.22), Facts("brain", None, None, 0.2), UNKNOWN),
        (Facts("brain", None, None, 0.16), Facts("brain", None, None, 0.2), CONTRADICTS),
        (BRAIN, Facts("brain", None, None, 0.2), UNKNOWN),
        # One false claim beats an unknown and a true one.
        (Facts("brain", None, 160), Facts("brain", "trans-thalamic", 200), CONTRADICTS),
        (Facts("brain", None, 160), Facts("brain", "trans-thalamic", 160), UNKNOWN),
        (Facts("femur"), Facts("brain", "trans-thalamic", 160, 0.2), CONTRADICTS),
    ],
)
def test_a_caption_is_true_false_or_unknown(image: Facts, caption: Facts, verdict: int) -> None:
    assert relations([image], [caption]).tolist() == [[verdict]]


def test_rows_are_images_and_columns_are_captions() -> None:
    images = [Facts("brain", "trans-thalamic"), Facts("femur")]
    captions = [Facts("brain"), Facts("brain", "trans-thalamic"), Facts("femur")]
    table = relations(images, captions)
    assert table.dtype == np.int8
    assert table.tolist() == [[1, 1, -1], [-1, -1, 1]]


@given(st.lists(facts(), min_size=1, max_size=6))
def test_an_image_supports_all_that_is_known_of_it(images: list[Facts]) -> None:
    assert (np.diag(relations(images, images)) == SUPPORTS).all()


@given(st.lists(facts(), min_size=1, max_size=6), st.integers(0, 2**32))
def test_an_image_supports_the_caption_made_from_it(images: list[Facts], seed: int) -> None:
    rng = random.Random(seed)
    claims = [describe(image, rng)[1] for image in images]
    assert (np.diag(relations(images, claims)) == SUPPORTS).all()


@given(facts(), facts(), st.sampled_from(["brain_plane", "gestational_age_days", "pixel_size_mm"]))
def test_claiming_less_is_never_less_true(image: Facts, caption: Facts, dropped: str) -> None:
    less = replace(caption, **{dropped: None})  # type: ignore[arg-type]
    [[whole, part]] = relations([image], [caption, less]).tolist()
    assert part >= whole


@given(st.lists(anything(), max_size=40), st.lists(anything(), max_size=8))
def test_the_table_is_that_of_the_definition(images: list[Facts], captions: list[Facts]) -> None:
    table = relations(images, captions)
    assert table.shape == (len(images), len(captions))
    assert table.dtype == np.int8
    assert table.tolist() == [[plainly(i, c) for c in captions] for i in images]


@given(st.lists(facts(), min_size=2, max_size=6), st.lists(facts(), min_size=2, max_size=6))
def test_a_pair_is_judged_alone(images: list[Facts], captions: list[Facts]) -> None:
    table = relations(images, captions)
    for row, image in enumerate(images):
        for column, caption in enumerate(captions):
            assert table[row, column] == relations([image], [caption])[0, 0]


def test_free_captions_are_told_apart_by_their_words() -> None:
    free = [Facts(None, caption=text) for text in ("femur", "heart", "femur")]
    expected = [[1, -1, 1], [-1, 1, -1], [1, -1, 1]]
    assert relations(free, free).tolist() == expected


def test_nobody_knows_how_free_captions_stand_to_labels() -> None:
    free, labelled = Facts(None, caption="femur"), Facts("femur")
    assert relations([free, labelled], [free, labelled]).tolist() == [[1, 0], [0, 1]]
