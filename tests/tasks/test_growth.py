from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetalclip_edge.tasks.gestational_age import head_circumference_quantile
from fetalclip_edge.tasks.growth import CHARTS, age_from_circumference, chart_named


@pytest.mark.parametrize(
    ("chart", "mm", "weeks"),
    [
        # Hadlock et al. 1984, predicted menstrual age of a head circumference, to a tenth of a
        # week as scanners print it.
        ("hadlock", 100, 14.7),
        ("hadlock", 175, 20.0),
        ("hadlock", 250, 27.1),
        ("hadlock", 300, 33.3),
        # INTERGROWTH-21st: the 50th centile of 14, 20 and 30 weeks, from its equation in Python's
        # decimal.
        ("intergrowth", 97.88, 14.0),
        ("intergrowth", 172.48, 20.0),
        ("intergrowth", 278.39, 30.0),
        # WHO: as in the tests of its quantiles.
        ("who", 99.54, 14.0),
        ("who", 173.39, 20.0),
        ("who", 268.77, 200 / 7),
    ],
)
def test_the_charts_by_their_tables(chart: str, mm: float, weeks: float) -> None:
    assert chart_named(chart).days(mm) == pytest.approx(7 * weeks, abs=0.36)


@given(st.floats(106, 325))
def test_the_age_of_a_size_has_that_size_in_the_chart(mm: float) -> None:
    chart = chart_named("who")
    for age, quantile in ((chart.days, 0.5), (chart.low, 0.975), (chart.high, 0.025)):
        days = age(mm)
        if 98 < days < 294:  # no interval reaches beyond
            assert head_circumference_quantile(days, quantile) == pytest.approx(mm, abs=1e-5)


@pytest.mark.parametrize("name", ["who", "intergrowth"])
def test_beyond_the_days_of_an_interval_it_ends_there(name: str) -> None:
    chart = chart_named(name)
    assert [age(10.0) for age in (chart.days, chart.low, chart.high)] == [98] * 3
    assert [age(600.0) for age in (chart.days, chart.low, chart.high)] == [294] * 3


@pytest.mark.parametrize("chart", CHARTS)
@given(st.floats(105, 325))
def test_age_lies_in_its_interval_and_rises_with_size(chart: str, mm: float) -> None:
    age, larger = (age_from_circumference(each, 2.0, chart) for each in (mm, mm + 8))
    assert age is not None
    assert larger is not None
    assert age.low_days <= age.days <= age.high_days
    assert larger.days > age.days
    assert age.low_days >= 98
    assert age.high_days <= 294


def test_without_error_the_interval_is_that_of_biology() -> None:
    # 173.39 mm is the median of 140 days; on the day of `low` it is the 97.5 % quantile.
    age = age_from_circumference(173.388632473, 0.0, "who")
    assert age is not None
    assert age.days == 140
    assert head_circumference_quantile(age.low_days, 0.975) == pytest.approx(173.39, abs=1.0)
    assert head_circumference_quantile(age.high_days, 0.025) == pytest.approx(173.39, abs=1.0)


def test_an_error_of_measurement_widens_it() -> None:
    plain = age_from_circumference(200, 0.0)
    erring = age_from_circumference(200, 8.0)
    assert plain is not None
    assert erring is not None
    assert erring.days == plain.days
    assert erring.low_days < plain.low_days
    assert erring.high_days > plain.high_days


@pytest.mark.parametrize(
    ("mm", "two_sd_weeks"), [(140, 1.19), (200, 1.48), (260, 2.06), (310, 2.98), (340, 3.2)]
)
def test_spread_of_hadlocks_chart(mm: float, two_sd_weeks: float) -> None:
    # The bands of Hologic's Obstetrical References, "GA by HC - Hadlock1984".
    age = age_from_circumference(mm, 0.0, "hadlock")
    assert age is not None
    centimetres = mm / 10
    days = 7 * (8.96 + 0.540 * centimetres + 0.0003 * centimetres**3)
    half = 7 * two_sd_weeks * 1.96 / 2
    assert abs(age.days - days) <= 0.5
    assert abs(age.low_days - (days - half)) <= 0.51
    assert abs(age.high_days - min(days + half, 294)) <= 0.51
    assert age.method == "head circumference, Hadlock 1984"


@pytest.mark.parametrize("chart", CHARTS)
@pytest.mark.parametrize("mm", [40.0, 420.0])
def test_beyond_the_chart_no_age_is_told(chart: str, mm: float) -> None:
    assert age_from_circumference(mm, 2.0, chart) is None


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="who, intergrowth, hadlock"):
        age_from_circumference(200, 2.0, "hadlok")
    with pytest.raises(ValueError, match="mm must be a positive number"):
        age_from_circumference(-1, 2.0)
    with pytest.raises(ValueError, match="error_mm"):
        age_from_circumference(200, float("nan"))
