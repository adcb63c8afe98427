"""Cosines of rows."""

from __future__ import annotations

import numpy as np
import pytest

from fetalclip_edge.cosines import row_cosines


def test_rows_of_any_shape_and_length_are_compared() -> None:
    one = np.array([[[3, 0], [0, 0]], [[1, 1], [0, 0]], [[1, 0], [0, 0]]], np.float32)
    other = np.array([[[7, 0], [0, 0]], [[1, 0], [0, 0]], [[-2, 0], [0, 0]]], np.float32)
    # By hand: the same direction, 45 degrees, the opposite
    assert row_cosines(one, other) == pytest.approx([1, np.sqrt(0.5), -1])


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_what_has_no_direction_is_no_number(bad: float) -> None:
    found = row_cosines(np.full((1, 2), bad, np.float32), np.ones((1, 2), np.float32))
    assert np.isnan(found).all()
