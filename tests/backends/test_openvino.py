"""What is true of OpenVINO alone; test_contract.py has what is true of every backend."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from fetalclip_edge.backends import load_backend
from fetalclip_edge.backends.openvino import import_runtime
from fetalclip_edge.bundle import ModelBundle

from .conftest import DIM, LINEAR_PREPROCESS, SIZE, MakeBundle

ov = import_runtime()


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of every graph compiled from here on."""
    seen: list[dict[str, Any]] = []

    compile_model = ov.Core.compile_model

    def watched(core: Any, model: Any, device: str, options: dict[str, Any]) -> Any:
        compiled = compile_model(core, model, device, options)
        seen.append({name: compiled.get_property(name) for name in options})
        return compiled

    monkeypatch.setattr(ov.Core, "compile_model", watched)
    return seen


def test_float32_stays_float32_on_processors_with_bf16(
    linear: ModelBundle, options: list[dict[str, Any]]
) -> None:
    load_backend(linear, "openvino")
    assert options[0]["INFERENCE_PRECISION_HINT"] == ov.Type.f32


def test_it_takes_the_threads_asked_for_and_pins_none(
    linear: ModelBundle, options: list[dict[str, Any]]
) -> None:
    load_backend(linear, "openvino", threads=1)
    assert options[0]["INFERENCE_NUM_THREADS"] == 1
    assert options[0]["NUM_STREAMS"] == 1
    assert options[0]["ENABLE_CPU_PINNING"] is False


def test_the_shipped_graph_gives_nearly_what_onnx_runtime_gives(shipped: ModelBundle) -> None:
    spec = shipped.preprocess
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (4, 1, spec.size // 8, spec.size // 8)).astype(np.uint8)
    inputs = coarse.repeat(8, axis=2).repeat(8, axis=3)
    session = ort.InferenceSession(shipped.graph("onnxruntime"), providers=["CPUExecutionProvider"])
    (expected,) = session.run(["embedding"], {session.get_inputs()[0].name: inputs})
    found = load_backend(shipped, "openvino").encode(inputs)["embedding"]
    assert np.sum(found * expected, axis=1).min() > 0.99


def test_outputs_are_told_apart_by_name(
    linear_graph: onnx.ModelProto, make_bundle: MakeBundle
) -> None:
    # Given a graph that names its outputs in the other order
    graph = onnx.ModelProto()
    graph.CopyFrom(linear_graph)
    outputs = list(graph.graph.output)[::-1]
    del graph.graph.output[:]
    graph.graph.output.extend(outputs)
    bundle = make_bundle(
        {"openvino": {"fp32": "linear.onnx"}},
        {"linear.onnx": graph.SerializeToString()},
        embedding_dim=DIM,
        preprocess=LINEAR_PREPROCESS,
    )
    found = load_backend(bundle, "openvino").encode(np.full((1, 1, SIZE, SIZE), 9, np.uint8))
    np.testing.assert_allclose(found["brightness"], [[9]], rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found["embedding"]), 1, atol=1e-5)


def test_loading_it_tells_nobody(linear: ModelBundle, tmp_path: Path) -> None:
    # Given a home without any consent to telemetry, and a machine that is no build server
    code = f"""
import importlib.util, sys
calls = []
sys.addaudithook(lambda event, _: event.startswith("socket.") and calls.append(event))
import fetalclip_edge.backends as backends
from fetalclip_edge.bundle import ModelBundle
assert importlib.util.find_spec("openvino_telemetry"), "it comes with openvino"
backends.load_backend(ModelBundle.load({str(linear.folder)!r}), "openvino")
assert not calls, calls
assert not any(name.startswith("openvino_telemetry") for name in sys.modules)
import openvino_telemetry  # who wants it may still have it
"""
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "TF_BUILD")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # When the backend has loaded, then nothing was written into it
    assert list(tmp_path.iterdir()) == []


_LOAD_TWICE = """
import gc, signal, sys
from fetalclip_edge.backends import load_backend
from fetalclip_edge.bundle import ModelBundle

bundle = ModelBundle.load(sys.argv[1])
first, second = (load_backend(bundle, "openvino") for _ in range(2))
del first
gc.collect()
del second
gc.collect()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_is_one_after_two_models_have_gone(shipped: ModelBundle) -> None:
    words = [sys.executable, "-c", _LOAD_TWICE, str(shipped.folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
