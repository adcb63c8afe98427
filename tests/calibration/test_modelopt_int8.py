"""Symmetric Q/DQ graphs by modelopt: near FP32, of a byte a weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

from calibration.modelopt_int8 import folded, quantise_tower, write_qdq
from training.models import ImageTower, ModelConfig


def frames(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, 64, 64)).astype(np.uint8)


def normalised(images: np.ndarray) -> np.ndarray:
    found: np.ndarray = (images.astype(np.float32) - 127) / 128
    return found


@pytest.fixture(scope="module")
def tower() -> ImageTower:
    torch.manual_seed(0)
    made = ImageTower(ModelConfig(image_size=64, embed_dim=16))
    made.load_imagenet()
    return made.eval()


@pytest.fixture(scope="module")
def graph(tower: ImageTower, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qdq") / "encoder.onnx"
    shown = normalised(frames(8, 0))
    plain = folded(tower, shown)
    write_qdq(quantise_tower(plain, shown), plain, shown, path)
    return path


def test_a_folded_tower_computes_the_same(tower: ImageTower) -> None:
    shown = torch.from_numpy(normalised(frames(2, 1)))
    plain = folded(tower, normalised(frames(2, 0)))
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in plain.modules())
    with torch.inference_mode():
        for found, expected in zip(
            plain.embed_and_characterise(shown), tower.embed_and_characterise(shown), strict=True
        ):
            np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0.02, atol=2e-3)


def test_embeddings_are_near_those_of_torch(tower: ImageTower, graph: Path) -> None:
    images = frames(3, 1)
    with torch.inference_mode():
        expected = tower(torch.from_numpy(images).float()).numpy()
    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    found = session.run(["embedding"], {"image": images})[0]
    assert (found * expected).sum(axis=1).min() > 0.9


def test_every_convolution_is_symmetric_and_stored_in_bytes(graph: Path) -> None:
    model = onnx.load(graph)
    onnx.checker.check_model(model, full_check=True)
    constants = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 49
    for node in convolutions:
        for name in node.input[:2]:
            assert made_by[name].op_type == "DequantizeLinear"
            assert not constants[made_by[name].input[2]].any()
        assert constants[made_by[node.input[1]].input[0]].dtype == np.int8
    assert graph.stat().st_size < 4.5e6
    assert "Pad" not in {node.op_type for node in model.graph.node}


def test_the_graph_takes_bytes_and_characterises(graph: Path) -> None:
    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    [image] = session.get_inputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["N", 1, 64, 64])
    assert [output.name for output in session.get_outputs()] == ["embedding", "domain_features"]


def test_an_unknown_method_or_layer_is_refused(tower: ImageTower) -> None:
    with pytest.raises(ValueError, match="method must be one of max, mse, entropy, smoothquant"):
        quantise_tower(tower, normalised(frames(1, 0)), "guess")
    with pytest.raises(ValueError, match="no layer elsewhere"):
        quantise_tower(tower, normalised(frames(1, 0)), in_float=["elsewhere"])
