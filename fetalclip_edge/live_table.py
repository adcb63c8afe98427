"""The live screen of `fetalclip-edge stream` in a terminal."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fetalclip_edge.colors import STATE_COLORS
from fetalclip_edge.results import Result
from fetalclip_edge.tasks.quality import what_would_help
from fetalclip_edge.words import percent

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LiveTable"]

_RECENT = 300
_BAR = 24
_REFRESHES = 8
"""A second: enough to read along, few enough to cost nothing."""

_RATE_SECONDS = 2.0


class LiveTable:
    """State, answer and pace of a stream, redrawn in place. A context manager.

    Latency and rate are of the last results, at most 300, so that they show what is now.

    Args:
        console: where to draw.
        title: above the table; the source's name.
        disclaimer: below it.
    """

    def __init__(self, console: Console, title: str, disclaimer: str) -> None:
        self._title, self._disclaimer = title, disclaimer
        self._result: Result | None = None
        self._seen = 0
        self._latency_ms: deque[float] = deque(maxlen=_RECENT)
        self._times: deque[float] = deque(maxlen=_RECENT)
        self._live = Live(
            console=console, refresh_per_second=_REFRESHES, get_renderable=self.render
        )
        self._handlers: list[tuple[logging.StreamHandler[TextIO], TextIO]] = []

    def __enter__(self) -> Self:
        before = sys.stderr
        self._live.start(refresh=True)
        # Warnings go above the table and not into it.
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is before:
                self._handlers.append((handler, before))
                handler.setStream(sys.stderr)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()
        for handler, stream in self._handlers:
            handler.setStream(stream)

    def update(self, result: Result) -> None:
        """Show a result, when the screen is next drawn."""
        self._seen += 1
        self._times.append(time.monotonic())
        if result.timing.capture_to_result_ms is not None:
            self._latency_ms.append(result.timing.capture_to_result_ms)
        self._result = result

    def render(self) -> Panel:
        """The screen as it is now."""
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", min_width=10)
        table.add_column()
        result = self._result
        if result is None:
            table.add_row("state", "waiting for the first frame")
        else:
            for name, shown in _answer_rows(result):
                table.add_row(name, shown)
            table.add_row("latency", self._latency())
            table.add_row("pace", self._pace(result))
        footer = Text(self._disclaimer, style="bold")
        return Panel(Group(table, Text(), footer), title=escape(self._title), expand=False)

    def _latency(self) -> str:
        latency = list(self._latency_ms)
        if not latency:
            return "-"
        p50, p95 = np.percentile(latency, (50, 95))
        return f"p50 {p50:.1f} ms   p95 {p95:.1f} ms   capture to result"

    def _pace(self, result: Result) -> str:
        times = [when for when in list(self._times) if when > time.monotonic() - _RATE_SECONDS]
        span = times[-1] - times[0] if len(times) > 1 else 0.0
        rate = f"{(len(times) - 1) / span:.1f} a second" if span else "-"
        return (
            f"{rate}   {self._seen} results   {result.dropped or 0} dropped   "
            f"{result.epoch} reconnects"
        )


def _answer_rows(result: Result) -> list[tuple[str, Text]]:
    """The same rows for every state, so that nothing jumps."""
    state = str(result.state)
    red, green, blue = STATE_COLORS[state]
    badge = Text()
    badge.append(f" {state.replace('_', ' ').upper()} ", f"bold black on rgb({red},{green},{blue})")
    badge.append(f"  {result.reason or ''}")
    answered = result.reason is None
    share = result.plane.confidence if answered else 0.0
    filled = round(share * _BAR)
    bar = Text()
    bar.append("█" * filled, f"rgb({red},{green},{blue})").append("░" * (_BAR - filled), "dim")
    bar.append(f" {percent(share):>5}" if answered else "  withheld")
    brain = result.brain_plane if answered else None
    sub_plane = "-"
    if brain is not None and brain.label is not None:
        sub_plane = f"{brain.label}  {percent(brain.confidence)}"
    return [
        ("state", badge),
        ("plane", Text(result.plane.label if answered else "no answer", "bold")),
        ("confidence", bar),
        ("sub-plane", Text(sub_plane)),
        ("picture", _picture_words(result)),
    ]


def _picture_words(result: Result) -> Text:
    """What is wrong with the picture, and whether an answer waits for a better one."""
    if result.quality is None:
        return Text("-")
    if (wanted := what_would_help(result)) is not None:
        return Text(f"waiting for a better one: {wanted}", "bold")
    return Text(result.quality.reason or "good")
