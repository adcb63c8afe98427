"""The loop of training: gradients, several processes, the rate, checkpoints."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from training.config import ExperimentConfig, load_config
from training.learner import make_batch, still_statistics
from training.models import DualEncoder, ModelConfig
from training.objectives import Contrastive
from training.session import load_validation, start_accelerator, train_and_validation, validate
from training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


def configured(folder: Path, values: dict[str, Any]) -> ExperimentConfig:
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(values))
    return load_config(path)


def make_trainer(drawn: Path, folder: Path, values: dict[str, Any]) -> Trainer:
    config = configured(folder, values)
    learn, _ = train_and_validation(drawn, config)
    torch.manual_seed(0)
    model = DualEncoder(config.model)
    return Trainer(config, model, learn, Contrastive(), start_accelerator(config, folder))


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    trainer.learner.train()
    size = trainer.config.image_size_at(0)
    batch = make_batch(trainer.images, trainer.plan, trainer.lanes, 0, size, 0)
    trainer._backward(batch, 0.0)
    return {
        name: parameter.grad.clone()
        for name, parameter in trainer.model.named_parameters()
        if parameter.grad is not None
    }


def test_accumulated_gradients_are_those_of_the_whole_batch(
    drawn: Path, tmp_path: Path, tiny_experiment: dict[str, Any]
) -> None:
    values = {**tiny_experiment, "batch_size": 12, "lanes": 4}
    values["stages"] = [{"epochs": 1, "image_size": 64}]
    whole = make_trainer(drawn, tmp_path, values)
    parts = make_trainer(drawn, tmp_path, {**values, "accumulate": 4})
    expected, found = gradients(whole), gradients(parts)
    assert expected.keys() == found.keys()
    for tower in ("image.", "text.", "log_scale"):
        names = [name for name in expected if name.startswith(tower)]
        one, other = (torch.cat([g[n].flatten() for n in names]) for g in (expected, found))
        # Three images a lane make some gradients huge, and others of them mere rounding.
        assert (other - one).norm() <= 1e-3 * one.norm(), tower
    # Batch normalisation has seen every image once, too.
    buffers = dict(whole.model.named_buffers())
    for name, buffer in parts.model.named_buffers():
        if name.endswith("running_mean"):
            torch.testing.assert_close(buffer, buffers[name], msg=name)


def test_still_statistics_come_alive_again() -> None:
    layer = torch.nn.BatchNorm2d(2)
    pictures = torch.ones(4, 2, 3, 3)
    with still_statistics(layer):
        layer(pictures)
        assert layer.running_mean.tolist() == [0, 0]
    layer(pictures)
    assert layer.running_mean.tolist() == pytest.approx([0.1, 0.1])


def losses_of(run: Path) -> list[float]:
    with (run / "log.csv").open(newline="", encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_two_processes_learn_as_one(
    drawn: Path, tmp_path: Path, repository: Path, tiny_experiment: dict[str, Any]
) -> None:
    stages = [{"epochs": 3, "image_size": 32}]
    path = tmp_path / "experiment.yaml"
    path.write_text(
        yaml.safe_dump(
            {**tiny_experiment, "batch_size": 12, "stages": stages, "learning_rate": 1.0e-4}
        )
    )
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for name, start in (("one", []), ("two", launch)):
        command = [sys.executable, *start, "-m", "training.pretrain", str(path)]
        done = subprocess.run(
            [*command, "--out", str(tmp_path / name), "--data", str(drawn)],
            cwd=repository,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("epoch 3: loss") == 1  # one process reports
    one, two = losses_of(tmp_path / "one"), losses_of(tmp_path / "two")
    assert len(one) == 3
    assert two == pytest.approx(one, rel=2e-3)
    assert max(one) - min(one) > 0.01  # and there was something to learn


def test_more_processes_than_lanes_are_refused(
    drawn: Path, tmp_path: Path, tiny_experiment: dict[str, Any]
) -> None:
    trainer = make_trainer(drawn, tmp_path, tiny_experiment)
    with pytest.raises(ValueError, match="must be a multiple of 4 processes"):
        trainer.plan.of_process(0, 4)


def test_the_rate_warms_up_and_falls_by_half_a_cosine(
    drawn: Path, tmp_path: Path, tiny_experiment: dict[str, Any]
) -> None:
    trainer = make_trainer(drawn, tmp_path, {**tiny_experiment, "warmup_steps": 4})
    assert trainer.steps == 10
    rates = []
    for step in range(11):
        trainer.step = step
        rates.append(trainer._rate())
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    falling = [0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * k / 6)) for k in range(7)]
    assert rates[4:] == pytest.approx(falling)


def test_weight_decay_pulls_on_matrices_alone(
    drawn: Path, tmp_path: Path, tiny_experiment: dict[str, Any]
) -> None:
    trainer = make_trainer(drawn, tmp_path, tiny_experiment)
    decayed, free = trainer.optimizer.param_groups
    assert decayed["weight_decay"] == 0.05
    assert free["weight_decay"] == 0
    assert all(p.ndim > 1 for p in decayed["params"])
    assert any(p is trainer.model.log_scale for p in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(list(trainer.model.parameters()))


def test_an_epoch_learns(drawn: Path, tmp_path: Path, tiny_experiment: dict[str, Any]) -> None:
    trainer = make_trainer(drawn, tmp_path, tiny_experiment)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    steps = []
    losses = trainer.run_epoch(lambda: steps.append(trainer.step))
    assert steps == [1, 2, 3, 4]
    assert trainer.epoch == 1
    assert set(losses) == {"contrastive"}
    assert math.isfinite(losses["contrastive"])
    assert trainer.average.updates == 5
    after = trainer.model.state_dict()
    assert all(torch.isfinite(v).all() for v in after.values())
    moved = {name.split(".")[0] for name, v in after.items() if not torch.equal(v, before[name])}
    assert moved == {"image", "text", "log_scale"}


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    drawn: Path, tmp_path: Path, tiny_experiment: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(drawn, tmp_path, tiny_experiment)
    path = tmp_path / "checkpoint.pt"
    trainer.save(path)
    good = path.read_bytes()

    def disk_full(state: object, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="no space"):
        trainer.save(path)
    assert path.read_bytes() == good


def test_validation_neither_learns_nor_draws_random_numbers(
    drawn: Path, tmp_path: Path, tiny_experiment: dict[str, Any]
) -> None:
    config = configured(tmp_path, tiny_experiment)
    torch.manual_seed(0)
    model = DualEncoder(ModelConfig(**tiny_experiment["model"]))
    _, held = train_and_validation(drawn, config)
    split = load_validation(held, 64)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    first, second = validate(model, split), validate(model, split)
    assert first == second
    assert all(0 <= value <= 1 for value in first.values())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
