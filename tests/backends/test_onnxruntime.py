"""What is true of ONNX Runtime alone; test_contract.py has what is true of every backend."""

from __future__ import annotations

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
