"""INT8 graphs for ONNX Runtime: near FP32, and fed with the frame's own bytes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

from calibration.onnxruntime_int8 import quantise
from export.graph import export_core
from training.models import ImageTower, ModelConfig

WHOLE = (127 / 255, 128 / 255)
CLIP_GREY = (0.4588, 0.2688)  # CLIP's mean and deviation, averaged over the colours


class Quantised(NamedTuple):
    mean: float
    std: float
    tower: ImageTower
    path: Path
    root_level_kept: bool


def frames(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, 64, 64)).astype(np.uint8)


@pytest.fixture(scope="module", params=[WHOLE, CLIP_GREY], ids=["whole levels", "clip"])
def quantised(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Quantised:
    mean, std = request.param
    folder = tmp_path_factory.mktemp("int8")
    torch.manual_seed(0)
    tower = ImageTower(ModelConfig(image_size=64, embed_dim=16, mean=mean, std=std))
    tower.load_imagenet()
    export_core(tower.eval(), folder / "core.onnx")
    level = logging.getLogger().level
    quantise(folder / "core.onnx", frames(8, 0), mean, std, folder / "int8.onnx")
    kept = logging.getLogger().level == level
    return Quantised(mean, std, tower, folder / "int8.onnx", kept)


def run(path: Path, images: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    embeddings: np.ndarray = session.run(["embedding"], {"image": images})[0]
    return embeddings


def works_for(graph: onnx.GraphProto, output: str) -> list[onnx.NodeProto]:
    """Nodes that an output depends on."""
    makers = {made: node for node in graph.node for made in node.output}
    found: dict[str, onnx.NodeProto] = {}
    waiting = [output]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.output[0] not in found:
            found[node.output[0]] = node
            waiting += node.input
    return list(found.values())


def test_what_the_domain_alone_needs_is_not_rounded(quantised: Quantised) -> None:
    graph = onnx.load(quantised.path).graph
    for_embedding = {node.name for node in works_for(graph, "embedding")}
    alone = [n for n in works_for(graph, "domain_features") if n.name not in for_embedding]
    assert {"ReduceMean", "Sqrt", "Concat"} <= {node.op_type for node in alone}
    assert "QuantizeLinear" not in {node.op_type for node in alone}
    # And it is near torch's.
    images = frames(3, 1)
    session = ort.InferenceSession(str(quantised.path), providers=["CPUExecutionProvider"])
    [features] = session.run(["domain_features"], {"image": images})
    normalised = (torch.from_numpy(images).float() / 255 - quantised.mean) / quantised.std
    with torch.inference_mode():
        expected = quantised.tower.embed_and_characterise(normalised)[1].numpy()
    similar = np.corrcoef(features.ravel(), expected.ravel())[0, 1]
    assert similar > 0.99


@pytest.mark.parametrize("count", [1, 3])
def test_int8_embeddings_are_near_those_of_torch(quantised: Quantised, count: int) -> None:
    images = frames(count, 1)
    with torch.inference_mode():
        expected = quantised.tower(torch.from_numpy(images).float()).numpy()
    embeddings = run(quantised.path, images)
    assert embeddings.shape == (count, 16)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-4)
    assert (embeddings * expected).sum(axis=1).min() > 0.95


def test_the_graph_takes_bytes_in_batches_of_any_size(quantised: Quantised) -> None:
    model = onnx.load(quantised.path)
    onnx.checker.check_model(model, full_check=True)
    [image] = model.graph.input
    assert image.name == "image"
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    dimensions = image.type.tensor_type.shape.dim
    assert dimensions[0].dim_param == "N"
    assert [d.dim_value for d in dimensions[1:]] == [1, 64, 64]


def test_every_convolution_is_u8s8(quantised: Quantised) -> None:
    graph = onnx.load(quantised.path).graph
    made_by = {name: node for node in graph.node for name in node.output}
    constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 40
    for node in convolutions:
        activation, weight = made_by[node.input[0]], made_by[node.input[1]]
        assert {activation.op_type, weight.op_type} == {"DequantizeLinear"}
        assert constants[activation.input[2]].dtype == np.uint8
        weights, scales = (constants[name] for name in weight.input[:2])
        assert weights.dtype == np.int8
        assert scales.shape == (weights.shape[0],)  # one a channel


def test_products_of_bytes_fit_16_bits_two_at_a_time(quantised: Quantised) -> None:
    # Else processors without VNNI cut sums off: 2 x 255 x 64 = 32,640 fits, 2 x 255 x 127 does not.
    graph = onnx.load(quantised.path).graph
    constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    weights = {n: c for n, c in constants.items() if c.dtype == np.int8 and c.ndim == 4}
    assert len(weights) > 40
    assert max(int(np.abs(w.astype(int)).max()) for w in weights.values()) == 64


def test_int8_kernels_give_what_the_graph_says(quantised: Quantised) -> None:
    # Bright pictures bring the largest sums. Without optimisation nothing is fused: every operator
    # runs in float32 on the dequantised values, on which no kernel of integers can overflow.
    images = np.maximum(frames(4, 2), 200)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = ort.InferenceSession(str(quantised.path), options, providers=["CPUExecutionProvider"])
    expected = plain.run(["embedding"], {"image": images})[0]
    assert (run(quantised.path, images) * expected).sum(axis=1).min() > 0.995


def test_with_whole_levels_the_bytes_go_in_as_they_are(quantised: Quantised) -> None:
    graph = onnx.load(quantised.path).graph
    readers = [node for node in graph.node if "image" in node.input]
    if quantised.mean != WHOLE[0]:
        assert [node.op_type for node in readers] == ["Cast"]
        return
    constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    assert {node.op_type for node in readers} == {"DequantizeLinear"}
    for node in readers:
        assert float(constants[node.input[1]]) == 1 / 128
        zero = constants[node.input[2]]
        assert zero.dtype == np.uint8
        assert int(zero) == 127


def test_the_calibration_leaves_logging_as_it_was(quantised: Quantised) -> None:
    assert quantised.root_level_kept


@pytest.mark.parametrize(("mean", "std"), [WHOLE, CLIP_GREY], ids=["whole levels", "clip"])
def test_the_first_convolution_may_stay_in_float(tmp_path: Path, mean: float, std: float) -> None:
    # Given the layer whose input's quantisation is the normalisation
    torch.manual_seed(0)
    tower = ImageTower(ModelConfig(image_size=64, embed_dim=16, mean=mean, std=std))
    tower.load_imagenet()
    export_core(tower.eval(), tmp_path / "core.onnx")
    [first, *_] = [
        n.name for n in onnx.load(tmp_path / "core.onnx").graph.node if n.op_type == "Conv"
    ]
    # When it is to be left
    quantise(tmp_path / "core.onnx", frames(8, 0), mean, std, tmp_path / "int8.onnx", [first])
    # Then the graph takes grey levels still, and gives what the tower gives
    images = frames(4, 1)
    with torch.inference_mode():
        expected = tower(torch.from_numpy(images).float()).numpy()
    assert (run(tmp_path / "int8.onnx", images) * expected).sum(axis=1).min() > 0.97
    graph = onnx.load(tmp_path / "int8.onnx").graph
    dequantised = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    plain = [n.name for n in graph.node if n.op_type == "Conv" and n.input[1] not in dequantised]
    assert plain == [first]
