"""The command that prepares data, run as a user runs it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import data, shards


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the command ended and what it printed, with single blanks between the words."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    # So wide that no line is broken.
    monkeypatch.setenv("COLUMNS", "1000")

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr("sys.argv", ["training.data", *map(str, arguments)])
        with pytest.raises(SystemExit) as raised:
            data.main()
        captured = capsys.readouterr()
        code = raised.value.code or 0
        assert isinstance(code, int)
        return Outcome(code, " ".join(captured.out.split()), " ".join(captured.err.split()))

    return run


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 24)).astype(np.uint8)).save(
        path
    )


@pytest.fixture
def data_sets(tmp_path: Path) -> tuple[Path, Path]:
    """FETAL_PLANES_DB and HC18, a few drawn images of each, laid out as published."""
    planes, heads = tmp_path / "FETAL_PLANES_ZENODO", tmp_path / "HC18"
    table = ["Image_name;Patient_num;Plane;Brain_plane;Operator;US_Machine;Train "]
    for number in range(20):
        name = f"Patient{number:05d}_Plane3_1_of_1"
        brain = "Fetal brain;Trans-thalamic" if number % 2 else "Fetal femur;Not A Brain"
        table.append(f"{name};{number};{brain};Other;Aloka;{int(number < 14)}")
        draw(planes / "Images" / f"{name}.png", number)
    (planes / "FETAL_PLANES_DB_data.csv").write_text("\n".join(table))
    table = ["filename,pixel size(mm),head circumference (mm)"]
    for subject in range(20):
        table.append(f"{subject:03d}_HC.png,0.1,{170 + subject}")
        draw(heads / "training_set" / f"{subject:03d}_HC.png", 100 + subject)
        draw(heads / "training_set" / f"{subject:03d}_HC_Annotation.png", 200 + subject)
    (heads / "training_set_pixel_size_and_HC.csv").write_text("\n".join(table))
    draw(heads / "test_set" / "000_HC.png", 300)
    return planes, heads


def test_two_releases_become_one_data_set(
    run: Run, data_sets: tuple[Path, Path], tmp_path: Path
) -> None:
    outcome = run(*data_sets, "--out", tmp_path / "shards")
    assert outcome.code == 0
    # Of HC18's subjects 000 to 019, 002, 012 and 017 are for the test.
    for row in ("brain │ 24 │ 6", "femur │ 7 │ 3", "trans-thalamic │ 7 │ 3", "images │ 31 │ 9"):
        assert row in outcome.out
    assert "FETAL_PLANES_DB: 20 images" in outcome.err
    assert "HC18: 20 images" in outcome.err
    assert "The fifth of its training subjects" in outcome.err
    assert "1 left out: hc18/test_set: HC18 publishes no head circumference" in outcome.err
    examples = shards.read_examples(tmp_path / "shards", "test", verify=True)
    assert {e.group for e in examples} == {
        *(f"planes/{number}" for number in range(14, 20)),
        "hc18/002",
        "hc18/012",
        "hc18/017",
    }


def test_images_that_cannot_be_read_are_printed_and_listed(
    run: Run, data_sets: tuple[Path, Path], tmp_path: Path
) -> None:
    images = sorted((data_sets[0] / "Images").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:100])
    images[1].unlink()
    outcome = run(data_sets[0], "--out", tmp_path / "shards")
    assert outcome.code == 0
    assert "2 left out:" in outcome.err
    assert f"planes/Images/{images[0].name}: cannot be decoded" in outcome.err
    assert f"planes/Images/{images[1].name}: No such file or directory" in outcome.err
    manifest = json.loads((tmp_path / "shards" / "manifest.json").read_text())
    assert {left["file"] for left in manifest["left_out"]} == {
        f"planes/Images/{image.name}" for image in images[:2]
    }
    assert manifest["splits"]["train"]["images"] == 12


def test_a_long_list_of_lost_images_is_cut_on_the_screen_only(
    run: Run, data_sets: tuple[Path, Path], tmp_path: Path
) -> None:
    table = tmp_path / "captions.csv"
    lines = [f"gone-{number}.png,A head" for number in range(30)]
    inside = data_sets[1] / "training_set" / "000_HC.png"
    lines.append(f"{inside.relative_to(tmp_path)},A head")
    table.write_text("\n".join(["image,caption", *lines]))
    outcome = run(table, "--out", tmp_path / "shards")
    assert "30 left out:" in outcome.err
    assert outcome.err.count("No such file") == 20
    assert "and 10 more, all in manifest.json" in outcome.err
    assert "with a caption of their own │ 1 │ 0" in outcome.out
    manifest = json.loads((tmp_path / "shards" / "manifest.json").read_text())
    assert len(manifest["left_out"]) == 30


def test_stopped_by_the_user_it_goes_on_with_the_same_command(
    run: Run, data_sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "shards"
    assert run(*data_sets, "--out", whole, "--images-per-shard", 5).code == 0
    encoded, calls = shards._encoded, []

    def interrupted(path: Path) -> object:
        calls.append(path)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return encoded(path)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "_encoded", interrupted)
        outcome = run(*data_sets, "--out", out, "--images-per-shard", 5)
    assert outcome.code == 130
    assert "Give the same command again to go on" in outcome.err
    # Two shards of at most five are whole, and nothing is half there.
    assert sorted(path.name for path in out.iterdir()) == [
        f"train-00000{number}.{suffix}" for number in (0, 1) for suffix in ("json", "tar")
    ]
    assert run(*data_sets, "--out", out, "--images-per-shard", 5).code == 0
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {
        p.name: p.read_bytes() for p in whole.iterdir()
    }


def test_mistakes_end_with_code_2_and_a_sentence(
    run: Run, data_sets: tuple[Path, Path], tmp_path: Path
) -> None:
    planes, heads = data_sets
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad[1].csv").write_text("image,caption\n,A head\n")
    out = tmp_path / "shards"
    for source, told in (
        (tmp_path / "nowhere", "error: SOURCE .*nowhere does not exist"),
        (tmp_path / "empty", "error: SOURCE .* has no known layout: it holds none of FETAL"),
        (tmp_path / "bad[1].csv", r"error: .*bad\[1\]\.csv, line 2: image is empty"),
    ):
        outcome = run(source, "--out", out)
        assert outcome.code == 2
        assert re.search(told, outcome.err)
        assert outcome.out == ""
    assert not out.exists()
    assert run(planes, "--out", out).code == 0
    outcome = run(heads, "--out", out)
    assert outcome.code == 2
    assert "holds shards of other sources" in outcome.err
    assert run(planes, "--out", out, "--images-per-shard", 0).code == 2
    assert run(planes).code == 2


def test_the_help_teaches(run: Run) -> None:
    outcome = run("--help")
    assert outcome.code == 0
    for told in (
        "FETAL_PLANES_DB_data.csv and Images/",
        "training_set_pixel_size_and_HC.csv and training_set/",
        "columns image and caption",
        "Example: python -m training.data",
    ):
        assert told in outcome.out


@pytest.mark.data
def test_the_real_subset_is_prepared_in_one_command(
    run: Run, data_root: Path, tmp_path: Path
) -> None:
    outcome = run(data_root, "--out", tmp_path / "shards")
    assert outcome.code == 0
    assert "images │ 1769 │ 671" in outcome.out
    assert "left out" not in outcome.err
    assert len(shards.read_examples(tmp_path / "shards", "train")) == 1769
