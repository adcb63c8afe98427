"""Interleaved timing: order, counts and ratios."""

from __future__ import annotations

import pytest

from benchmarks.timing import Timings, interleave, table


def test_every_alternative_runs_once_a_round_and_takes_each_turn() -> None:
    # Given two alternatives that write down when they run
    order: list[str] = []
    work = {name: (lambda name=name: order.append(name)) for name in ("a", "b")}
    # When they are timed for three rounds after one of warm-up
    taken = interleave(work, rounds=3, warmup=1)
    # Then they take turns in who begins, and only three rounds count
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert [len(timings.milliseconds) for timings in taken.values()] == [3, 3]


def test_ratio_is_the_median_of_the_rounds() -> None:
    assert Timings((1.0, 4.0, 9.0)).ratio_to(Timings((1.0, 2.0, 3.0))) == 2.0


def test_percentiles_keep_the_tail() -> None:
    values = Timings(tuple(float(value) for value in range(1, 102))).to_dict()
    assert values == {"median_ms": 51.0, "p95_ms": 96.0, "p99_ms": 100.0, "max_ms": 101.0}


def test_no_rounds_is_an_error() -> None:
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        interleave({"a": lambda: None}, rounds=0)


def test_table_lines_up() -> None:
    assert table(["a", "bc"], [[1.23456, "x"]]) == "| a    | bc |\n|------|----|\n| 1.23 | x  |"
