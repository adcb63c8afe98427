"""A model that learned from nearly all patients, judged by a twin that held more of them out."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import export.bundle as exporter
from export.bundle import export_bundle
from export.examples import read_data
from export.fitting import fit
from export.graphs import Exported
from export.source import load_source
from export.twin import load_twin, seen_by_twin
from training.release import load_release

Change = Callable[[dict[str, Any]], object]
HELD = [f"planes/{i}" for i in range(24, 26)]


@pytest.fixture
def changed(tmp_path: Path, run: Path) -> Callable[[Change], Path]:
    """Copies the run and changes what it says of itself."""

    def change(edit: Change) -> Path:
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        shutil.copytree(run, folder)
        description = json.loads((folder / "model.json").read_bytes())
        edit(description)
        (folder / "model.json").write_text(json.dumps(description))
        return folder

    return change


@pytest.fixture
def model(changed: Callable[[Change], Path]) -> Path:
    """The same weights, of which two patients are said to be held out."""
    return changed(lambda description: description.update(held_out=HELD))


def test_a_bundle_is_fitted_to_the_patients_of_the_twin(
    drawn: Path,
    run: Path,
    model: Path,
    tmp_path: Path,
    graphs: Exported,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a model, and as its twin the same network, which has held more patients out
    monkeypatch.setattr(exporter, "make_graphs", lambda *_: graphs)
    monkeypatch.setattr(exporter, "_TIMING_ROUNDS", 2)
    # When a bundle is made of the model
    out, console = tmp_path / "bundle", Console(file=io.StringIO())
    export_bundle(model, drawn, out, name="a", version="1", console=console, judged_by=run)
    # Then confidence is that of the twin on its patients
    twin = load_twin(run, load_source(model))
    data = read_data(drawn, twin.held_out, twin.origin.data_sha256)
    expected = fit(*seen_by_twin(twin, data), twin.embeddings)
    manifest = json.loads((out / "manifest.json").read_bytes())
    found = {task: prompts["temperature"] for task, prompts in manifest["prompt_sets"].items()}
    assert found == expected.temperatures
    # And the manifest says whose patients they are
    assert manifest["metrics"]["validation"]["measured_on"] == (
        "37 images of patients whom only the twin has not learned from"
    )
    card = (out / "MODEL_CARD.md").read_text()
    assert "were fitted to a twin that had not" in card
    assert "held out of training" not in card


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda d: d.update(held_out=HELD), "no more patients"),
        (lambda d: d["origin"].update(data_sha256="f" * 64), "other shards"),
        (lambda d: d["prompts"]["planes"].update(sha256="f" * 64), "other prompts of planes"),
    ],
    ids=["no more patients", "other data", "other prompts"],
)
def test_what_is_no_twin_is_refused(
    model: Path, changed: Callable[[Change], Path], edit: Change, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        load_twin(changed(edit), load_source(model))


def test_a_run_that_holds_more_patients_out_is_a_twin(run: Path, model: Path) -> None:
    assert load_twin(run, load_source(model)).held_out == load_release(run).held_out


def test_ages_are_not_judged_by_heads_that_the_model_learned_from(
    drawn: Path, run: Path, model: Path, tmp_path: Path
) -> None:
    given = {"judged_by": run, "text": tmp_path / "teacher.pt"}
    with pytest.raises(ValueError, match="--text embeds ages .* give one of the two"):
        export_bundle(
            *(model, drawn, tmp_path / "bundle"), name="a", version="1", console=Console(), **given
        )
    assert not (tmp_path / "bundle").exists()
