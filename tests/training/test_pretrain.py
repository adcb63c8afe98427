"""Training by the real command, on drawn pictures: it resumes exactly and never sees the test."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
import yaml
from safetensors.torch import load_file

from fetalclip_edge.results import PLANES
from training.config import load_config
from training.learner import Batch
from training.models import ModelConfig
from training.objectives import Contrastive
from training.pretrain import main
from training.release import PROMPTS, Origin, load_release
from training.run_folder import RunFolder, fingerprint
from training.session import train_and_validation
from training.shards import read_manifest, write_shards
from training.sources import read_source
from training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def unbroken(
    tmp_path_factory: pytest.TempPathFactory, repository: Path, drawn: Path, experiment: Path
) -> Path:
    """A run of two epochs through the command itself."""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    command = [sys.executable, "-m", "training.pretrain", str(experiment)]
    done = subprocess.run(
        [*command, "--out", str(out), "--data", str(drawn)],
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "epoch 2: loss" in done.stderr
    return out


def read_log(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_run_holds_what_the_export_reads(
    unbroken: Path, drawn: Path, tiny_model: dict[str, Any]
) -> None:
    release = load_release(unbroken)
    assert release.config == ModelConfig(**tiny_model)
    assert release.text is not None
    assert release.origin == Origin("pretrain", data_sha256=read_manifest(drawn)["sha256"])
    assert set(release.validation) == {"planes_f1", "brain_planes_f1"}
    log = read_log(unbroken)
    assert [row["epoch"] for row in log] == ["1", "2"]
    assert all(math.isfinite(float(value)) for row in log for value in row.values())
    # The last row is what was written down as the validation.
    assert float(log[-1]["planes_f1"]) == release.validation["planes_f1"]


def test_tensorboard_has_the_curves(unbroken: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next((unbroken / "tensorboard").rglob("events.out.*")).parent))
    events.Reload()
    losses = [event.value for event in events.Scalars("loss")]
    assert losses == pytest.approx([float(row["loss"]) for row in read_log(unbroken)], rel=1e-5)
    rates = events.Scalars("step/learning_rate")
    assert [event.step for event in rates] == [1, 2, 3, 4, 6, 7, 8, 9]


def test_held_out_patients_are_none_that_was_learned_from(
    unbroken: Path, drawn: Path, experiment: Path
) -> None:
    held_out = set(json.loads((unbroken / "model.json").read_text())["held_out"])
    learn, held = train_and_validation(drawn, load_config(experiment))
    assert held_out == {e.group for e in held}
    assert held_out
    assert not held_out & {e.group for e in learn}
    assert not held_out & {"planes/4", "planes/9", "hc18/005", "hc18/5"}


def test_what_was_written_is_the_average_in_half_precision(unbroken: Path) -> None:
    state = torch.load(unbroken / "checkpoint.pt", weights_only=True)
    assert state["step"] == 2 * (33 // 6)
    stored = load_file(unbroken / "image_tower.safetensors")
    moved = 0
    for name, value in stored.items():
        average = state["average"][f"image.{name}"]
        assert torch.equal(value, average.half() if average.is_floating_point() else average)
        moved += not torch.equal(average, state["model"][f"image.{name}"])
    assert moved > 50


@pytest.mark.parametrize("cut_at", [4, 7])
def test_a_run_cut_off_goes_on_to_the_same_weights(
    cut_at: int,
    unbroken: Path,
    drawn: Path,
    experiment: Path,
    tmp_path: Path,
    cut_off_at: Callable[[int], AbstractContextManager[None]],
) -> None:
    with cut_off_at(cut_at):  # one step after the checkpoint, which is lost
        main(experiment, tmp_path, drawn)
    assert not (tmp_path / "model.json").exists()
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == cut_at - 1
    main(experiment, tmp_path, drawn)

    whole = torch.load(unbroken / "checkpoint.pt", weights_only=True)
    resumed = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    for part in ("model", "average"):
        for name, value in whole[part].items():
            assert torch.equal(value, resumed[part][name]), f"{part}: {name}"
    for index, moments in whole["optimizer"]["state"].items():
        assert torch.equal(moments["exp_avg"], resumed["optimizer"]["state"][index]["exp_avg"])
    names = ["image_tower.safetensors", "prompts.safetensors", "model.json", "log.csv"]
    for name in names:
        assert (unbroken / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_a_finished_run_is_left_as_it_is(
    unbroken: Path, drawn: Path, experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (unbroken / "image_tower.safetensors").read_bytes()
    main(experiment, unbroken, drawn)
    assert "is finished already" in " ".join(capsys.readouterr().err.split())
    assert (unbroken / "image_tower.safetensors").read_bytes() == before
    assert len(read_log(unbroken)) == 2


def test_a_checkpoint_of_another_experiment_is_refused(
    unbroken: Path,
    drawn: Path,
    tmp_path: Path,
    tiny_experiment: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**tiny_experiment, "learning_rate": 0.002}))
    before = (unbroken / "checkpoint.pt").read_bytes()
    with pytest.raises(typer.Exit) as exit_:
        main(other, unbroken, drawn)
    assert exit_.value.exit_code == 2
    assert "another configuration" in " ".join(capsys.readouterr().err.split())
    assert (unbroken / "checkpoint.pt").read_bytes() == before


def test_a_row_written_before_its_checkpoint_is_not_written_twice(
    drawn: Path, experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Trainer.save

    def killed(trainer: Trainer, path: Path) -> None:
        if trainer.step == 10:
            raise KeyboardInterrupt
        real(trainer, path)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            main(experiment, tmp_path, drawn)
    assert [row["epoch"] for row in read_log(tmp_path)] == ["1", "2"]
    main(experiment, tmp_path, drawn)
    assert [row["epoch"] for row in read_log(tmp_path)] == ["1", "2"]


def test_images_in_other_shards_are_another_experiment(
    unbroken: Path,
    drawn: Path,
    experiment: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(drawn.parent / "planes", tmp_path / "data" / "planes")
    shutil.copytree(drawn.parent / "hc18", tmp_path / "data" / "hc18")
    write_shards(read_source(tmp_path / "data"), tmp_path / "shards", images_per_shard=8)
    with pytest.raises(typer.Exit):
        main(experiment, unbroken, tmp_path / "shards")
    assert "other images, prompts or teacher" in " ".join(capsys.readouterr().err.split())


def test_prompts_of_ones_own_are_recognised_by(
    drawn: Path, experiment: Path, tmp_path: Path, tiny_experiment: dict[str, Any]
) -> None:
    own = {label: [f"{label} one", f"{label} two"] for label in PLANES}
    (tmp_path / "planes.json").write_text(json.dumps(own))
    main(experiment, tmp_path / "run", drawn, [f"planes={tmp_path / 'planes.json'}"])
    release = load_release(tmp_path / "run")
    assert release.prompts["planes"]["texts"] == own
    assert release.text is not None
    with torch.inference_mode():
        mean = release.text(own["femur"]).mean(dim=0)
    expected = (mean / mean.norm()).numpy()
    np.testing.assert_allclose(
        release.embeddings["planes"][PLANES.index("femur")], expected, atol=5e-3
    )


def test_a_folder_that_does_not_say_whose_it_is_is_refused(tmp_path: Path) -> None:
    (tmp_path / "experiment.json").write_text("")
    with pytest.raises(ValueError, match=r"experiment\.json is damaged; choose another --out"):
        RunFolder(tmp_path, "a")


def test_rows_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "a")
    for epoch in (1, 2, 3):
        folder.log({"epoch": epoch, "loss": 0.1 / epoch})
    whole = (tmp_path / "log.csv").read_bytes()
    folder.forget_after(2)
    assert [row["epoch"] for row in read_log(tmp_path)] == ["1", "2"]
    folder.log({"epoch": 3, "loss": 0.1 / 3})
    assert (tmp_path / "log.csv").read_bytes() == whole
    folder.forget_after(0)
    assert not (tmp_path / "log.csv").exists()


def test_a_damaged_checkpoint_is_refused(
    drawn: Path, experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(experiment)
    learn, _ = train_and_validation(drawn, config)
    data, prompts = read_manifest(drawn)["sha256"], [p.sha256 for p in PROMPTS.values()]
    RunFolder(tmp_path, fingerprint(config, learn, data, Contrastive.identity, prompts)).start()
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(typer.Exit) as exit_:
        main(experiment, tmp_path, drawn)
    assert exit_.value.exit_code == 2
    assert "is damaged" in " ".join(capsys.readouterr().err.split())


def test_bad_input_ends_with_a_message_and_code_2(
    drawn: Path,
    experiment: Path,
    tmp_path: Path,
    tiny_experiment: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    big, student = tmp_path / "big.yaml", tmp_path / "student.yaml"
    big.write_text(yaml.safe_dump({**tiny_experiment, "batch_size": 500}))
    student.write_text(
        yaml.safe_dump({**tiny_experiment, "distillation": {"logits": 1.0, "features": 1.0}})
    )
    for config, data, told in (
        (tmp_path / "none.yaml", drawn, "none.yaml"),
        (experiment, tmp_path, "manifest.json"),
        (big, drawn, "batch_size must be at most"),
        (student, drawn, "use training.distill"),
    ):
        with pytest.raises(typer.Exit) as exit_:
            main(config, tmp_path / "out", data)
        assert exit_.value.exit_code == 2
        assert told in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out" / "experiment.json").exists()


def test_other_prompts_are_another_experiment(
    unbroken: Path,
    drawn: Path,
    experiment: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "planes.json").write_text(json.dumps({label: [label] for label in PLANES}))
    with pytest.raises(typer.Exit):
        main(experiment, unbroken, drawn, [f"planes={tmp_path / 'planes.json'}"])
    assert "other images, prompts or teacher" in " ".join(capsys.readouterr().err.split())


def test_a_loss_that_is_no_number_ends_the_run_before_it_spoils_the_checkpoint(
    drawn: Path,
    experiment: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = Trainer._backward

    def spoiled(trainer: Trainer, batch: Batch, done: float) -> dict[str, float]:
        losses = real(trainer, batch, done)
        return {"contrastive": math.nan} if trainer.step == 4 else losses

    monkeypatch.setattr(Trainer, "_backward", spoiled)
    with pytest.raises(typer.Exit) as exit_:
        main(experiment, tmp_path, drawn)
    assert exit_.value.exit_code == 1
    assert "not a number at step 5" in " ".join(capsys.readouterr().err.split())
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 3
    assert not (tmp_path / "model.json").exists()
