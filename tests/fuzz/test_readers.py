"""Spoiled files: those that a reader once failed at, and some more. See readers.py for many."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from .checks import READERS

SEEDS = sorted((Path(__file__).parent / "seeds").glob("*.bin"))


@pytest.mark.parametrize("name", READERS)
def test_what_is_well_formed_is_read(name: str, tmp_path: Path) -> None:
    for data in READERS[name].plain:
        assert READERS[name].check(data, tmp_path) > 0


# pydicom warns of odd values, and is right.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", SEEDS, ids=lambda path: path.stem)
def test_what_failed_once_does_not_again(seed: Path, tmp_path: Path) -> None:
    READERS[seed.name.split("-")[0]].check(seed.read_bytes(), tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_a_spoiled_file_is_answered_or_refused(name: str, tmp_path: Path) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(READERS[name].examples)
    def check(data: bytes) -> None:
        READERS[name].check(data, tmp_path)

    check()
