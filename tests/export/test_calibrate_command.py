"""`python -m calibration.int8`: graphs for every runtime and a report, or why there are none."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
import typer
from PIL import Image
from rich.console import Console

import calibration.attempts as attempts
import calibration.int8 as calibrator
from calibration.attempts import Attempt, Work, until_it_passes
from calibration.families import CPU, FAMILIES, GPU, Family
from calibration.gate import Judgement
from calibration.int8 import main
from calibration.sensitivity import Sensitivity
from calibration.settings import Settings, load_settings
from training.models import DualEncoder, ModelConfig
from training.release import Origin, save_release
from training.shards import write_shards
from training.sources import DataSet

from .conftest import HELD_PATIENTS

FAILURE = "F1 of femur falls by 40.0 points"


class Made(NamedTuple):
    folder: Path
    report: dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, drawn: Path, run: Path) -> Made:
    out = tmp_path_factory.mktemp("calibrated") / "out"
    config = out.parent / "few.yaml"
    config.write_text("frames: 32\nseed: 5\nlayers_in_float: 0\ngate:\n  p01_cosine: 0.8\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempts, "_RANKED_ON", 4)
        main(run, drawn, out, config)
    return Made(out, json.loads((out / "report.json").read_text()))


def test_both_graphs_pass_and_are_written(made: Made) -> None:
    graphs = {graph["file"]: graph for graph in made.report["graphs"].values()}
    assert set(graphs) == {"encoder.cpu.onnx", "encoder.int8.onnx"}
    for name, graph in graphs.items():
        assert graph["passed"]
        assert 0.99 < graph["cosine_mean"] < 1.0001
        constants = onnx.load(made.folder / name).graph.initializer
        assert any(c.data_type == onnx.TensorProto.INT8 and len(c.dims) == 4 for c in constants)


def test_every_layer_has_its_cost_the_worst_first(made: Made) -> None:
    costs = [layer["loss"] for layer in made.report["layers"]]
    assert costs == sorted(costs, reverse=True)
    graph = onnx.load(made.folder / "encoder.int8.onnx").graph
    names = {node.name for node in graph.node if node.op_type == "Conv"}
    assert {layer["layer"] for layer in made.report["layers"]} == names
    assert 0 < costs[0] < 0.5


def test_the_report_can_be_read_and_shows_no_patient(made: Made) -> None:
    told = (made.folder / "report.md").read_text()
    assert "- scanners: unknown 32 (python -m training.data writes shards that tell" in told
    worst = made.report["layers"][0]["layer"]
    for words in (
        f"sha256 of frames: {made.report['calibration']['sha256_of_frames']}",
        "`encoder.int8.onnx` passed the gate.",
        "| thorax, F1 ",
        f"| {worst} ",
        "![what each layer costs](sensitivity.png)",
    ):
        assert words in told, words
    pictures = {path.name for path in made.folder.glob("*.png")}
    assert pictures == {"sensitivity.png", "accuracy.png"}
    for name in pictures:
        with Image.open(made.folder / name) as picture:
            assert picture.width > 500
            assert len(np.unique(np.asarray(picture.convert("L")))) > 10


def test_the_settings_that_were_taken_lie_beside_it(made: Made) -> None:
    found = load_settings(made.folder / "settings.yaml")
    assert (found.frames, found.seed, found.gate.p01_cosine) == (32, 5, 0.8)


# Leaving layers in float32


def judgement(*failures: str) -> Judgement:
    return Judgement({}, {}, {}, 1.0, 1.0, (0.0, 0.0), list(failures))


def tried(work: Path, *failures: str) -> dict[Family, Attempt]:
    return {f: Attempt(work / f.file, {}, judgement(*failures)) for f in FAMILIES}


@pytest.mark.parametrize(("needed", "allowed"), [(0, 4), (2, 4), (4, 2), (1, 0)])
def test_the_worst_layers_stay_in_float_until_it_passes_or_it_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needed: int, allowed: int
) -> None:
    # Given a graph that passes with so many of its worst layers in float
    asked: list[list[str]] = []

    def write(*given: Any) -> dict[Family, Path]:
        asked.append(list(given[5]))
        assert given[6] == [CPU, GPU]  # those that failed
        return {CPU: tmp_path, GPU: tmp_path}

    def look(_work: Work, _paths: Mapping[Family, Path], _gate: object) -> dict[Family, Attempt]:
        return tried(tmp_path, *([] if len(asked[-1]) >= needed else [FAILURE]))

    monkeypatch.setattr(attempts, "write_graphs", write)
    monkeypatch.setattr(attempts, "judge_graphs", look)
    layers = [Sensitivity(name, 0.1) for name in "abcdef"]
    work = Work(tmp_path, (0.5, 0.5), np.zeros((1, 1, 8, 8), np.uint8), [], *[None] * 3, tmp_path)  # type: ignore[arg-type]
    console = Console(file=io.StringIO(), width=200)
    # When it is tried
    first = tried(tmp_path, *([] if needed == 0 else [FAILURE]))
    found = until_it_passes(work, Settings(layers_in_float=allowed), first, console, layers)
    # Then no more than that are left in float, and what failed is said
    count = min(needed, allowed)
    assert found.in_float == dict.fromkeys(FAMILIES, tuple("abcdef"[:count]))
    assert asked == [list("abcdef"[:n]) for n in range(1, count + 1)]
    assert found.attempts[GPU].judgement.passed == (needed <= allowed)
    assert isinstance(console.file, io.StringIO)
    assert (FAILURE in console.file.getvalue()) == (needed > 0)


def test_only_the_graph_that_fails_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[Family]] = []

    def write(*given: Any) -> dict[Family, Path]:
        asked.append(given[6])
        return dict.fromkeys(given[6], tmp_path)

    def look(_work: Work, paths: Mapping[Family, Path], _gate: object) -> dict[Family, Attempt]:
        return {family: tried(tmp_path)[family] for family in paths}

    monkeypatch.setattr(attempts, "write_graphs", write)
    monkeypatch.setattr(attempts, "judge_graphs", look)
    first = {CPU: tried(tmp_path)[CPU], GPU: tried(tmp_path, FAILURE)[GPU]}
    work = Work(tmp_path, (0.5, 0.5), np.zeros((1, 1, 8, 8), np.uint8), [], *[None] * 3, tmp_path)  # type: ignore[arg-type]
    console = Console(file=io.StringIO())
    layers = [Sensitivity("stem", 0.2), Sensitivity("head", 0.1)]
    found = until_it_passes(work, Settings(), first, console, layers)
    assert asked == [[GPU]]
    assert found.in_float == {CPU: (), GPU: ("stem",)}
    assert found.attempts[CPU] is first[CPU]


# A ViT


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained ViT, with the patients of the drawn shards held out."""
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    text = {"text_width": 32, "text_heads": 2, "text_layers": 1}
    config = ModelConfig(image_size=160, embed_dim=16, backbone="test_vit", **text)
    held = [f"planes/{i}" for i in HELD_PATIENTS]
    save_release(folder, DualEncoder(config).eval(), {"planes_f1": 0.1}, held, Origin("pretrain"))
    return folder


