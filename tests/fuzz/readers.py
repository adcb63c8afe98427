"""Spoils files and reads them: `python -m tests.fuzz.readers --minutes 10`.

A reader must answer or raise one of our errors, within ten seconds and a gigabyte. What fails is
made as simple as can be, and kept under `tests/fuzz/seeds`, where the tests read it ever after.
"""

from __future__ import annotations

import faulthandler
import hashlib
import itertools
import logging
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Annotated

import typer
from hypothesis import HealthCheck, Phase, given, seed, settings
from rich.console import Console

NAMES = ["image", "dicom", "igtl", "manifest"]
SEEDS = Path(__file__).parent / "seeds"
_SLOWEST_S = 10
_MOST_MEMORY = 2**30
_ROUND_S = 60.0
_EXAMPLES = 200


def fuzz(name: str, seconds: float, number: int, current: Path) -> int:
    """Read spoiled files for a while, each written to `current` before.

    Returns:
        How many were read.

    Raises:
        Exception: what the reader must not raise. `current` holds what made it.
    """
    from .checks import READERS

    reader = READERS[name]
    logging.disable(logging.CRITICAL)
    # pydicom warns of odd values, and is right.
    warnings.simplefilter("ignore")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MOST_MEMORY, resource.RLIM_INFINITY))
    count = 0

    with tempfile.TemporaryDirectory() as folder:

        def check(data: bytes) -> None:
            nonlocal count
            count += 1
            current.write_bytes(data)
            faulthandler.dump_traceback_later(_SLOWEST_S, exit=True)
            try:
                reader.check(data, Path(folder))
            finally:
                faulthandler.cancel_dump_traceback_later()

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            number += 1
            some = settings(
                max_examples=_EXAMPLES,
                deadline=None,
                database=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            )
            seed(number)(some(given(reader.examples)(check)))()
    return count


def _round(name: str, seconds: float, console: Console) -> tuple[int, Path | None]:
    """One process that fuzzes, so that a crash or a hang ends no more than it."""
    with tempfile.TemporaryDirectory() as folder:
        current = Path(folder) / "current"
        options = ["--only", name, "--seconds", str(seconds), "--current", str(current)]
        number = ["--seed", str(random.randrange(2**31))]
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.readers", *options, *number],
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            return int(done.stdout), None
        console.print(done.stderr[-3000:], markup=False)
        if not current.exists():
            raise typer.Exit(1)  # it did not come so far as to read anything
        data = current.read_bytes()
        kept = SEEDS / f"{name}-{hashlib.sha256(data).hexdigest()[:8]}.bin"
        kept.write_bytes(data)
        return 0, kept


def main(
    minutes: Annotated[float, typer.Option(help="How long, all readers together.")] = 10.0,
    only: Annotated[str, typer.Option(help="One reader: image, dicom, igtl or manifest.")] = "",
    seconds: Annotated[float, typer.Option(hidden=True)] = 0.0,
    current: Annotated[Path | None, typer.Option(hidden=True)] = None,
    seed: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Spoil files of every kind, read them, and keep those that a reader fails at."""
    if current is not None:
        typer.echo(fuzz(only, seconds, seed, current))
        return
    console = Console(stderr=True)
    if only and only not in NAMES:
        console.print(f"--only must be one of {', '.join(NAMES)}, not {only!r}")
        raise typer.Exit(2)
    names = [only] if only else NAMES
    counts, failed = dict.fromkeys(names, 0), 0
    end = time.monotonic() + 60 * minutes
    for name in itertools.cycle(names):
        left = end - time.monotonic()
        if left <= 0:
            break
        with console.status(f"{name}; {left / 60:.1f} minutes left; {counts}; {failed} failed"):
            count, kept = _round(name, min(_ROUND_S, left), console)
        counts[name] += count
        if kept is not None:
            failed += 1
            console.print(f"failed: {kept}")
    typer.echo(f"{counts}, {failed} failed")
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    typer.run(main)
