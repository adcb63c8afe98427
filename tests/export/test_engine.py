"""TensorRT-RTX compiles what we export, for GPUs that are not here: the gate without a GPU."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from torch import nn
from typer.testing import CliRunner

import training.torchvision_ops  # noqa: F401  (before open_clip)
from calibration.static import quiet
from export.engine import CAPABILITIES, app, compile_for
from export.graph import export_core, with_grey_levels
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BackendError, BackendUnavailableError
from training.release import load_release

from open_clip.transformer import VisionTransformer  # isort: skip


class Noise(CalibrationDataReader):  # type: ignore[misc]
    """Two frames: what the ranges are is nothing to the compiler."""

    def __init__(self, size: int) -> None:
        rng = np.random.default_rng(0)
        self.frames: Iterator[np.ndarray] = iter(
            [rng.normal(0, 1, (1, 1, size, size)).astype(np.float32) for _ in range(2)]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        frame = next(self.frames, None)
        return None if frame is None else {"normalised": frame}


def as_fp16(core: onnx.ModelProto) -> onnx.ModelProto:
    """All in float16 but inputs and outputs."""
    model = onnx.ModelProto()
    model.CopyFrom(core)
    graph = model.graph
    del graph.value_info[:]
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
                half = numpy_helper.to_array(attribute.t).astype(np.float16)
                attribute.t.CopyFrom(numpy_helper.from_array(half))
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    ends = {graph.input[0].name: "half", **{o.name: f"{o.name}_half" for o in graph.output}}
    for node in graph.node:
        node.input[:] = [ends.get(name, name) for name in node.input]
        node.output[:] = [ends.get(name, name) for name in node.output]
    first = helper.make_node("Cast", [graph.input[0].name], ["half"], to=TensorProto.FLOAT16)
    graph.node.insert(0, first)
    for output in graph.output:
        node = helper.make_node(
            "Cast", [f"{output.name}_half"], [output.name], to=TensorProto.FLOAT
        )
        graph.node.append(node)
    onnx.checker.check_model(model, full_check=True)
    return model


def in_three_precisions(core: Path, size: int, name: str) -> dict[str, Path]:
    """A float32 core with grey levels in front, as it is, in FP16, and in INT8 with Q/DQ."""
    quantised = core.with_name("quantised.onnx")
    symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    with quiet():
        quantize_static(
            str(core),
            str(quantised),
            Noise(size),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options=symmetric,
        )
    plain = onnx.load(core)
    models = {"fp32": plain, "fp16": as_fp16(plain), "int8": onnx.load(quantised)}
    paths = {}
    for precision, model in models.items():
        paths[precision] = core.with_name(f"{name}.{precision}.onnx")
        onnx.save(with_grey_levels(model, 127 / 255, 128 / 255), paths[precision])
    return paths


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("student")
    release = load_release(repository / "training" / "released" / "first_light")
    export_core(release.tower, folder / "core.onnx")
    return in_three_precisions(folder / "core.onnx", release.config.image_size, "student")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """FetalCLIP's kind of network, with all its operations, in two narrow layers."""
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    tower = VisionTransformer(
        image_size=56, patch_size=14, width=64, layers=2, heads=2, mlp_ratio=4.0, output_dim=32
    )

    class Core(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = tower

        def forward(self, normalised: torch.Tensor) -> torch.Tensor:
            return nn.functional.normalize(self.tower(normalised.expand(-1, 3, -1, -1)), dim=-1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Core().eval(),
            (torch.zeros(2, 1, 56, 56),),
            folder / "core.onnx",
            input_names=["normalised"],
            output_names=["embedding"],
            dynamic_axes={"normalised": {0: "N"}, "embedding": {0: "N"}},
            opset_version=17,
            dynamo=False,
        )
    return in_three_precisions(folder / "core.onnx", 56, "teacher")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_student_compiles(student: dict[str, Path], tmp_path: Path, precision: str) -> None:
    found = compile_for(student[precision], CAPABILITIES, tmp_path)
    assert found.capabilities == ("8.6", "8.9", "12.0")
    assert found.path.stat().st_size == found.size
    # Of 3.6 million weights; in float32 it is 15.8 MB.
    assert 3_500_000 < found.size < 13_000_000


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_small_teacher_compiles(teacher: dict[str, Path], tmp_path: Path, precision: str) -> None:
    assert compile_for(teacher[precision], CAPABILITIES, tmp_path).size > 100_000


def test_the_precision_is_that_of_the_graph(student: dict[str, Path], tmp_path: Path) -> None:
    sizes = {p: compile_for(student[p], ["8.6"], tmp_path).size for p in ("fp32", "fp16")}
    assert sizes["fp16"] < 0.6 * sizes["fp32"]


def test_the_graphs_of_the_shipped_bundle_compile(tmp_path: Path, student: dict[str, Path]) -> None:
    shipped = ModelBundle.load()
    names = {n for b in ("tensorrt", "tensorrt_rtx") for n in shipped.graphs.get(b, {}).values()}
    for graph in [student["fp32"], *(shipped.folder / name for name in names)]:
        assert compile_for(graph, CAPABILITIES, tmp_path).size > 3_000_000


def test_progress_goes_from_nothing_to_all(teacher: dict[str, Path], tmp_path: Path) -> None:
    shares: list[float] = []
    compile_for(teacher["fp32"], ["8.9"], tmp_path, lambda _what, share: shares.append(share))
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert len(set(shares)) > 10


def test_onnxruntimes_own_int8_is_refused_with_the_parsers_words(tmp_path: Path) -> None:
    graph = ModelBundle.load().folder / "encoder.cpu.onnx"
    with pytest.raises(BackendError, match=r"cannot parse .*encoder\.cpu\.onnx: \S+"):
        compile_for(graph, CAPABILITIES, tmp_path)
    assert list(tmp_path.iterdir()) == []


# The command


def run(*arguments: object) -> tuple[int, str, str]:
    found = CliRunner().invoke(app, list(map(str, arguments)))
    return found.exit_code, found.stdout, " ".join(found.stderr.split())


def test_the_command_compiles_for_the_capabilities_asked_for(
    teacher: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "new" / "engines"
    targets = ("--capability", "8.6", "--capability", "12.0")
    code, said, _ = run(teacher["fp16"], *targets, "--out", out)
    assert code == 0
    assert [path.name for path in out.iterdir()] == ["teacher.fp16.engine"]
    assert "8.6, 12.0" in said


def test_bad_input_is_said(teacher: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no graph")
    cases = [
        ((teacher["fp16"], "--capability", "9.0"), "knows no capability 9.0, only 7.5, 8.0"),
        ((tmp_path / "none.onnx",), "No such file or directory"),
        ((tmp_path / "text.onnx",), "cannot parse"),
    ]
    for arguments, expected in cases:
        code, _, said = run(*arguments, "--out", tmp_path)
        assert code == 2
        assert expected in said
    code, _, said = run(teacher["fp16"], "--out", tmp_path / "text.onnx")
    assert code == 2
    assert "File exists" in said


def test_a_missing_runtime_is_said_with_what_to_install(
    teacher: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(BackendUnavailableError, match=r'pip install "fetalclip-edge\[tensorrt-rtx'):
        compile_for(teacher["fp16"], ["8.6"], tmp_path)
    assert run(teacher["fp16"], "--out", tmp_path)[0] == 1


def test_graphs_of_one_name_do_not_overwrite_each_others_engines(tmp_path: Path) -> None:
    graphs = [tmp_path / name / "encoder.int8.onnx" for name in ("one", "two")]
    found = CliRunner().invoke(app, [*map(str, graphs), "--out", str(tmp_path / "engines")])
    assert found.exit_code == 2
    assert "several graphs are called encoder.int8" in found.stderr
    assert not (tmp_path / "engines").exists()
