"""What becomes of scores and answers of spoiled pictures, in figures."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality import Spoiled, summary
from benchmarks.spoiling import SPOILING, shifted


def spoiled(frame: int, step: int, score: float, right: bool, distance: float = 0.5) -> Spoiled:
    return Spoiled("darker", step, frame, score, score, right, not right, distance)


def test_steps_falls_and_what_hangs_together() -> None:
    # Given a frame whose score falls with each step, and one whose score falls and rises again
    found = summary(
        [
            *(spoiled(0, 0, 1.0, True), spoiled(0, 1, 0.6, True), spoiled(0, 2, 0.2, False)),
            *(spoiled(1, 0, 0.8, True), spoiled(1, 1, 0.4, False), spoiled(1, 2, 0.5, False)),
        ]
    )
    first, second, third = found["steps"]["darker"]
    assert [step["score"] for step in (first, second, third)] == pytest.approx([0.9, 0.5, 0.35])
    assert [step["right"] for step in (first, second, third)] == [1.0, 0.5, 0.0]
    assert [step["poor"] for step in (first, second, third)] == [0.0, 0.5, 0.5]
    # Spearman's correlations are -1 and -0.5
    assert found["falls"]["darker"] == pytest.approx(-0.75)
    # The three that are right have the three highest scores, ranks 4 to 6 of 6
    assert found["overall"]["with_right"] == pytest.approx(0.8783, abs=1e-4)
    assert found["overall"]["with_distance"] == 0.0


@pytest.mark.parametrize("how", SPOILING)
def test_the_first_amount_leaves_a_picture_as_it_is(how: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (120, 160), dtype=np.uint8)
    _, spoil, amounts = SPOILING[how]
    np.testing.assert_array_equal(spoil(image, amounts[0]), image)
    assert all((spoil(image, amount) != image).any() for amount in amounts[1:])


def test_shifted_moves_to_the_right() -> None:
    image = np.arange(1, 11, dtype=np.uint8)[None]
    np.testing.assert_array_equal(shifted(image, 0.2)[0], [0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
