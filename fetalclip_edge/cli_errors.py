"""How the command line says that something went wrong: one line on stderr and an exit code."""

from __future__ import annotations

from typing import NoReturn

import typer

__all__ = ["BAD_INPUT", "FAILED", "fail", "say"]

FAILED, BAD_INPUT = 1, 2
"""Exit codes: a failure at run time; bad usage or input."""


def say(message: str, code: int) -> int:
    """Say what went wrong, and give the exit code back."""
    typer.echo(f"error: {message}", err=True)
    return code


def fail(message: str, code: int) -> NoReturn:
    """Say what went wrong, and end the command."""
    raise typer.Exit(say(message, code))
