"""The four commands of docs/training.md, from published weights to answers, word by word."""

from __future__ import annotations

import csv
import importlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
import yaml
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

import fetalclip_edge as fe
from calibration.settings import Settings
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.results import PLANES
from training.models.untrained import as_published, untrained_model

from . import small

KINDS = [
    ("Fetal abdomen", "Not A Brain"),
    ("Fetal femur", "Not A Brain"),
    ("Fetal thorax", "Not A Brain"),
    ("Fetal brain", "Trans-thalamic"),
    ("Fetal brain", "Trans-cerebellum"),
    ("Fetal brain", "Trans-ventricular"),
]
SUBJECTS = 12


def picture(kind: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Stripes in the direction of their kind."""
    y, x = np.mgrid[:48, :64] / 64
    angle = np.pi * kind / 7
    wave = np.sin(40 * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6))
    levels = 128 + 90 * wave + rng.normal(0, 8, wave.shape)
    return levels.clip(0, 255).astype(np.uint8)


def publish_data(root: Path) -> None:
    """FETAL_PLANES_DB of eight patients and HC18 of twelve heads, as they are published."""
    rng = np.random.default_rng(0)
    (root / "FETAL_PLANES" / "Images").mkdir(parents=True)
    lines = ["Image_name;Patient_num;Plane;Brain_plane;Train "]
    for patient in range(8):
        for kind, (plane, part) in enumerate(KINDS):
            name = f"Patient{patient:05d}_Plane{kind}_1_of_1"
            Image.fromarray(picture(kind, rng)).save(
                root / "FETAL_PLANES" / "Images" / f"{name}.png"
            )
            lines.append(f"{name};{patient};{plane};{part};{int(patient < 6)}")
    (root / "FETAL_PLANES" / "FETAL_PLANES_DB_data.csv").write_text("\r\n".join(lines))
    (root / "HC18" / "training_set").mkdir(parents=True)
    with (root / "HC18" / "training_set_pixel_size_and_HC.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["filename", "pixel size(mm)", "head circumference (mm)"])
        for subject in range(SUBJECTS):
            name = f"{subject:03d}_HC.png"
            Image.fromarray(picture(6, rng)).save(root / "HC18" / "training_set" / name)
            table.writerow([name, 0.2, 150 + 10 * subject])


def commands(repository: Path) -> list[list[str]]:
    """The first lines of code in the documentation."""
    text = (repository / "docs" / "training.md").read_text(encoding="utf-8")
    block = re.search(r"```\n(.*?)```", text, re.DOTALL)
    assert block is not None
    lines = block[1].replace("\\\n", " ").strip().splitlines()
    return [shlex.split(line) for line in lines]


def test_the_four_commands_lead_from_published_weights_to_answers(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given FetalCLIP's file, small and with random weights, the data as published, and the
    # configuration that the documentation names, for small pictures
    small.shrink(monkeypatch)
    monkeypatch.setattr("export.bundle._TIMING_ROUNDS", 2)
    monkeypatch.setattr("export.bundle._SETTINGS", Settings(frames=16))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(as_published(untrained_model("fetalclip")), "FetalCLIP_weights.pt")
    publish_data(tmp_path)
    install, *rest = commands(repository)
    assert install == ["pip", "install", "-e", ".[export]"]
    assert len(rest) == 3
    config = yaml.safe_load((repository / rest[1][3]).read_text(encoding="utf-8"))
    config |= {"batch_size": 16, "canvas": 64, "views": 2, "holdout": 0.2}
    config |= {"warmup_steps": 2, "average_decay": 0.9}  # there are four steps
    config["stages"] = [{"epochs": 2, "image_size": 64}]
    config["model"]["image_size"] = 64
    Path(rest[1][3]).parent.mkdir(parents=True)
    Path(rest[1][3]).write_text(yaml.safe_dump(config))
    # When the commands are given as they stand there, but for the precision: INT8 of a student
    # that has learned next to nothing is refused
    rest[2] += ["--precision", "fp32"]
    for python, flag, module, *arguments in rest:
        assert (python, flag) == ("python", "-m")
        app = typer.Typer()
        entry = "prepare" if module == "training.data" else "main"
        app.command()(getattr(importlib.import_module(module), entry))
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
    # Then the bundle answers, and says what binds it and what it cannot do
    bundle = rest[2][rest[2].index("--out") + 1]
    model = fe.load(bundle, "onnxruntime")
    result = model.analyze(picture(3, np.random.default_rng(1)), pixel_size_mm=0.2)
    assert set(result.plane.scores) == set(PLANES)
    assert sum(result.plane.scores.values()) == pytest.approx(1)
    assert result.embedding.shape == (16,)
    assert ModelBundle.load(bundle).license == "CC-BY-NC-4.0"
    manifest = json.loads((Path(bundle) / "manifest.json").read_text())
    assert manifest["training"] == {"method": "distill", "teacher": "fetalclip"}
    assert "validation heads" in manifest["metrics"]["age_bank"]["left_out"]
