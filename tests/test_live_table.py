from __future__ import annotations

import logging
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fetalclip_edge import live_table
from fetalclip_edge.live_table import LiveTable
from fetalclip_edge.results import BrainPlaneScores, PlaneScores, Result, StreamState, Timing

from .moments import GOOD


def result(state: str = "live", latency_ms: float | None = 20.0, **options: Any) -> Result:
    answer: dict[str, Any] = {
        "plane": PlaneScores("brain", 0.75, {"brain": 0.75}),
        "brain_plane": BrainPlaneScores("trans-thalamic", 0.64, {}),
        "gestational_age": None,
        "head": None,
        "timing": Timing(1, 2, 3, capture_to_result_ms=latency_ms),
        "embedding": np.ones(2, np.float32),
        "dropped": 3,
        "epoch": 2,
    }
    return Result(state=StreamState(state), **(answer | options))


def drawn(table: LiveTable) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    with console.file:
        console.print(table.render())
    return console.export_text()


def table() -> LiveTable:
    return LiveTable(Console(), "probe 1", "Not a medical device")


def test_before_the_first_result_it_waits() -> None:
    text = drawn(table())
    assert "waiting for the first frame" in text
    assert "probe 1" in text
    assert "Not a medical device" in text


def test_it_shows_the_answer_and_the_counts() -> None:
    shown = table()
    for latency_ms in range(1, 102):
        shown.update(result(latency_ms=float(latency_ms)))
    text = drawn(shown)
    for words in (
        *("LIVE", "brain", "█" * 18 + "░" * 6 + "  75 %", "trans-thalamic  64 %"),
        *("p50 51.0 ms   p95 96.0 ms", "101 results", "3 dropped", "2 reconnects"),
    ):
        assert words in text


def test_no_answer_is_certain() -> None:
    shown = table()
    shown.update(
        result(
            plane=PlaneScores("brain", 0.999, {"brain": 0.999}),
            brain_plane=BrainPlaneScores("trans-thalamic", 1.0, {"trans-thalamic": 1.0}),
        )
    )
    text = drawn(shown)
    assert "█  99 %" in text
    assert "trans-thalamic  99 %" in text
    assert "100 %" not in text


def test_it_shows_the_latency_of_the_last_results_alone() -> None:
    shown = table()
    for latency_ms in [500.0] * 50 + [10.0] * 300:
        shown.update(result(latency_ms=latency_ms))
    assert "p50 10.0 ms   p95 10.0 ms" in drawn(shown)


@pytest.mark.parametrize("state", ["stale", "no_signal", "out_of_domain"])
def test_an_answer_that_is_withheld_is_not_shown(state: str) -> None:
    shown = table()
    shown.update(result(latency_ms=None, state=state, reason="nothing [came]"))
    text = drawn(shown)
    assert state.replace("_", " ").upper() in text
    for words in ("nothing [came]", "no answer", "withheld", "░" * 24):
        assert words in text
    assert "brain" not in text
    assert "75 %" not in text


def test_it_says_how_good_the_picture_is() -> None:
    shown = table()
    shown.update(result(quality=GOOD))
    assert "good" in drawn(shown)
    shown.update(result(quality=replace(GOOD, overall=0.3, reason="moving: hold the probe still")))
    text = drawn(shown)
    assert "moving: hold the probe still" in text
    # A confidence of 75 % is not sure, as the checklist has it.
    assert "waiting for a better one" in text


def test_a_poor_picture_that_is_answered_is_not_waited_for() -> None:
    shown = table()
    poor = replace(GOOD, overall=0.3, reason="too dark: turn the gain up")
    sure = PlaneScores("brain", 0.95, {"brain": 0.95})
    shown.update(result(plane=sure, quality=poor))
    text = drawn(shown)
    assert "too dark" in text
    assert "waiting" not in text


def test_every_state_has_as_many_rows() -> None:
    heights = set()
    for state in StreamState:
        shown = table()
        shown.update(result(str(state), reason=None if state == "live" else "why"))
        heights.add(len(drawn(shown).splitlines()))
    assert len(heights) == 1


def test_the_pace_is_of_the_last_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(live_table.time, "monotonic", lambda: now[0])
    shown = table()
    for now[0] in [0.0, 1.0, 2.0, *(10 + n / 25 for n in range(51))]:
        shown.update(result())
    assert "25.0 a second" in drawn(shown)


def test_warnings_go_above_it_while_it_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    before = handler.stream
    try:
        with LiveTable(Console(force_terminal=True, width=60), "probe", "no device"):
            assert handler.stream is sys.stderr is not before
            logging.getLogger("fetalclip_edge").warning("looking for it again")
        assert handler.stream is before
    finally:
        logging.getLogger().removeHandler(handler)
    out, err = capfd.readouterr()
    assert "looking for it again" in out
    assert err == ""
