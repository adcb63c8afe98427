"""The loop of training: gradients, several processes, the rate, checkpoints."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from training.config import ExperimentConfig, load_config
from training.facts import Facts
from training.learner import Drawn, make_batch, still_statistics
from training.models import DualEncoder, ModelConfig
from training.objectives import Contrastive
from training.pretrain import main
from training.prompts import BRAIN_PLANE_PROMPTS, PLANE_PROMPTS
from training.recognition import ClassSentences
from training.release import PROMPTS, Origin, save_release
from training.session import start_accelerator, train_and_validation
from training.shards import read_examples
from training.trainer import Trainer
from training.validation import Validation

from .commands import give
from .cutting import cutting_off_at

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """Accelerate remembers a process's precision for its life."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def configured(folder: Path, values: dict[str, Any]) -> ExperimentConfig:
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(values))
    return load_config(path)


def make_trainer(drawn: Path, folder: Path, values: dict[str, Any]) -> Trainer:
    config = configured(folder, values)
    learn, _ = train_and_validation(drawn, config)
    torch.manual_seed(0)
    model = DualEncoder(config.model)
    accelerator = start_accelerator(config, folder)
    known = [example.facts for example in learn]
    sentences = ClassSentences(PROMPTS, config.seed, known, 1.0) if config.recognition else None
    return Trainer(
        config,
        model,
        learn,
        Contrastive(),
        accelerator,
        "experiment",
        Drawn(config.augmentation_seed),
        sentences,
    )


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    trainer.learner.train()
    size = trainer.config.image_size_at(0)
    batch = make_batch(trainer.images, trainer.plan, trainer.lanes, 0, size, Drawn(0))
    trainer._backward(batch, 0.0)
    return {
        name: parameter.grad.clone()
        for name, parameter in trainer.model.named_parameters()
        if parameter.grad is not None
    }


def test_accumulated_gradients_are_those_of_the_whole_batch(
    drawn: Path, tmp_path: Path, tiny_experiment: dict[str, Any]
) -> None:
    values = {**tiny_experiment, "batch_size": 12, "lanes": 4, "recognition": 0.5}
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


def log_of(run: Path, column: str) -> list[float]:
    with (run / "log.csv").open(newline="", encoding="utf-8") as file:
        return [float(row[column]) for row in csv.DictReader(file)]


# The documented launcher; --multi_gpu starts torchrun's processes, with or without GPUs.
LAUNCH = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
PLAIN = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
ANY_PORT = ("--main_process_port", "0")


class Runs(NamedTuple):
    """Runs of one process and of two on the same experiments, and what the two reported."""

    folder: Path
    reported: str


