"""Cross-validation over patients: everyone is recognised once, by a model that never saw them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from accelerate import Accelerator

from training.cross_validate import main
from training.folds import fold_by_group
from training.release import load_release
from training.shards import read_examples


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_the_parts_hold_every_patient_once(drawn: Path, folds: int) -> None:
    examples = read_examples(drawn, "train")
    groups = {e.group for e in examples}
    parts = []
    for fold in range(folds):
        learn, held = fold_by_group(examples, fold, folds, seed=1)
        assert len(learn) + len(held) == len(examples)
        held_groups = {e.group for e in held}
        assert not held_groups & {e.group for e in learn}
        # Each of ten patients with planes has three sub-planes, which the parts share evenly
        with_part = [e for e in held if e.facts.brain_plane == "trans-thalamic"]
        assert abs(len(with_part) - 10 / folds) <= 1
        parts.append(held_groups)
    assert sorted(g for part in parts for g in part) == sorted(groups)
    shuffled = random.Random(0).sample(examples, len(examples))
    _, again = fold_by_group(shuffled, 0, folds, seed=1)
    assert {e.group for e in again} == parts[0]


def test_more_parts_than_patients_are_refused(drawn: Path) -> None:
    few = read_examples(drawn, "train")[:3]
    with pytest.raises(ValueError, match=r"cannot cut \d patients into 5 parts"):
        fold_by_group(few, 0, 5, seed=0)


@pytest.mark.usefixtures("one_thread")
def test_every_patient_is_recognised_by_a_model_that_never_saw_them(
    drawn: Path,
    tmp_path: Path,
    tiny_experiment: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stages = [{"epochs": 1, "image_size": 32}]
    model = {**tiny_experiment["model"], "image_size": 32}
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump({**tiny_experiment, "stages": stages, "model": model}))
    main(path, tmp_path / "runs", drawn, tmp_path / "cache", folds=2)
    found = json.loads((tmp_path / "runs" / "cross_validation.json").read_text())
    examples = [e for e in read_examples(drawn, "train") if e.group.startswith("planes/")]
    assert found["folds"] == 2
    assert found["tasks"]["planes"]["images"] == len(examples) == 45
    assert found["tasks"]["planes"]["patients"] == 10
    assert found["tasks"]["brain_planes"]["images"] == 30
    held = [load_release(tmp_path / "runs" / f"fold_{n}").held_out for n in (1, 2)]
    assert not held[0] & held[1]
    assert {e.group for e in examples} <= held[0] | held[1]
    told = capsys.readouterr().err
    assert "trans-ventricular" in told
    # Given again, the folds are finished, and the answer is the same
    main(path, tmp_path / "runs", drawn, tmp_path / "cache", folds=2)
    assert capsys.readouterr().err.count("is finished already") == 2
    assert json.loads((tmp_path / "runs" / "cross_validation.json").read_text()) == found


def test_a_published_model_and_several_processes_are_refused(
    drawn: Path,
    tmp_path: Path,
    tiny_experiment: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(experiment: dict[str, Any]) -> str:
        path = tmp_path / "experiment.yaml"
        path.write_text(yaml.safe_dump(experiment))
        with pytest.raises(typer.Exit) as ended:
            main(path, tmp_path / "runs", drawn, tmp_path / "cache", folds=2)
        assert ended.value.exit_code == 2
        assert not (tmp_path / "runs" / "cross_validation.json").exists()
        return " ".join(capsys.readouterr().err.split())

    stages = [{**tiny_experiment["stages"][-1], "image_size": 256}]
    model = {"published": "mobile-fetalclip"}
    published = {
        **tiny_experiment,
        "model": model,
        "stages": stages,
        "start": "random",
        "canvas": 256,
    }
    assert "trains a published model" in refused(published)
    # And with a launcher each process would hold a part of every fold
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda _: 2))
    assert "cross-validation runs in one process" in refused(tiny_experiment)
