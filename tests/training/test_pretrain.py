"""Training by the real command, on drawn pictures: it resumes exactly and never sees the test."""

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

import numpy as np
import pytest
import torch
import typer
import yaml
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from training.augment import augment
from training.config import ExperimentConfig, Stage, load_config
from training.datasets import Example
from training.facts import Facts
from training.models import DualEncoder, ModelConfig
from training.pretrain import (
    Split,
    Trainer,
    _sampling_weights,
    load_split,
    main,
    train_and_validation,
    validate,
)
from training.progress import image_progress
from training.release import load_release

TINY = {"image_size": 64, "embed_dim": 16, "text_width": 32, "text_heads": 2, "text_layers": 1}
EXPERIMENT = {
    "seed": 3,
    "holdout": 0.3,
    "canvas": 64,
    "batch_size": 6,
    "learning_rate": 0.001,
    "weight_decay": 0.05,
    "warmup_steps": 2,
    "average_decay": 0.9,
    "stages": [{"epochs": 1, "image_size": 32}, {"epochs": 1, "image_size": 64}],
    "model": TINY,
}
KINDS = [
    ("Fetal abdomen", ""),
    ("Fetal femur", ""),
    ("Fetal thorax", ""),
    ("Fetal brain", "Trans-thalamic"),
    ("Fetal brain", "Trans-cerebellum"),
    ("Fetal brain", "Trans-ventricular"),
]