def experiments(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Three epochs at a rate at which rounding does not grow, learned in several ways."""
    stages = [{"epochs": 2, "image_size": 32}, {"epochs": 1, "image_size": 64}]
    slow = {**values, "batch_size": 12, "stages": stages, "learning_rate": 1.0e-4}
    distillation = {"logits": 1.0, "features": 1.0, "off_diagonal_end": -0.8}
    # Six pictures a lane: with fewer, batch normalisation makes rounding grow.
    distilled = {**slow, "batch_size": 24, "lanes": 4, "distillation": distillation}
    distilled |= {"frozen_stages": 1, "recognition": 1.0}
    distilled["stages"] = [{"epochs": 3, "image_size": 64}]
    streamed = {**slow, "data": {"streaming": True, "shuffle": 8}}
    halves = {**distilled, "accumulate": 2}
    return {"plain": slow, "streamed": streamed, "distilled": distilled, "halves": halves}


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, drawn: Path, experiment: Path, repository: Path
) -> Runs:
    """One process pretrains, streams and distils, two do the same, and go on where one stopped."""
    root = tmp_path_factory.mktemp("runs")
    paths = {}
    for name, values in experiments(yaml.safe_load(experiment.read_text())).items():
        paths[name] = root / f"{name}.yaml"
        paths[name].write_text(yaml.safe_dump(values))
    torch.manual_seed(1)
    config = load_config(paths["distilled"])
    _, held = train_and_validation(drawn, config)
    (root / "teacher").mkdir()
    model = DualEncoder(config.model).eval()  # type: ignore[arg-type]
    save_release(root / "teacher", model, {}, {e.group for e in held}, Origin("pretrain"))

    def command(out: str, of: str) -> list[str]:
        teach = of in ("distilled", "halves")
        given = ["--out", str(root / out), "--data", str(drawn), "--cache", str(root / "cache")]
        given += ["--teacher", str(root / "teacher")] if teach else []
        return [f"training.{'distill' if teach else 'pretrain'}", str(paths[of]), *given]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with cutting_off_at(4):  # in the middle of the second epoch
        main(paths["plain"], root / "begun", drawn, cache=root / "cache")
    begun = torch.load(root / "begun" / "checkpoint.pt", weights_only=True)
    assert begun["step"] == 3
    for name in ("plain", "streamed", "distilled"):
        give(command(f"{name} by one", name))
    torch.set_num_threads(threads)
    by_two = [command(f"{n} by two", n) for n in ("plain", "streamed", "halves")]
    (root / "commands.json").write_text(json.dumps([*by_two, command("begun", "plain")]))
    done = subprocess.run(
        [
            *(sys.executable, "-m", *LAUNCH, *PLAIN, *ANY_PORT),
            *("-m", "tests.training.commands", str(root / "commands.json")),
        ],
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Runs(root, done.stderr)


def test_two_processes_learn_as_one(runs: Runs) -> None:
    one, two = (log_of(runs.folder / f"plain by {n}", "loss") for n in ("one", "two"))
    assert len(one) == 3
    assert two == pytest.approx(one, rel=2e-3)
    assert max(one) - min(one) > 0.01  # and there was something to learn
    # What batch normalisation remembers is of the lanes of both.
    towers = [runs.folder / f"plain by {n}" / "image_tower.safetensors" for n in ("one", "two")]
    means = [load_file(tower)["backbone.bn1.running_mean"].float() for tower in towers]
    assert float((means[0] - means[1]).norm() / means[0].norm()) < 0.05


def test_two_processes_stream_what_one_does(runs: Runs) -> None:
    one, two = (log_of(runs.folder / f"streamed by {n}", "loss") for n in ("one", "two"))
    # The last batch of the epoch holds so few images that rounding grows in what follows.
    assert two[0] == pytest.approx(one[0], rel=1e-4)
    assert two == pytest.approx(one, rel=0.1)


def test_two_processes_go_on_where_one_stopped(runs: Runs) -> None:
    one, resumed = (log_of(runs.folder / n, "loss") for n in ("plain by one", "begun"))
    assert resumed == pytest.approx(one, rel=2e-3)


def test_one_of_the_processes_reports(runs: Runs) -> None:
    assert runs.reported.count("epoch 3: loss") == 4  # of as many runs


def test_two_processes_distil_as_one(runs: Runs) -> None:
    for column in ("loss", "logits", "features", "recognition"):
        pair = (runs.folder / "distilled by one", runs.folder / "halves by two")
        one, two = (log_of(run, column) for run in pair)
        assert two == pytest.approx(one, rel=5e-3), column


def test_lanes_that_do_not_go_round_are_refused(
    drawn: Path, tmp_path: Path, tiny_experiment: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 4)
    with pytest.raises(ValueError, match=r"lanes \(2\) must be a multiple of 4 processes"):
        make_trainer(drawn, tmp_path, tiny_experiment)
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 2)
    with pytest.raises(ValueError, match=r"accumulate \(2\) must divide the 1 lanes"):
        make_trainer(drawn, tmp_path, {**tiny_experiment, "accumulate": 2})


def test_half_precision_learns_and_keeps_its_weights_whole(
    drawn: Path, tmp_path: Path, tiny_experiment: dict[str, Any]
) -> None:
    # Twelve pictures a lane: of three, batch normalisation makes rounding as large as the loss.
    values = {**tiny_experiment, "batch_size": 24}
    values["stages"] = [{"epochs": 1, "image_size": 64}]
    trainer = make_trainer(drawn, tmp_path, {**values, "precision": "bf16"})
    trainer.learner.train()
    halved = trainer._backward(trainer._make_batch(0), 0.0)
    assert math.isfinite(trainer.run_epoch(lambda state: None)["contrastive"])
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    AcceleratorState._reset_state(reset_partial_state=True)
    other = make_trainer(drawn, tmp_path, values)
    other.learner.train()
    whole = other._backward(other._make_batch(0), 0.0)
    assert halved["contrastive"] == pytest.approx(whole["contrastive"], rel=0.1)
    assert halved != whole


def test_the_rate_warms_up_and_falls_by_half_a_cosine(
    drawn: Path, tmp_path: Path, tiny_experiment: dict[str, Any]
) -> None:
    trainer = make_trainer(drawn, tmp_path, {**tiny_experiment, "warmup_steps": 4})
    assert trainer.steps == 10
    rates = []
    for step in range(11):
        trainer.step = step
        rates.append(trainer._rate())
    assert rates[:4] == pytest.approx([0.00025, 0.0005, 0.00075, 0.001])
    falling = [0.001 * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * k / 6))) for k in range(7)]
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
    losses = trainer.run_epoch(lambda state: steps.append((trainer.step, set(state))))
    told = {"contrastive", "learning_rate", "logit_scale"}
    assert steps == [(1, told), (2, told), (3, told), (4, told)]
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
    prompts = {"planes": PLANE_PROMPTS, "brain_planes": BRAIN_PLANE_PROMPTS}
    validation = Validation(held, 64, prompts)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    first, second = validation.measure(model), validation.measure(model)
    assert first == second
    assert set(first) == {"planes_f1", "brain_planes_f1"}
    assert all(0 <= value <= 1 for value in first.values())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


def test_captions_alone_have_no_planes_to_validate(drawn: Path) -> None:
    free = [replace(e, facts=Facts(None, caption="x")) for e in read_examples(drawn, "train")[:3]]
    prompts = {"planes": PLANE_PROMPTS, "brain_planes": BRAIN_PLANE_PROMPTS}
    model = DualEncoder(ModelConfig(image_size=32, text_layers=1))
    assert Validation(free, 32, prompts).measure(model) == {}
