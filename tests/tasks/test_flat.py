from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetalclip_edge.tasks.quality import is_flat


@given(st.floats(0.2, 8), st.integers(0, 5), st.integers(1, 400), st.booleans())
def test_flat_is_what_varies_little_in_the_rows_looked_at(
    spread: float, seed: int, height: int, colour: bool
) -> None:
    rng = np.random.default_rng(seed)
    shape = (height, 300, 3) if colour else (height, 300)
    image = np.clip(rng.normal(80, spread, shape), 0, 255).astype(np.uint8)
    step = max(1, height // 32)
    deviation = image[step // 2 :: step].astype(float).std(axis=(0, 1)).max()
    assert is_flat(image) == (deviation < 2.0)


@given(st.floats(0.2, 8), st.integers(0, 5), st.integers(1, 400), st.integers(1, 299))
def test_what_is_masked_does_not_count(spread: float, seed: int, height: int, edge: int) -> None:
    # Given a picture beside which there is something bright, under a mask
    rng = np.random.default_rng(seed)
    image = np.clip(rng.normal(80, spread, (height, 300)), 0, 255).astype(np.uint8)
    image[:, edge:] = rng.integers(0, 256, (height, 300 - edge))
    mask = np.full((height, 300), 255, np.uint8)
    mask[:, edge:] = 0
    # Then it is flat as the picture alone is
    step = max(1, height // 32)
    deviation = image[step // 2 :: step, :edge].astype(float).std()
    assert is_flat(image, mask) == (deviation < 2.0)


def test_a_frame_that_is_masked_altogether_shows_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (300, 400)).astype(np.uint8)
    assert is_flat(image, np.zeros_like(image))


@pytest.mark.parametrize("row", [0, 100, 200, 299])
def test_a_bright_stripe_is_no_flat_picture(row: int) -> None:
    image = np.full((300, 400), 20, np.uint8)
    assert is_flat(image)
    image[max(0, row - 10) : row + 10] = 200
    assert not is_flat(image)
