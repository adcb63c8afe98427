"""How far a compilation is, in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from fetalclip_edge.engines.build import Progress

__all__ = ["compiling_bar"]


@contextmanager
def compiling_bar(title: str) -> Iterator[Progress]:
    """A bar on standard error with the time that is left; nothing where that is no terminal.

    Args:
        title: what is being compiled.
    """
    if not sys.stderr.isatty():
        yield lambda what, share: None
        return
    # Imported here: no program without a terminal needs it.
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[what]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=1.0, what="")
        yield lambda what, share: bar.update(task, completed=share, what=escape(what[:40]))
