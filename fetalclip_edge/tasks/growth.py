"""Gestational age from head circumference, by published charts, with an interval.

The interval adds two things: fetuses of one age differ in size, and measurements err.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from fetalclip_edge.results import GestationalAge
from fetalclip_edge.tasks.gestational_age import head_circumference_quantile

__all__ = ["CHARTS", "DEFAULT_CHART", "Chart", "age_from_circumference", "chart_named"]

DEFAULT_CHART = "who"

_Z = 1.959964
_SHORTEST, _LONGEST = 14 * 7.0, 42 * 7.0
"""Days that an interval may reach, from the first of the charts to the end of a pregnancy."""

_CHORDS = 2
"""Steps along the chord of a day, from where the chord has a size to where the curve has it. The
chord itself is wrong by up to a 400th of a day; either step leaves a hundredth of what was wrong.
"""


@dataclass(frozen=True, slots=True)
class Chart:
    """How head circumference and age go together in one study.

    Attributes:
        name: to choose it by.
        title: as an answer names it.
        days: circumference in millimetres -> the expected age, in days.
        low: circumference -> the age of which 97.5 % are smaller: as young as this, it is large.
        high: circumference -> the age of which 2.5 % are smaller.
        youngest, oldest: days between which the chart holds.
    """

    name: str
    title: str
    days: Callable[[float], float]
    low: Callable[[float], float]
    high: Callable[[float], float]
    youngest: float
    oldest: float

    def growth(self, mm: float) -> float:
        """Millimetres a day at a circumference."""
        return 2.0 / (self.days(mm + 1) - self.days(mm - 1))


def _inverse(curve: Callable[[float], float]) -> Callable[[float], float]:
    """Circumference -> the day on which a rising curve has it, within the days of an interval."""

    @cache
    def by_day() -> list[float]:
        return [curve(_SHORTEST + day) for day in range(round(_LONGEST - _SHORTEST) + 1)]

    def day(mm: float) -> float:
        sizes = by_day()
        after = bisect_left(sizes, mm)
        if not 0 < after < len(sizes):
            return _LONGEST if after else _SHORTEST
        before = sizes[after - 1]
        a_day = sizes[after] - before
        found = _SHORTEST + after - 1 + (mm - before) / a_day
        for _ in range(_CHORDS):
            found += (mm - curve(found)) / a_day
        return found

    return day


def _who() -> Chart:
    """WHO: Kiserud et al. 2017, PLoS Med 14(1):e1002220, 14 to 40 weeks."""

    def at(quantile: float) -> Callable[[float], float]:
        return _inverse(lambda days: head_circumference_quantile(days, quantile))

    return Chart("who", "WHO 2017", at(0.5), at(0.975), at(0.025), 14 * 7.0, 40 * 7.0)


def _intergrowth_mean_sd(days: float) -> tuple[float, float]:
    """INTERGROWTH-21st: Papageorghiou et al. 2014, Lancet 384:869, in mm; 14 to 40 weeks."""
    weeks = days / 7
    log = math.log(weeks)
    mean = -28.2849 + 1.69267 * weeks**2 - 0.397485 * weeks**2 * log
    deviation = (
        1.98735
        + 0.0136772 * weeks**3
        - 0.00726264 * weeks**3 * log
        + 0.000976253 * weeks**3 * log**2
    )
    return mean, deviation


def _intergrowth() -> Chart:
    def at(z: float) -> Callable[[float], float]:
        def curve(days: float) -> float:
            mean, deviation = _intergrowth_mean_sd(days)
            return mean + z * deviation

        return _inverse(curve)

    return Chart(
        "intergrowth", "INTERGROWTH-21st 2014", at(0.0), at(_Z), at(-_Z), 14 * 7.0, 40 * 7.0
    )


_HADLOCK_TWO_SD_WEEKS = ((18, 1.19), (24, 1.48), (30, 2.06), (36, 2.98), (math.inf, 3.20))
"""Up to so many weeks of age, two standard deviations of it, in weeks.

As a scanner's maker prints them beside this regression (Hologic, SuperSonic MACH, Obstetrical
References, PM.LAB.175-A, 2020; there the bands end at 144, 219, 280 and 325 mm, up to 1.3 weeks
later than here, where the next and wider one begins sooner).
"""


def _hadlock_days(mm: float) -> float:
    """Hadlock et al. 1984, Radiology 152:497, 14 to 42 weeks; a regression of age on size."""
    centimetres = mm / 10
    return 7 * (8.96 + 0.540 * centimetres + 0.0003 * centimetres**3)


def _hadlock_spread(mm: float) -> float:
    """Half of the interval of biology, in days."""
    weeks = _hadlock_days(mm) / 7
    two = next(spread for upper, spread in _HADLOCK_TWO_SD_WEEKS if weeks < upper)
    return 7 * two * _Z / 2


def _hadlock() -> Chart:
    return Chart(
        "hadlock",
        "Hadlock 1984",
        _hadlock_days,
        lambda mm: _hadlock_days(mm) - _hadlock_spread(mm),
        lambda mm: _hadlock_days(mm) + _hadlock_spread(mm),
        14 * 7.0,
        42 * 7.0,
    )


CHARTS: Mapping[str, Chart] = {c.name: c for c in (_who(), _intergrowth(), _hadlock())}
"""The charts by name: "who", "intergrowth" and "hadlock"."""


def chart_named(name: str) -> Chart:
    """A chart by its name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in CHARTS:
        raise ValueError(f"chart must be one of {', '.join(CHARTS)}, not {name!r}")
    return CHARTS[name]


def age_from_circumference(
    mm: float, error_mm: float, chart: str = DEFAULT_CHART
) -> GestationalAge | None:
    """Gestational age of a head.

    Args:
        mm: head circumference in millimetres.
        error_mm: standard deviation of the measurement, in millimetres.
        chart: "who", "intergrowth" or "hadlock".

    Returns:
        The age with its 95 % interval, or None where the head is smaller or larger than the chart
        tells of. No interval reaches beyond 14 and 42 weeks.

    Raises:
        ValueError: there is no such chart, or a length is not a positive number.
    """
    used = chart_named(chart)
    if not (math.isfinite(mm) and mm > 0):
        raise ValueError(f"mm must be a positive number, not {mm!r}")
    if not (math.isfinite(error_mm) and error_mm >= 0):
        raise ValueError(f"error_mm must be a number of at least 0, not {error_mm!r}")
    days = used.days(mm)
    if not used.youngest + 1e-3 < days < used.oldest - 1e-3:
        return None
    of_measuring = _Z * error_mm / used.growth(mm)
    low = days - math.hypot(days - used.low(mm), of_measuring)
    high = days + math.hypot(used.high(mm) - days, of_measuring)
    return GestationalAge(
        days=round(days),
        low_days=round(max(low, _SHORTEST)),
        high_days=round(min(high, _LONGEST)),
        method=f"head circumference, {used.title}",
    )