def write_table(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in the layout of the real images; files of the test split cannot be opened."""
    root = tmp_path_factory.mktemp("drawn")
    rng = np.random.default_rng(0)
    for name in ("planes", "hc18"):
        (root / name / "images").mkdir(parents=True)

    def picture(path: Path, split: str) -> None:
        if split == "test":
            path.write_bytes(b"never to be opened")
        else:
            Image.fromarray(rng.integers(0, 256, (50, 70)).astype(np.uint8)).save(path)

    planes: list[dict[str, object]] = []
    for patient in range(12):
        split = "test" if patient in (4, 9) else "train"
        for index, (plane, part) in enumerate(KINDS if patient % 2 else KINDS[3:]):
            file = f"images/p{patient}_{index}.jpg"
            picture(root / "planes" / file, split)
            planes.append(
                {
                    "file": file,
                    "patient": patient,
                    "plane": plane,
                    "brain_plane": part,
                    "split": split,
                }
            )
    write_table(root / "planes" / "labels.csv", planes)
    heads: list[dict[str, object]] = []
    for subject in range(8):
        split = "test" if subject == 5 else "train"
        file = f"images/{subject:03d}_HC.jpg"
        picture(root / "hc18" / file, split)
        heads.append(
            {
                "file": file,
                "subject": f"{subject:03d}",
                "head_circumference_mm": 150 + 10 * subject,
                "pixel_size_mm": 0.2,
                "split": split,
            }
        )
    write_table(root / "hc18" / "labels.csv", heads)
    return root


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("experiment") / "tiny.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENT))
    return path


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


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_trainer(drawn: Path, **changes: object) -> Trainer:
    config = replace(
        ExperimentConfig(
            seed=0,
            holdout=0.3,
            canvas=64,
            batch_size=6,
            learning_rate=0.01,
            weight_decay=0.0,
            warmup_steps=4,
            average_decay=0.9,
            stages=(Stage(3, 32),),
            model=ModelConfig(**TINY),  # type: ignore[arg-type]
        ),
        **changes,  # type: ignore[arg-type]
    )
    learn, _ = train_and_validation(drawn, config)
    return Trainer(config, load_split(learn, config.canvas, "reading"))


def test_the_run_holds_what_the_export_reads(unbroken: Path) -> None:
    release = load_release(unbroken)
    assert release.config == ModelConfig(**TINY)  # type: ignore[arg-type]
    assert set(release.validation) == {"planes_f1", "brain_planes_f1"}
    with (unbroken / "log.csv").open(newline="", encoding="utf-8") as file:
        log = list(csv.DictReader(file))
    assert [row["epoch"] for row in log] == ["1", "2"]
    assert all(math.isfinite(float(value)) for row in log for value in row.values())
    # The last row is what was written down as the validation.
    assert float(log[-1]["planes_f1"]) == release.validation["planes_f1"]


def test_held_out_patients_are_none_that_was_learned_from(
    unbroken: Path, drawn: Path, experiment: Path
) -> None:
    held_out = set(json.loads((unbroken / "model.json").read_text())["held_out"])
    learn, held = train_and_validation(drawn, load_config(experiment))
    assert held_out == {e.group for e in held}
    assert held_out
    assert not held_out & {e.group for e in learn}
    assert not held_out & {"planes/4", "planes/9", "hc18/005"}


def test_what_was_written_is_the_average_in_half_precision(unbroken: Path) -> None:
    state = torch.load(unbroken / "checkpoint.pt", weights_only=True)
    assert state["epoch"] == 2
    stored = load_file(unbroken / "image_tower.safetensors")
    moved = 0
    for name, value in stored.items():
        average = state["average"][f"image.{name}"]
        assert torch.equal(value, average.half() if average.is_floating_point() else average)
        moved += not torch.equal(average, state["model"][f"image.{name}"])
    assert moved > 50


def test_a_run_cut_off_goes_on_to_the_same_weights(
    unbroken: Path,
    drawn: Path,
    experiment: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = Trainer.run_epoch

    def cut_off(trainer: Trainer, progress: object) -> float:
        if trainer.epoch == 1:
            trainer._step(torch.arange(6), 64)  # some work that is lost
            raise KeyboardInterrupt
        return real(trainer, progress)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_epoch", cut_off)
        with pytest.raises(KeyboardInterrupt):
            main(experiment, tmp_path, drawn)
    assert not (tmp_path / "model.json").exists()
    main(experiment, tmp_path, drawn)

    whole = torch.load(unbroken / "checkpoint.pt", weights_only=True)
    resumed = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    for part in ("model", "average"):
        for name, value in whole[part].items():
            assert torch.equal(value, resumed[part][name]), f"{part}: {name}"
    assert torch.equal(whole["rng"], resumed["rng"])
    assert whole["words"] == resumed["words"]
    names = ["image_tower.safetensors", "prompts.safetensors", "model.json", "log.csv"]
    for name in names:
        assert (unbroken / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_a_finished_run_is_left_as_it_is(unbroken: Path, drawn: Path, experiment: Path) -> None:
    before = (unbroken / "image_tower.safetensors").read_bytes()
    main(experiment, unbroken, drawn)
    assert (unbroken / "image_tower.safetensors").read_bytes() == before
    assert len((unbroken / "log.csv").read_text().splitlines()) == 3


def test_a_checkpoint_of_another_experiment_is_refused(
    unbroken: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**EXPERIMENT, "learning_rate": 0.002}))
    before = (unbroken / "checkpoint.pt").read_bytes()
    with pytest.raises(typer.Exit) as exit_:
        main(other, unbroken, drawn)
    assert exit_.value.exit_code == 2
    assert "another configuration" in " ".join(capsys.readouterr().err.split())
    assert (unbroken / "checkpoint.pt").read_bytes() == before


def test_bad_input_ends_with_a_message_and_code_2(
    drawn: Path, experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    big = tmp_path / "big.yaml"
    big.write_text(yaml.safe_dump({**EXPERIMENT, "batch_size": 500}))
    for config, data, told in (
        (tmp_path / "none.yaml", drawn, "none.yaml"),
        (experiment, tmp_path, "labels.csv"),
        (big, drawn, "batch_size must be at most"),
    ):
        with pytest.raises(typer.Exit) as exit_:
            main(config, tmp_path / "out", data)
        assert exit_.value.exit_code == 2
        assert told in "".join(capsys.readouterr().err.split("\n"))
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = small_trainer(drawn)
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


def test_the_rate_warms_up_and_falls_by_half_a_cosine(drawn: Path) -> None:
    trainer = small_trainer(drawn)
    steps = 3 * trainer.steps_per_epoch
    assert trainer.steps_per_epoch == len(trainer.train.examples) // 6
    rates = []
    for _ in range(steps + 1):
        rates.append(trainer.schedule.get_last_lr()[0])
        trainer.optimizer.step()
        trainer.schedule.step()
    assert rates[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    middle = [
        0.01 * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * k / (steps - 4))))
        for k in range(steps - 3)
    ]
    assert rates[4:] == pytest.approx(middle)
    assert rates[-1] == pytest.approx(0.0001)


def test_rare_kinds_are_drawn_by_the_inverse_root_of_their_number() -> None:
    thalamic, head = Facts("brain", "trans-thalamic"), Facts("brain", pixel_size_mm=0.2)
    facts = [Facts("femur")] * 9 + [thalamic] * 4 + [head]
    weights = _sampling_weights([Example(Path("x"), f, "g") for f in facts])
    assert weights.tolist() == pytest.approx([1 / 3] * 9 + [1 / 2] * 4 + [1.0])


def test_a_pixel_of_a_view_covers_what_it_covers_in_the_body(tmp_path: Path) -> None:
    # A disc of 40 mm across, on a stored image of 300 x 400 pixels of 0.2 mm.
    y, x = np.mgrid[:300, :400]
    disc = (((x - 199.5) ** 2 + (y - 149.5) ** 2) <= 100**2) * 255
    Image.fromarray(disc.astype(np.uint8)).save(tmp_path / "disc.png")
    example = Example(tmp_path / "disc.png", Facts("brain", pixel_size_mm=0.2), "g")
    config = ExperimentConfig(
        seed=0,
        holdout=0.3,
        canvas=192,
        batch_size=2,
        learning_rate=0.01,
        weight_decay=0.0,
        warmup_steps=0,
        average_decay=0.9,
        stages=(Stage(1, 128),),
        model=ModelConfig(**TINY),  # type: ignore[arg-type]
    )
    trainer = Trainer(config, load_split([example, example], 192, "reading"))
    images = trainer.train.images[:1].repeat(200, 1, 1, 1)
    views, zooms = augment(images, 128, torch.Generator().manual_seed(0))
    diameters = []
    for view, zoom in zip(views, zooms.tolist(), strict=True):
        pixel_size = trainer._facts_of_view(0, 128, zoom).pixel_size_mm
        assert pixel_size is not None
        diameters.append(2 * math.sqrt(int((view > 10).sum()) / math.pi) * pixel_size)
    assert np.median(diameters) == pytest.approx(40, rel=0.03)


def test_facts_without_a_pixel_size_stay_as_they_are(drawn: Path) -> None:
    trainer = small_trainer(drawn)
    index = next(i for i, e in enumerate(trainer.train.examples) if e.facts.pixel_size_mm is None)
    assert trainer._facts_of_view(index, 32, 1.2) == trainer.train.examples[index].facts


def test_an_epoch_learns(drawn: Path) -> None:
    trainer = small_trainer(drawn)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    with image_progress(Console(quiet=True)) as progress:
        loss = trainer.run_epoch(progress)
    assert math.isfinite(loss)
    assert trainer.epoch == 1
    assert trainer.average.updates == trainer.steps_per_epoch
    after = trainer.model.state_dict()
    assert all(torch.isfinite(v).all() for v in after.values())
    moved = {name.split(".")[0] for name, v in after.items() if not torch.equal(v, before[name])}
    assert moved == {"image", "text", "log_scale"}


def test_validation_neither_learns_nor_draws_random_numbers(drawn: Path) -> None:
    torch.manual_seed(0)
    model = DualEncoder(ModelConfig(**TINY))  # type: ignore[arg-type]
    config = small_trainer(drawn).config
    _, held = train_and_validation(drawn, config)
    split: Split = load_split(held, 64, "reading")
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    first, second = validate(model, split), validate(model, split)
    assert first == second
    assert all(0 <= value <= 1 for value in first.values())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
