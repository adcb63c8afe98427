from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetalclip_edge.tasks.gestational_age import (
    MAX_DAYS,
    MIN_DAYS,
    from_similarities,
    head_circumference_quantile,
)


@pytest.mark.parametrize(
    ("days", "quantile", "millimetres"),
    # By hand from the coefficients in the documentation, with exact fractions and Python's decimal.
    [
        (98, 0.025, 85.639918503),
        (98, 0.5, 99.536272298),
        (98, 0.975, 112.274759230),
        (140, 0.025, 157.005650525),
        (140, 0.5, 173.388632473),
        (140, 0.975, 188.454791553),
        (200, 0.025, 247.916476584),
        (200, 0.5, 268.771982657),
        (200, 0.975, 288.951783726),
        (272, 0.025, 311.907016818),
        (272, 0.5, 336.030123106),
        (272, 0.975, 358.337783351),
    ],
)
def test_the_growth_curve_by_hand(days: int, quantile: float, millimetres: float) -> None:
    assert head_circumference_quantile(days, quantile) == pytest.approx(millimetres, rel=1e-9)


@pytest.mark.parametrize("weeks", range(16, 39))
def test_the_growth_curve_lies_where_intergrowth_21st_lies(weeks: int) -> None:
    # Papageorghiou et al. 2014, Lancet 384:869: mean and SD of head circumference in mm. Another
    # population and another method, so the two charts agree in the neighbourhood only.
    log = math.log(weeks)
    mean = -28.2849 + 1.69267 * weeks**2 - 0.397485 * weeks**2 * log
    deviation = (
        1.98735
        + 0.0136772 * weeks**3
        - 0.00726264 * weeks**3 * log
        + 0.000976253 * weeks**3 * log**2
    )
    for quantile, z in ((0.025, -1.96), (0.5, 0.0), (0.975, 1.96)):
        found = head_circumference_quantile(7 * weeks, quantile)
        assert found == pytest.approx(mean + z * deviation, rel=0.03)


def test_heads_grow_and_quantiles_never_cross() -> None:
    curves = np.array(
        [
            [head_circumference_quantile(day, quantile) for day in range(MIN_DAYS, MAX_DAYS + 1)]
            for quantile in (0.025, 0.5, 0.975)
        ]
    )
    assert (np.diff(curves, axis=1) > 0).all()
    assert (np.diff(curves, axis=0) > 0).all()


def test_the_range_is_fourteen_weeks_to_thirty_eight_and_six_days() -> None:
    assert (MIN_DAYS, MAX_DAYS) == (98, 272)


@pytest.mark.parametrize("quantile", [0.0, 0.1, 0.95, 50, -0.5, math.nan])
def test_a_quantile_without_a_curve_is_refused(quantile: float) -> None:
    with pytest.raises(ValueError, match="quantile"):
        head_circumference_quantile(140, quantile)


@pytest.mark.parametrize("days", [0, -1, math.nan, math.inf])
def test_days_that_are_no_age_are_refused(days: float) -> None:
    with pytest.raises(ValueError, match="days"):
        head_circumference_quantile(days, 0.5)


@pytest.mark.parametrize(
    ("top_n", "expected"),
    # The most similar are, in order, 104, 100, 103, 98, 101, 102, 99.
    [
        (1, 104),  # [104]
        (2, 104),  # [100, 104]: the upper of two
        (3, 103),  # [100, 103, 104]
        (4, 103),  # [98, 100, 103, 104]
        (5, 101),  # [98, 100, 101, 103, 104]
        (7, 101),  # all
        (15, 101),  # all there are
    ],
)
def test_the_median_of_the_most_similar_by_hand(top_n: int, expected: int) -> None:
    days = [98, 99, 100, 101, 102, 103, 104]
    similarities = [0.4, 0.1, 0.6, 0.3, 0.2, 0.5, 0.7]
    assert from_similarities(np.array(similarities), np.array(days), top_n) == expected


def test_fifteen_are_looked_at_unless_told_otherwise() -> None:
    days = np.arange(MIN_DAYS, MAX_DAYS + 1)
    # Falling with age: the most similar fifteen are 98 to 112 days, and 105 is their eighth.
    answer = from_similarities(np.linspace(0.5, 0.1, len(days)), days)
    assert answer == 105
    assert type(answer) is int


def test_scattered_candidates_are_sorted_by_age_not_by_similarity() -> None:
    assert from_similarities([0.9, 0.8, 0.7], [250, 100, 120], top_n=3) == 120


@given(st.data())
def test_the_rule_agrees_with_a_naive_one(data: st.DataObject) -> None:
    number = data.draw(st.integers(1, 60))
    similarities = data.draw(
        st.lists(st.floats(-1, 1, width=32), min_size=number, max_size=number, unique=True)
    )
    days = data.draw(
        st.lists(st.integers(MIN_DAYS, MAX_DAYS), min_size=number, max_size=number, unique=True)
    )
    top_n = data.draw(st.integers(1, 80))

    left = dict(zip(days, similarities, strict=True))
    taken = []
    while left and len(taken) < top_n:
        best = max(left, key=lambda day: left[day])
        taken.append(best)
        del left[best]
    taken.sort()
    assert from_similarities(similarities, days, top_n) == taken[len(taken) // 2]


@pytest.mark.parametrize(
    ("similarities", "days", "top_n", "named"),
    [
        ([], [], 15, "similarities"),
        ([0.1, 0.2], [100], 15, "one length"),
        ([[0.1, 0.2]], [[100, 101]], 15, "one-dimensional"),
        ([0.1, math.nan], [100, 101], 15, "finite"),
        ([0.1, math.inf], [100, 101], 15, "finite"),
        ([0.1, 0.2], [100, 101], 0, "top_n"),
        ([0.1, 0.2], [100, 101], -3, "top_n"),
    ],
)
def test_input_without_an_answer_is_refused(
    similarities: list[float], days: list[int], top_n: int, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        from_similarities(similarities, days, top_n)
