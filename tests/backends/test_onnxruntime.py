"""What is true of ONNX Runtime alone; test_contract.py has what is true of every backend."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

from fetalclip_edge.backends import load_backend
from fetalclip_edge.bundle import ModelBundle


def test_the_shipped_graph_gives_what_the_runtime_gives() -> None:
    bundle = ModelBundle.load()
    spec = bundle.preprocess
    inputs = np.random.default_rng(5).integers(0, 256, (3, *spec.shape[1:])).astype(spec.dtype)
    session = ort.InferenceSession(bundle.graph("onnxruntime"), providers=["CPUExecutionProvider"])
    (expected,) = session.run(["embedding"], {session.get_inputs()[0].name: inputs})
    backend = load_backend(bundle, "onnxruntime")
    np.testing.assert_allclose(backend.encode(inputs)["embedding"], expected, atol=1e-6)
    assert backend.precision == "int8"


def test_loading_it_tells_nobody(tmp_path: Path) -> None:
    # Given a home in which nothing is, and a program that does not refuse telemetry
    code = """
import os
import fetalclip_edge as fe
model = fe.load(backend="onnxruntime")
files = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
assert not [name for name in files if "Microsoft" in name or "onnxruntime.db" in name], files
assert "ORT_DISABLE_TELEMETRY" not in os.environ
"""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ORT_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # When the backend has loaded, then nothing was written into it
    assert list(tmp_path.iterdir()) == []
