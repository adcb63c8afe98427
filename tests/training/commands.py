"""Several commands in one set of processes, which take longer to start than to train a little.

Given the path of a JSON list of commands, each a module and its arguments.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import typer
from accelerate.state import AcceleratorState
from typer.main import get_command


def give(command: Sequence[str]) -> None:
    """Run a command of `training` in this process."""
    module, *arguments = command
    app = typer.Typer()
    app.command()(importlib.import_module(module).main)
    try:
        get_command(app)(arguments, standalone_mode=False)
    finally:
        # Accelerate remembers a process's precision for its life.
        AcceleratorState._reset_state(reset_partial_state=True)


if __name__ == "__main__":
    for each in json.loads(Path(sys.argv[1]).read_text()):
        give(each)
