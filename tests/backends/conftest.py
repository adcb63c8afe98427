"""Bundles with a graph for every backend that runs on a CPU."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fetalclip_edge.bundle import DEFAULT_BUNDLE, REFERENCE, ModelBundle

from .fake_tensorrt import install

CPU_BACKENDS = ["openvino", "onnxruntime"]
GPU_BACKENDS = ["tensorrt", "tensorrt_rtx"]
ALL_BACKENDS = [*CPU_BACKENDS, *GPU_BACKENDS]
SIZE, DIM = 64, 5

LINEAR_PREPROCESS = {
    **json.loads((DEFAULT_BUNDLE / "manifest.json").read_bytes())["preprocess"],
    "size": SIZE,
}
"""How the linear model takes its frames."""

MakeBundle = Callable[..., ModelBundle]


def sign(folder: Path, change: Callable[[dict[str, Any]], object] = lambda manifest: None) -> None:
    """Change a bundle's manifest and make all its checksums those of what is there."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    change(manifest)
    manifest["files"] = {
        path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in folder.iterdir()
        if path.name not in ("manifest.json", "manifest.sha256")
    }
    text = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(text)
    digest = hashlib.sha256(text).hexdigest()
    (folder / "manifest.sha256").write_text(f"{digest}  manifest.json\n")


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory: pytest.TempPathFactory) -> MakeBundle:
    """The shipped bundle with other graphs, files and entries of the manifest."""

    def make(
        graphs: Mapping[str, Mapping[str, str]],
        files: Mapping[str, bytes] | None = None,
        **entries: Any,
    ) -> ModelBundle:
        folder = tmp_path_factory.mktemp("bundle") / "bundle"
        # Its reference frames are of its own graph.
        shutil.copytree(DEFAULT_BUNDLE, folder, ignore=shutil.ignore_patterns(REFERENCE))
        for name, data in (files or {}).items():
            (folder / name).write_bytes(data)
        sign(folder, lambda manifest: manifest.update(graphs=graphs, **entries))
        return ModelBundle.load(folder)

    return make


@pytest.fixture(scope="module")
def fake_gpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A GPU, TensorRT and TensorRT-RTX that are fakes, and a cache for engines of the module's."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("cache") / "fetalclip-edge"
        monkeypatch.setattr("fetalclip_edge.cache.cache_folder", lambda: folder)
        yield install(monkeypatch)


@pytest.fixture(scope="session")
def shipped(make_bundle: MakeBundle) -> ModelBundle:
    """The shipped INT8 graph, for every backend."""
    return make_bundle({name: {"int8": "encoder.cpu.onnx"} for name in ALL_BACKENDS})


@pytest.fixture(scope="session")
def weights() -> NDArray[np.float32]:
    """What the linear model multiplies grey levels with, `(SIZE * SIZE, DIM)`."""
    return np.random.default_rng(3).normal(0, 0.01, (SIZE * SIZE, DIM)).astype(np.float32)


@pytest.fixture(scope="session")
def linear_graph(weights: NDArray[np.float32]) -> onnx.ModelProto:
    """`embedding`: a product with `weights` over its length; `brightness`: the mean grey level."""
    nodes = [
        helper.make_node("Cast", ["image"], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["grey"], ["flat"]),
        helper.make_node("Add", ["flat", "one"], ["above"]),
        helper.make_node("MatMul", ["above", "weights"], ["product"]),
        helper.make_node("LpNormalization", ["product"], ["embedding"], axis=1, p=2),
        helper.make_node("ReduceMean", ["flat"], ["brightness"], axes=[1], keepdims=1),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 1, SIZE, SIZE])],
        [
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", DIM]),
            helper.make_tensor_value_info("brightness", TensorProto.FLOAT, ["N", 1]),
        ],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.float32([1]), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


@pytest.fixture(scope="session")
def linear(make_bundle: MakeBundle, linear_graph: onnx.ModelProto) -> ModelBundle:
    """A bundle of the linear model in float32, for every backend."""
    return make_bundle(
        {name: {"fp32": "linear.onnx"} for name in ALL_BACKENDS},
        {"linear.onnx": linear_graph.SerializeToString()},
        embedding_dim=DIM,
        preprocess=LINEAR_PREPROCESS,
    )
