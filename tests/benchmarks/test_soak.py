from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from benchmarks.soak import Sample, judge, main, plot, take_sample, verdict

MINUTES = [Sample(float(second), 200.0, 12, 9) for second in range(180)]


def test_what_stays_as_it_is_is_steady() -> None:
    # Given a run that grows in its first minute alone
    grown = [
        replace(each, resident_mb=100.0, threads=5) if each.at_s < 60 else each for each in MINUTES
    ]
    judged = judge(grown, 10, 20)
    assert judged["steady"]
    assert (judged["memory_growth_mb"], judged["p99_to_p50"]) == (0, 2)
    assert verdict(judged).startswith("steady; memory grew by 0 MB, p99 is 2 times p50")


@pytest.mark.parametrize(
    ("change", "p99", "failed"),
    [
        ({"resident_mb": 205.1}, 20, "memory"),
        ({"threads": 13}, 20, "threads"),
        ({"files": 10}, 20, "files"),
        ({}, 20.1, "tail"),
    ],
)
def test_what_does_not_is_named(change: dict[str, float], p99: float, failed: str) -> None:
    judged = judge([*MINUTES[:-1], replace(MINUTES[-1], **change)], 10, p99)  # type: ignore[arg-type]
    assert not judged["steady"]
    assert [name for name, good in judged["checks"].items() if not good] == [failed]
    assert verdict(judged).startswith(f"NOT STEADY: {failed};")


def test_a_short_run_is_judged_after_its_first_third_and_none_not_at_all() -> None:
    judged = judge(MINUTES[:31], 1, 1)
    assert judged["judged_from_s"] == 10
    with pytest.raises(ValueError, match="too short"):
        judge([], 1, 1)


def test_a_sample_sees_a_file_that_was_opened(tmp_path: Path) -> None:
    before = take_sample(0)
    with (tmp_path / "a").open("w"):
        after = take_sample(1)
    assert after.files == before.files + 1
    assert 10 < after.resident_mb < 100_000
    assert after.threads >= 1


def test_memory_over_time_is_drawn(tmp_path: Path) -> None:
    plot(MINUTES, judge(MINUTES, 1, 1), tmp_path / "soak.png")
    picture = cv2.imread(str(tmp_path / "soak.png"))
    assert picture is not None
    assert picture.std() > 10


@pytest.fixture
def run() -> Callable[..., Result]:
    app = typer.Typer()
    app.command()(main)
    return lambda *options: CliRunner().invoke(app, list(options))


def test_the_command_prints_json_and_a_verdict(run: Callable[..., Result], tmp_path: Path) -> None:
    done = run("--minutes", "0.06", "--size", "320x240", "--plot", str(tmp_path / "soak.png"))
    report = json.loads(done.stdout)
    assert report["results"] > 0
    assert len(report["samples"]) >= 2
    assert done.exit_code == (0 if report["judged"]["steady"] else 1)
    assert "times p50" in done.stderr
    assert (tmp_path / "soak.png").exists()


def test_a_size_that_is_none_is_refused(run: Callable[..., Result]) -> None:
    done = run("--size", "large")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--size must be such as 1280x720, not 'large'" in done.stderr
