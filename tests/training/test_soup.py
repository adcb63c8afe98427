"""Averages of weights, and which of them stay in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer

from training import soup
from training.compare import compare
from training.config import load_config
from training.models import DualEncoder, ModelConfig
from training.release import Origin, Release, load_release, save_release, write_release
from training.session import train_and_validation
from training.shards import read_manifest
from training.soup import Step, greedy_soup, main

SCALES = {"a": 10.0, "b": 20.0, "c": 40.0}

Change = Callable[[Release], Release]
MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path, drawn: Path, experiment: Path, tiny_model: dict[str, Any]) -> MakeRun:
    """Writes the run of an untrained model, its weights moved a little as a seed would have."""
    held = train_and_validation(drawn, load_config(experiment))[1]
    first = tmp_path / "first"
    first.mkdir()
    torch.manual_seed(0)
    model = DualEncoder(ModelConfig(**tiny_model)).eval()
    origin = Origin("distill", teacher="t", data_sha256=read_manifest(drawn)["sha256"])
    save_release(first, model, {}, {e.group for e in held}, origin)

    def make(name: str, move: float = 0.0, change: Change = lambda release: release) -> Path:
        release = load_release(first)
        torch.manual_seed(sum(map(ord, name)))
        with torch.no_grad():
            for parameter in release.tower.parameters():
                parameter += move * parameter.abs().mean() * torch.randn_like(parameter)
        folder = tmp_path / name
        folder.mkdir()
        write_release(folder, change(replace(release, text=None)))
        return folder

    return make


def scaled(scale: float) -> Change:
    return lambda release: replace(release, scale=scale)


def test_a_run_stays_in_when_it_makes_the_average_better(
    drawn: Path,
    make_run: MakeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Given three runs, told apart by their scale, and what each average of them would lose
    runs = {name: make_run(name, 0.3, scaled(scale)) for name, scale in SCALES.items()}
    losses = {10.0: 0.5, 20.0: 0.3, 40.0: 0.4, 30.0: 0.2, 70 / 3: 0.25}
    monkeypatch.setattr(soup._HeldOut, "log_loss", lambda self, release: losses[release.scale])
    # When they are averaged, the best (b) is first, the next best (c) helps, the last (a) does not
    found, steps = greedy_soup(list(runs.values()), drawn)
    assert steps == [
        Step(runs["b"], 0.3, kept=True),
        Step(runs["c"], 0.2, kept=True),
        Step(runs["a"], 0.25, kept=False),
    ]
    # Then weights are the mean of those that stayed in
    parts = [load_release(runs[name]).tower.state_dict() for name in "bc"]
    for name, value in found.tower.state_dict().items():
        expected = (parts[0][name].double() + parts[1][name].double()) / 2
        np.testing.assert_allclose(value.double(), expected, rtol=1e-5, atol=1e-7)
    assert found.origin.method == "distill, weights averaged"
    assert (found.origin.teacher, found.text, found.scale) == ("t", None, 30.0)
    assert found.validation["log_loss"] == 0.2
    # And all of them on demand
    every, steps = greedy_soup(list(runs.values()), drawn, keep_all=True)
    assert [step.kept for step in steps] == [True, True, True]
    assert every.scale == pytest.approx(70 / 3)
    # And the command says what it did, and writes it
    out = tmp_path / "soup"
    main(list(runs.values()), drawn, out)
    said = capsys.readouterr().err
    assert f"{runs['c']}: log loss 0.2000, in" in said
    assert f"{runs['a']}: log loss 0.2500, left out" in said
    assert load_release(out).validation == found.validation


def test_the_first_is_the_best_run_as_it_is(drawn: Path, make_run: MakeRun) -> None:
    # Given a run, and the same again, which cannot make the average better
    found, steps = greedy_soup([make_run("one"), make_run("two")], drawn)
    assert [step.kept for step in steps] == [True, False]
    expected = load_release(steps[0].run)
    assert all(
        torch.equal(v, expected.tower.state_dict()[k]) for k, v in found.tower.state_dict().items()
    )
    assert found.origin == expected.origin
    # Then its log loss is the one by which runs are compared
    [run] = compare([("one", steps[0].run)], drawn)["runs"]
    assert steps[0].log_loss == pytest.approx(sum(run["log_loss"].values()), rel=1e-3)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda r: replace(r, held_out=frozenset({"planes/1"})), "held out other patients"),
        (lambda r: replace(r, origin=replace(r.origin, data_sha256="f" * 64)), "not trained on"),
        (
            lambda r: replace(
                r, embeddings={k: v[:, ::-1].copy() for k, v in r.embeddings.items()}
            ),
            "embeds the prompts of (brain_)?planes elsewhere",
        ),
    ],
    ids=["other patients", "other data", "another teacher"],
)
def test_runs_that_do_not_belong_together_are_refused(
    drawn: Path, make_run: MakeRun, change: Change, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        greedy_soup([make_run("good"), make_run("other", 0.1, change)], drawn)


def test_one_run_is_no_average(
    drawn: Path, make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("good")
    for given in ([run], [run, run]):
        with pytest.raises(ValueError, match="two different runs"):
            greedy_soup(given, drawn)
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    with pytest.raises(typer.Exit) as error:
        main([run, make_run("other", 0.1)], drawn, full)
    assert error.value.exit_code == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in full.iterdir()] == ["notes.txt"]
