"""The benchmark of GPUs, over the fake one and over none."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from benchmarks import gpu as benchmark
from fetalclip_edge.bundle import ModelBundle

STEPS = ["import", "build", "gpu", "deserialise", "load", "execute", "reference"]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    module = importlib.import_module("tests.backends.fake_tensorrt")
    found: SimpleNamespace = module.install(monkeypatch)
    return found


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    weights = np.random.default_rng(0).normal(0, 1, (64, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["grey"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["embedding"]),
    ]
    made = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "small.onnx")
    return tmp_path / "small.onnx"


FRAMES = np.random.default_rng(1).integers(0, 256, (9, 1, 8, 8), np.uint8)


@pytest.mark.parametrize("runtime", ["tensorrt_rtx", "tensorrt"])
def test_every_step_is_taken_and_measured(fake: SimpleNamespace, graph: Path, runtime: str) -> None:
    found = benchmark.measure_engine(runtime, graph, FRAMES)
    assert [(step["step"], step["status"]) for step in found["steps"]] == [(s, "ok") for s in STEPS]
    assert found["gpu"] == "Fake GPU"
    assert found["cuda_graph"] is True
    assert found["cosine"]["min"] == pytest.approx(1, abs=1e-6)
    for batch in ("batch_1", "batch_8"):
        times = found[batch]
        assert 0 < times["p50_ms"] <= times["p95_ms"] <= times["p99_ms"] <= times["max_ms"]
    json.dumps(found)


def test_what_is_refused_ends_the_steps_with_the_reason(fake: SimpleNamespace, graph: Path) -> None:
    fake.tensorrt_rtx._loads = False
    found = benchmark.measure_engine("tensorrt_rtx", graph, FRAMES)
    assert set(found) == {"steps"}
    assert [step["step"] for step in found["steps"]] == STEPS[:4]
    assert found["steps"][-1]["status"] == "refused"
    assert found["steps"][-1]["reason"].endswith("Serialization assertion failed")


def test_without_a_gpu_the_real_runtime_compiles_and_is_then_refused(
    graph: Path, tmp_path: Path, repository: Path
) -> None:
    np.save(tmp_path / "frames.npy", FRAMES)
    code = "import sys; from benchmarks.gpu import measure_and_print as m; m(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, "tensorrt_rtx", str(graph), str(tmp_path / "frames.npy")],
        capture_output=True,
        text=True,
        cwd=repository,
        env={"CUDA_VISIBLE_DEVICES": "", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    steps = json.loads(done.stdout)["steps"]
    assert [(step["step"], step["status"]) for step in steps] == [
        ("import", "ok"),
        ("build", "ok"),
        ("gpu", "refused"),
    ]
    assert "no NVIDIA GPU" in steps[-1]["reason"]


def test_a_process_that_crashes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    crash = ["/bin/sh", "-c", "echo it broke >&2; kill -SEGV $$"]
    real = subprocess.run
    monkeypatch.setattr(benchmark.subprocess, "run", lambda _, **options: real(crash, **options))
    [step] = benchmark._apart("tensorrt", "graph", "frames")["steps"]
    assert step == {
        "step": "process",
        "status": "refused",
        "reason": "the process ended with -11: it broke",
    }


def test_the_report_is_there_as_far_as_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a third runtime that takes the whole program with it
    out, calls = tmp_path / "gpu.json", []

    def apart(runtime: str, *_: str) -> dict[str, Any]:
        calls.append(runtime)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {"steps": [{"step": "import", "status": "refused", "reason": "not here"}]}

    monkeypatch.setattr(benchmark, "_apart", apart)
    monkeypatch.setattr(benchmark, "_find_graphs", lambda *_: dict.fromkeys(["fp16", "int8"]))
    with pytest.raises(KeyboardInterrupt):
        benchmark.main(out)
    report = json.loads(out.read_text())
    assert [set(report[name]) for name in ("tensorrt_rtx", "tensorrt")] == [
        {"fp32", "fp16", "int8"},
        {"fp32"},
    ]


def test_the_reference_of_int8_is_the_graph_as_it_is_written() -> None:
    # Given the shipped graph for GPUs, whose weights of eight bits overflow on CPUs without VNNI
    bundle = ModelBundle.load()
    frames = benchmark._frames(bundle, 4)
    graphs = {name: bundle.folder / f"encoder.{name}.onnx" for name in ("fp16", "int8")}
    wanted, found = (benchmark._reference(graphs[name], frames) for name in graphs)
    assert (wanted * found).sum(axis=1).min() > 0.98


@pytest.mark.parametrize("given", ["fp16=/nowhere.onnx", "fp4=pyproject.toml", "pyproject.toml"])
def test_a_graph_that_is_none_is_bad_input(given: str) -> None:
    found = CliRunner().invoke(benchmark.app, ["gpu.json", "--graph", given])
    assert found.exit_code == 2
    assert "must be fp32 or fp16 or int8=FILE" in " ".join(found.stderr.replace("│", "").split())


def test_the_script_is_one_that_a_shell_understands(repository: Path) -> None:
    script = repository / "benchmarks" / "gpu.sh"
    assert script.stat().st_mode & 0o111
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
