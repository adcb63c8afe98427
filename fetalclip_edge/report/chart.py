"""Where a head lies on its growth chart, as a small SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape

from fetalclip_edge.report.data import ExamReport
from fetalclip_edge.tasks.growth import Chart, chart_named
from fetalclip_edge.words import weeks

__all__ = ["growth_chart"]

_WIDTH, _HEIGHT = 336.0, 232.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 28.0, 298.0, 6.0, 200.0
_LOW_MM, _HIGH_MM = 60.0, 380.0
_STEP_MM = 4
_WEEKS = range(14, 43, 4)


def growth_chart(report: ExamReport) -> str:
    """An SVG of the circumference against the chart's middle and 95 % curves.

    The age follows from the circumference, so the mark lies on the middle curve; what there is to
    see is the interval, and where in the pregnancy the head is.

    Returns:
        The element, or "" where there is no age.
    """
    head, age = report.head, report.age
    if head is None or head.head_circumference_mm is None or age is None:
        return ""
    chart, mm = chart_named(report.chart), head.head_circumference_mm
    across = _Axis(chart.youngest, chart.oldest, _LEFT, _RIGHT)
    up = _Axis(_LOW_MM, _HIGH_MM, _BOTTOM, _TOP)
    # A chart tells the age of a size: the oldest of a size are its small ones.
    smallest, middle, largest = (
        [(across(day), up(size)) for day, size in _curve(chart, curve)]
        for curve in (chart.high, chart.days, chart.low)
    )
    x, y = across(age.days), up(mm)
    low, high = across(age.low_days), across(age.high_days)
    words = (
        f"{chart.title}: {mm:.0f} mm at {weeks(age.days)} weeks, "
        f"95 % {weeks(age.low_days)} to {weeks(age.high_days)}"
    )
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img">',
        f"<title>{escape(words)}</title>",
        *_grid(across, up),
        f'<path class="band" d="{_path([*smallest, *reversed(largest)])} Z"/>',
        *(f'<path class="edge" d="{_path(curve)}"/>' for curve in (smallest, largest)),
        f'<path class="middle" d="{_path(middle)}"/>',
        *_names(smallest, middle, largest),
        f'<path class="interval" d="M{low:.1f} {y:.1f} H{high:.1f} '
        f'M{low:.1f} {y - 4:.1f} v8 M{high:.1f} {y - 4:.1f} v8"/>',
        f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="4"/>',
        "</svg>",
    ]
    return "".join(parts)


class _Axis:
    """From a value to a place on the paper."""

    def __init__(self, first: float, last: float, start: float, end: float) -> None:
        self.first, self.last, self._start = first, last, start
        self._scale = (end - start) / (last - first)

    def __call__(self, value: float) -> float:
        return self._start + (value - self.first) * self._scale


def _curve(chart: Chart, day: Callable[[float], float]) -> Iterator[tuple[float, float]]:
    """Days and millimetres along a curve, as far as the chart reaches."""
    for mm in range(int(_LOW_MM), int(_HIGH_MM) + 1, _STEP_MM):
        if chart.youngest + 1e-3 < (days := day(mm)) < chart.oldest - 1e-3:
            yield days, mm


def _path(points: list[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _grid(across: _Axis, up: _Axis) -> Iterator[str]:
    for week in _WEEKS:
        if across.first <= 7 * week <= across.last:
            x = across(7 * week)
            yield f'<path class="grid" d="M{x:.1f} {_TOP} V{_BOTTOM}"/>'
            yield f'<text x="{x:.1f}" y="{_BOTTOM + 14:g}" text-anchor="middle">{week}</text>'
    for mm in range(100, int(_HIGH_MM) + 1, 100):
        y = up(mm)
        yield f'<path class="grid" d="M{_LEFT} {y:.1f} H{_RIGHT}"/>'
        yield f'<text x="{_LEFT - 6:g}" y="{y + 3.5:.1f}" text-anchor="end">{mm}</text>'
    middle = (_LEFT + _RIGHT) / 2
    yield f'<text x="{middle:g}" y="{_HEIGHT - 4:g}" text-anchor="middle">weeks</text>'
    yield f'<text x="{_LEFT - 6:g}" y="{_BOTTOM:.1f}" text-anchor="end">mm</text>'


def _names(*curves: list[tuple[float, float]]) -> Iterator[str]:
    """The share that is smaller, at each curve's end; apart, so that they can be read."""
    below = float("inf")
    for curve, name in zip(curves, ("2.5 %", "50 %", "97.5 %"), strict=True):
        y = min(curve[-1][1] + 3.5, below - 11)
        yield f'<text x="{_RIGHT + 5:g}" y="{y:.1f}">{name}</text>'
        below = y
