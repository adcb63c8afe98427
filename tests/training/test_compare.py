"""Runs side by side: measured alike, seeds put together, the best by the patients held out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from fetalclip_edge.results import PLANES
from training.compare import compare, main, markdown
from training.config import load_config
from training.datasets import Example, load_images
from training.models import DualEncoder, ModelConfig
from training.release import PROMPTS, Origin, load_release, save_release
from training.session import train_and_validation
from training.shards import read_examples, read_manifest
from training.validation import Validation
from training.zero_shot import embed_images

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path, drawn: Path, experiment: Path, tiny_model: dict[str, Any]) -> MakeRun:
    """Writes a run of an untrained model whose figures are what the seed makes them."""
    held = train_and_validation(drawn, load_config(experiment))[1]

    def make(seed: int, held_out: frozenset[str] | None = None, data: str | None = None) -> Path:
        torch.manual_seed(seed)
        model = DualEncoder(ModelConfig(**tiny_model)).eval()
        folder = tmp_path / f"seed_{seed}"
        folder.mkdir()
        origin = Origin("pretrain", data_sha256=data or read_manifest(drawn)["sha256"])
        own = {e.group for e in held} if held_out is None else held_out
        save_release(folder, model, {}, own, origin)
        return folder

    return make


def expected(folder: Path, examples: list[Example], tiny_model: dict[str, Any]) -> dict[str, float]:
    """By the code that validates while a model learns, which shares nothing with the command's."""
    torch.manual_seed(int(folder.name.removeprefix("seed_")))
    model = DualEncoder(ModelConfig(**tiny_model)).eval()
    planes = [e for e in examples if e.head_circumference_mm is None]
    return Validation(planes, 64, PROMPTS).measure(model)


def test_runs_are_measured_on_held_out_and_test_patients(
    drawn: Path, experiment: Path, make_run: MakeRun, tiny_model: dict[str, Any]
) -> None:
    folders = [make_run(seed) for seed in range(3)]
    report = compare([("a", folders[0]), ("b", folders[1]), ("a", folders[2])], drawn)
    held = train_and_validation(drawn, load_config(experiment))[1]
    for run, folder in zip(report["runs"], folders, strict=True):
        for split, examples in (("validation", held), ("test", read_examples(drawn, "test"))):
            wanted = expected(folder, examples, tiny_model)
            assert run[split]["planes"] == pytest.approx(wanted["planes_f1"])
            assert run[split]["brain_planes"] == pytest.approx(wanted["brain_planes_f1"])
    assert [run["method"] for run in report["runs"]] == ["a", "b", "a"]
    # Of the two patients of the test split one has images of three kinds, the other of six.
    assert (report["images"]["test"], report["patients"]["test"]) == (9, 2)


def test_seeds_of_a_method_are_put_together_and_the_best_is_named(
    drawn: Path, make_run: MakeRun
) -> None:
    folders = [make_run(seed) for seed in range(3)]
    report = compare([("a", folders[0]), ("b", folders[1]), ("a", folders[2])], drawn)
    first, other, second = report["runs"]
    spread = report["methods"]["a"]["test"]["planes"]
    values = sorted((first["test"]["planes"], second["test"]["planes"]))
    assert [spread["smallest"], spread["largest"]] == values
    assert spread["mean"] == pytest.approx(sum(values) / 2)
    assert report["methods"]["a"]["runs"] == 2
    assert report["methods"]["b"]["test"]["planes"]["mean"] == other["test"]["planes"]
    by_validation = {run["run"]: sum(run["log_loss"].values()) for run in report["runs"]}
    assert by_validation[report["best"]["run"]] == min(by_validation.values())
    table = markdown(report).splitlines()
    assert [line.split("|")[1].strip() for line in table[2:4]] == ["a", "b"]
    assert f"Best by validation (least log loss): {report['best']['run']}" in table[-1]


def test_the_log_loss_is_torchs_cross_entropy_at_the_models_own_scale(
    drawn: Path, experiment: Path, make_run: MakeRun
) -> None:
    folder = make_run(0)
    release = load_release(folder)
    held = train_and_validation(drawn, load_config(experiment))[1]
    planes = [e for e in held if e.head_circumference_mm is None]
    pixels = load_images(planes, release.config.image_size, "held", quiet=True)
    logits = release.scale * (
        embed_images(release.tower, pixels) @ torch.from_numpy(release.embeddings["planes"]).T
    )
    truth = torch.tensor([PLANES.index(e.facts.plane) for e in planes])
    expected = torch.nn.functional.cross_entropy(logits, truth).item()
    [run] = compare([("a", folder)], drawn)["runs"]
    assert run["log_loss"]["planes"] == pytest.approx(expected, rel=1e-3)


def test_runs_that_cannot_be_compared_are_refused(drawn: Path, make_run: MakeRun) -> None:
    first = make_run(0)
    with pytest.raises(ValueError, match="given twice"):
        compare([("a", first), ("b", first)], drawn)
    with pytest.raises(ValueError, match="held out other patients"):
        compare([("a", first), ("a", make_run(1, frozenset({"planes/1"})))], drawn)
    with pytest.raises(ValueError, match="was not trained on"):
        compare([("a", first), ("a", make_run(2, data="f" * 64))], drawn)


def test_the_command_writes_what_it_prints(
    drawn: Path, tmp_path: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(0)
    main([f"alone={folder}"], drawn, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert report["best"] == {"method": "alone", "run": str(folder)}
    assert (tmp_path / "out" / "comparison.md").read_text() == markdown(report)
    shown = capsys.readouterr().out.replace("\n", "")
    assert f"{folder} (alone)" in shown


@pytest.mark.parametrize("given", ["seed_0", "=seed_0", "alone="])
def test_a_run_without_a_name_is_refused(
    given: str, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as error:
        main([given], drawn)
    assert error.value.exit_code == 2
    assert "NAME=FOLDER" in capsys.readouterr().err