def test_a_vit_gets_both_graphs_without_a_word_of_how(
    vit: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "_TRANSFORMERS_RANKED_ON", 2)
    config = tmp_path / "loose.yaml"
    config.write_text(
        "frames: 16\nlayers_in_float: 0\nin_float: [/backbone/blocks/blocks.0/mlp/fc1/MatMul]\n"
        "gate: {macro_f1_drop: 100, class_f1_drop: 100, agreement: 0, calibration_error_rise: 1}\n"
    )
    main(vit, drawn, tmp_path / "out", config)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {g["file"] for g in report["graphs"].values()} == {
        "encoder.cpu.onnx",
        "encoder.int8.onnx",
    }
    assert report["calibration"]["method_of_the_symmetric_graph"] == "torch-smoothquant"
    assert load_settings(tmp_path / "out" / "settings.yaml").method == "torch-smoothquant"
    # 24 layers, of which one stays in float; the GPU's has the patch embedding besides
    assert len(report["layers"]) == 23
    for graph, rounded in zip(report["graphs"].values(), (23, 24), strict=True):
        assert graph["cosine_mean"] > 0.99
        weights = onnx.load(tmp_path / "out" / graph["file"]).graph.initializer
        integers = [c for c in weights if c.data_type == onnx.TensorProto.INT8 and len(c.dims) > 1]
        assert len(integers) == rounded


# Bad input


