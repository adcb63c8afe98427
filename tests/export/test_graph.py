"""PyTorch to ONNX: the same embeddings, folded, at an opset that old runtimes know."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from export.graph import FEATURES, INPUT, OUTPUT, dequantised_input, export_core, with_grey_levels
from training.models import ImageTower, ModelConfig


class Exported(NamedTuple):
    tower: ImageTower
    core: onnx.ModelProto
    path: Path


def lively(tower: ImageTower) -> ImageTower:
    """Batch statistics that are none of 0 and 1, so that folding them wrongly shows."""
    for module in tower.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    return tower.eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("graph")
    torch.manual_seed(0)
    config = ModelConfig(image_size=64, embed_dim=16)
    tower = lively(ImageTower(config))
    export_core(tower, folder / "core.onnx")
    core = onnx.load(folder / "core.onnx")
    onnx.save(with_grey_levels(core, config.mean, config.std), folder / "encoder.onnx")
    return Exported(tower, core, folder / "encoder.onnx")


def session(model: onnx.ModelProto | Path) -> ort.InferenceSession:
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(source, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("count", [1, 3])
def test_the_graph_gives_torchs_embeddings(exported: Exported, count: int) -> None:
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 1, 64, 64)).astype(np.uint8)
    with torch.inference_mode():
        expected = exported.tower(torch.from_numpy(images).float()).numpy()
    embeddings, features = session(exported.path).run([OUTPUT, FEATURES], {INPUT: images})
    assert embeddings.shape == (count, 16)
    # What the last stage sees: mean and deviation of each channel over pixels.
    assert features.shape == (count, 2 * 320)
    seen: list[torch.Tensor] = []
    hook = exported.tower.backbone.blocks[-1].register_forward_hook(
        lambda _module, _input, maps: seen.append(maps)
    )
    with torch.inference_mode():
        exported.tower(torch.from_numpy(images).float())
    hook.remove()
    maps = seen[0].numpy().astype(np.float64)
    statistics = np.concatenate([maps.mean(axis=(2, 3)), maps.std(axis=(2, 3))], axis=1)
    np.testing.assert_allclose(features, statistics, atol=1e-3)
    assert np.abs(embeddings - expected).max() < 1e-4
    # Random networks like to give one answer to everything; this one does not.
    assert count == 1 or np.abs(expected[0] - expected[1]).max() > 1e-3


def test_batch_normalisation_and_padding_are_folded_away(exported: Exported) -> None:
    kinds = {node.op_type for node in exported.core.graph.node}
    assert "Conv" in kinds
    assert not kinds & {"BatchNormalization", "Pad"}


def test_a_backbone_without_stages_gives_its_embedding_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tower = ImageTower(ModelConfig(image_size=64, embed_dim=16, backbone="resnet10t")).eval()
    export_core(tower, tmp_path / "core.onnx")
    [embedding] = onnx.load(tmp_path / "core.onnx").graph.output
    assert embedding.name == "embedding"


def test_the_graph_is_valid_and_of_an_opset_that_devices_know(exported: Exported) -> None:
    model = onnx.load(exported.path)
    onnx.checker.check_model(model, full_check=True)
    [opset] = model.opset_import
    assert opset.domain == ""
    assert opset.version == 17
    assert model.ir_version == 8


def test_input_is_bytes_and_output_floats_in_batches_of_any_size(exported: Exported) -> None:
    [image] = session(exported.path).get_inputs()
    embedding, features = session(exported.path).get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["N", 1, 64, 64])
    assert (embedding.name, embedding.type, embedding.shape) == (
        "embedding",
        "tensor(float)",
        ["N", 16],
    )
    assert (features.name, features.shape) == ("domain_features", ["N", 640])


def test_the_tower_still_trains_after_the_export(exported: Exported) -> None:
    assert all(p.requires_grad for p in exported.tower.parameters())
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in exported.tower.modules())


def tiny_graph(*nodes: onnx.NodeProto, **constants: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info("normalised", TensorProto.FLOAT, ["N", 1, 1, 256])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 1, 1, 256])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


LEVELS = np.arange(256, dtype=np.uint8).reshape(1, 1, 1, 256)


@pytest.mark.parametrize(("mean", "std"), [(127 / 255, 128 / 255), (0.4588, 0.2688), (0.0, 1.0)])
def test_grey_levels_are_normalised_in_the_graph(mean: float, std: float) -> None:
    core = tiny_graph(helper.make_node("Identity", ["normalised"], ["embedding"]))
    before = core.SerializeToString()
    [seen] = session(with_grey_levels(core, mean, std)).run(None, {INPUT: LEVELS})
    np.testing.assert_allclose(seen, (LEVELS / 255 - mean) / std, rtol=1e-5, atol=1e-6)
    assert core.SerializeToString() == before


def test_bytes_that_are_the_quantised_input_are_dequantised_exactly() -> None:
    quantised = tiny_graph(
        helper.make_node("QuantizeLinear", ["normalised", "scale", "zero"], ["bytes"]),
        helper.make_node("DequantizeLinear", ["bytes", "scale", "zero"], ["embedding"]),
        scale=np.array(1 / 128, np.float32),
        zero=np.array(127, np.uint8),
    )
    model = dequantised_input(quantised)
    assert [node.op_type for node in model.graph.node] == ["DequantizeLinear"]
    [seen] = session(model).run(None, {INPUT: LEVELS})
    np.testing.assert_array_equal(seen, (LEVELS.astype(np.float32) - 127) / 128)
    # And so does the way round through floats.
    floats = (LEVELS.astype(np.float32) - 127) / 128
    np.testing.assert_array_equal(session(quantised).run(None, {"normalised": floats})[0], seen)
