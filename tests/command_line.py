"""What the command line does, in the process of the test."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from fetalclip_edge import cli


class Run(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


CommandLine = Callable[..., Run]


def make_command_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> CommandLine:
    """The command line through its own entry point."""

    def run(*arguments: object) -> Run:
        monkeypatch.setattr(sys, "argv", ["fetalclip-edge", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Run(code, out, err)

    return run
