"""The README and the guides name only what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from fetalclip_edge.cli import app

DOCUMENTS = (
    *("README.md", "docs/quickstart.md", "docs/training.md", "docs/benchmarks.md"),
    *("docs/backends.md", "docs/biometry.md", "docs/streaming.md", "docs/viewer.md"),
    "docs/tasks.md",
    "docs/sector.md",
    "docs/report.md",
)


@pytest.mark.parametrize("document", [*DOCUMENTS, "docs/bundle.md", "docs/data.md"])
def test_links_and_pictures_lead_somewhere(document: str, repository: Path) -> None:
    path = repository / document
    targets = re.findall(r"\]\(([^)#\s]+)\)", path.read_text(encoding="utf-8"))
    missing = [
        target
        for target in targets
        if not target.startswith("http") and not (path.parent / target).exists()
    ]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_and_options_exist(document: str, repository: Path) -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    text = (repository / document).read_text(encoding="utf-8")
    for line in re.findall(r"^fetalclip-edge .*$", text, flags=re.MULTILINE):
        words = line.split()
        assert words[1] in commands, line
        known = {option for param in commands[words[1]].params for option in param.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


@pytest.mark.parametrize("document", DOCUMENTS)
def test_modules_exist(document: str, repository: Path) -> None:
    text = (repository / document).read_text(encoding="utf-8")
    for module in re.findall(r"python -m ([a-z0-9_.]+)", text):
        assert (repository / f"{module.replace('.', '/')}.py").is_file(), module


def test_readme_says_what_it_is_not(repository: Path) -> None:
    assert "Not a medical device" in (repository / "README.md").read_text(encoding="utf-8")


def test_ci_runs_the_test_command_of_the_readme(repository: Path) -> None:
    readme = (repository / "README.md").read_text(encoding="utf-8")
    [command] = re.findall(r"^pip install .*&& pytest$", readme, flags=re.MULTILINE)
    assert command == 'pip install -e ".[test]" && pytest'
