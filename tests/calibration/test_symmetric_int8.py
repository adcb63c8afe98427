"""INT8 graphs for TensorRT: near FP32, symmetric, and rounded at convolutions alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from calibration.modelopt_process import place_with_modelopt
from calibration.onnxruntime_int8 import quantise
from calibration.static import UnsupportedGraphError
from calibration.symmetric_int8 import quantise_symmetric
from export.engine import CAPABILITIES, compile_for
from export.graph import export_core
from training.models import ImageTower, ModelConfig

MEAN, STD = 127 / 255, 128 / 255


def frames(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, 64, 64)).astype(np.uint8)


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tower = ImageTower(ModelConfig(image_size=64, embed_dim=16))
    tower.load_imagenet()
    path = tmp_path_factory.mktemp("symmetric") / "core.onnx"
    export_core(tower.eval(), path)
    return path


@pytest.fixture(scope="module", params=["onnxruntime", "modelopt-entropy"])
def quantised(
    request: pytest.FixtureRequest, core: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp(request.param) / "encoder.int8.onnx"
    quantise_symmetric(core, frames(8, 0), MEAN, STD, path, request.param)
    return path


def as_written(path: Path, images: np.ndarray) -> np.ndarray:
    """In float32, without optimisation: no kernel of integers can overflow."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    embeddings: np.ndarray = session.run(["embedding"], {"image": images})[0]
    return embeddings


def in_float32(core: Path, images: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(core), providers=["CPUExecutionProvider"])
    given = (images.astype(np.float32) - 127) / 128
    embeddings: np.ndarray = session.run(["embedding"], {"normalised": given})[0]
    return embeddings


@pytest.mark.parametrize("count", [1, 3])
def test_embeddings_are_near_those_in_float32(quantised: Path, core: Path, count: int) -> None:
    images = frames(count, 1)
    found = as_written(quantised, images)
    assert found.shape == (count, 16)
    assert (found * in_float32(core, images)).sum(axis=1).min() > 0.97


def test_all_of_it_is_what_tensorrt_takes(quantised: Path) -> None:
    model = onnx.load(quantised)
    onnx.checker.check_model(model, full_check=True)
    graph = model.graph
    assert graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 40
    for node in convolutions:
        activation, weight = made_by[node.input[0]], made_by[node.input[1]]
        assert {activation.op_type, weight.op_type} == {"DequantizeLinear"}
        integers, scales, zeros = (constants[name] for name in weight.input)
        assert integers.dtype == zeros.dtype == np.int8  # a byte each in the file
        assert scales.shape == (integers.shape[0],)  # one a channel
        assert constants[activation.input[1]].shape == ()
        assert not zeros.any()
        assert not constants[activation.input[2]].any()
        assert np.abs(integers.astype(int)).max() <= 127
        # The rest is float16; strongly typed, a scale says what comes out.
        rest = [constants[node.input[2]], scales, constants[activation.input[1]]]
        assert {values.dtype for values in rest} == {np.dtype(np.float16)}
        assert scales.min() >= 2**-17
    # One pair for each input and no more: nothing is rounded before its activation cuts it off.
    rounding = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(rounding) == len({node.input[0] for node in convolutions})
    assert all(node.input[0] not in constants for node in rounding)
    # The way to the first is in float32, and a step there is a grey level.
    [cast] = [node for node in graph.node if "normalised" in node.input]
    [first] = [node for node in rounding if node.input[0] == cast.output[0]]
    assert cast.op_type == "Cast"
    assert float(constants[first.input[1]]) == 1 / 128


def test_tensorrt_rtx_compiles_it(quantised: Path, tmp_path: Path) -> None:
    found = compile_for(quantised, CAPABILITIES, tmp_path)
    assert found.capabilities == ("8.6", "8.9", "12.0")
    assert found.size > 3_000_000


def test_a_convolution_that_is_named_stays_in_float32(core: Path, tmp_path: Path) -> None:
    plain = onnx.load(core)
    name = [node.name for node in plain.graph.node if node.op_type == "Conv"][3]
    for write in (quantise, quantise_symmetric):
        write(core, frames(2, 0), MEAN, STD, tmp_path / "some.onnx", in_float=[name])
        graph = onnx.load(tmp_path / "some.onnx").graph
        dequantised = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
        floats = [
            node.name
            for node in graph.node
            if node.op_type == "Conv" and node.input[1] not in dequantised
        ]
        assert floats == [name]
        with pytest.raises(UnsupportedGraphError, match="no convolution nowhere to leave in float"):
            write(core, frames(4, 0), MEAN, STD, tmp_path / "none.onnx", in_float=["nowhere"])
    assert not (tmp_path / "none.onnx").exists()


def test_a_graph_without_convolutions_is_refused(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["normalised"], ["embedding"])],
        "flat",
        [helper.make_tensor_value_info("normalised", TensorProto.FLOAT, ["N", 1, 64, 64])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 4096])],
    )
    path = tmp_path / "flat.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    for write in (quantise, quantise_symmetric):
        with pytest.raises(UnsupportedGraphError, match=r"has none \(Flatten\); export FP16 or"):
            write(path, frames(2, 0), MEAN, STD, tmp_path / "out.onnx")


def test_a_graph_of_another_make_is_refused(core: Path, tmp_path: Path) -> None:
    model = onnx.load(core)
    for node in model.graph.node:
        node.input[:] = ["pixels" if name == "normalised" else name for name in node.input]
    model.graph.input[0].name = "pixels"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(UnsupportedGraphError, match=r"export_core writes it, not .* from pixels"):
        quantise_symmetric(tmp_path / "other.onnx", frames(2, 0), MEAN, STD, tmp_path / "out.onnx")


def test_a_method_that_does_not_exist_is_refused(core: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="torch-smoothquant, not 'guess'"):
        quantise_symmetric(core, frames(2, 0), MEAN, STD, tmp_path / "out.onnx", "guess")


def test_modelopt_that_fails_is_heard(tmp_path: Path) -> None:
    nothing = np.zeros((1, 1, 64, 64), np.float32)
    with pytest.raises(RuntimeError, match=r"modelopt cannot quantise this graph: \w+"):
        place_with_modelopt(tmp_path / "no.onnx", nothing, [], "max", tmp_path / "out.onnx")


def test_modelopt_that_is_missing_is_said_with_what_to_install(
    core: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "modelopt", None)
    with pytest.raises(RuntimeError, match=r'pip install "fetalclip-edge\[export\]"'):
        quantise_symmetric(core, frames(2, 0), MEAN, STD, tmp_path / "out.onnx", "modelopt-max")
