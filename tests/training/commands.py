"""Several commands in one set of processes, which take longer to start than to train a little.

Given the path of a JSON list of commands, each a module and its arguments.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import typer
from accelerate.state import AcceleratorState, PartialState
from typer.main import get_command


def give(command: Sequence[str], *, alone: bool = True) -> None:
    """Run a command of `training` in this process, or, not `alone`, in one of several."""
    module, *arguments = command
    app = typer.Typer()
    app.command()(importlib.import_module(module).main)
    try:
        get_command(app)(arguments, standalone_mode=False)
    finally:
        # Accelerate remembers a process's precision for its life.
        AcceleratorState._reset_state(reset_partial_state=alone)


if __name__ == "__main__":
    # A group that was taken down meets its own old addresses when it is set up again.
    PartialState.destroy_process_group = lambda self, group=None: None
    for each in json.loads(Path(sys.argv[1]).read_text()):
        give(each, alone=False)
    torch.distributed.destroy_process_group()
