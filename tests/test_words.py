"""Words that are the same everywhere."""

from __future__ import annotations

import pytest

from fetalclip_edge import display
from fetalclip_edge.results import ProbeScores
from fetalclip_edge.words import percent, weeks

from .moments import result


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.0, "0 %"), (0.75, "75 %"), (0.994, "99 %"), (0.996, "99 %"), (1.0, "99 %")],
)
def test_no_confidence_reaches_a_hundred(share: float, words: str) -> None:
    assert percent(share) == words


def test_no_line_on_a_terminal_says_a_hundred(capsys: pytest.CaptureFixture[str]) -> None:
    certain = ProbeScores("left", 1.0, {"left": 1.0})
    display.answer(
        result("brain", 1.0, brain_plane="trans-thalamic", source="a.png", probes={"side": certain})
    )
    shown = capsys.readouterr().out
    assert shown.startswith("a.png  brain 99 %  trans-thalamic 99 %  side: left 99 %")


def test_weeks_and_days() -> None:
    assert (weeks(165), weeks(6)) == ("23+4", "0+6")