@pytest.fixture
def refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """How the command ends that must end badly, and what it says."""

    def end(data: Path, **told: Any) -> tuple[int, str]:
        with pytest.raises(typer.Exit) as exit_:
            main(told.pop("model", run), data, tmp_path / "out", **told)
        assert not list((tmp_path / "out").glob("*.onnx"))
        return exit_.value.exit_code, " ".join(capsys.readouterr().err.split())

    return end


Refused = Callable[..., tuple[int, str]]


def test_missing_data_is_told(refused: Refused, tmp_path: Path) -> None:
    code, said = refused(tmp_path / "nowhere")
    assert code == 2
    assert "python -m training.data" in said


def test_too_few_frames_are_told(refused: Refused, drawn: Path, tmp_path: Path) -> None:
    config = tmp_path / "many.yaml"
    config.write_text("frames: 5000\n")
    code, said = refused(drawn, config=config)
    assert code == 2
    # 8 pictures of each of 24 patients, and 105 heads
    assert "5000 calibration frames are wanted, only 297 are there" in said


def test_a_plane_that_is_absent_is_told(
    refused: Refused, run: Path, pictures: dict[str, DataSet], tmp_path: Path
) -> None:
    # Given shards whose femurs are all of patients held out, or of the test
    held = set(json.loads((run / "model.json").read_text())["held_out"])
    kept = [
        record
        for record in pictures["planes"].records
        if record.facts.plane != "femur" or record.group in held or record.split == "test"
    ]
    write_shards([DataSet("subset of FETAL_PLANES_DB", kept)], tmp_path / "shards")
    config = tmp_path / "few.yaml"
    config.write_text("frames: 16\n")
    code, said = refused(tmp_path / "shards", config=config)
    assert code == 2
    assert "the calibration set has no image of femur" in said


def test_a_method_or_settings_that_do_not_exist_are_told(
    refused: Refused, drawn: Path, tmp_path: Path
) -> None:
    code, said = refused(drawn, method="guess")
    assert (code, "method must be one of onnxruntime" in said) == (2, True)
    code, said = refused(drawn, config=tmp_path / "none.yaml")
    assert (code, "none.yaml" in said) == (2, True)


def test_a_method_that_leaves_a_vit_as_it_is_is_told(
    refused: Refused, drawn: Path, vit: Path
) -> None:
    code, said = refused(drawn, model=vit, method="onnxruntime")
    assert code == 2
    assert "which onnxruntime leaves in float32; choose --method torch-max, torch-mse" in said


def test_learning_without_a_method_of_pytorch_is_told(refused: Refused, drawn: Path) -> None:
    code, said = refused(drawn, distill_epochs=3)
    assert code == 2
    assert "distill_epochs needs a method of torch-max, torch-mse, torch-smoothquant" in said


def test_a_layer_that_is_not_there_is_told(refused: Refused, drawn: Path, tmp_path: Path) -> None:
    config = tmp_path / "layer.yaml"
    config.write_text("frames: 16\nin_float: [nowhere]\n")
    code, said = refused(drawn, config=config)
    assert code == 2
    assert "the graph has no convolution nowhere to leave in float" in said


def test_a_graph_that_fails_ends_with_code_1_and_is_not_left_from_before(
    drawn: Path,
    run: Path,
    tmp_path: Path,
    graphs: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Given the graphs of an earlier run, and limits that nothing passes
    (tmp_path / "encoder.int8.onnx").write_bytes(b"old")
    monkeypatch.setattr(calibrator, "write_graphs", lambda *_, **__: graphs.int8)
    monkeypatch.setattr(calibrator, "rank", lambda *_: [Sensitivity("stem", 0.1)])
    config = tmp_path / "strict.yaml"
    config.write_text("frames: 16\nlayers_in_float: 0\ngate:\n  mean_cosine: 1.0\n")
    # When
    with pytest.raises(typer.Exit) as exit_:
        main(run, drawn, tmp_path, config)
    # Then
    assert exit_.value.exit_code == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "encoder.cpu.onnx, encoder.int8.onnx failed the gate" in said
    assert not list(tmp_path.glob("*.onnx"))
    told = (tmp_path / "report.md").read_text()
    assert "`encoder.int8.onnx` failed the gate and was not written:" in told
    assert "the mean cosine with FP32 is 0.9" in told
