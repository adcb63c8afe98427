"""The mean error of every convolution goes into its bias."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from torch import nn

from calibration.bias_correction import fit_convolutions
from calibration.onnxruntime_int8 import quantise
from calibration.static import FrameReader, quiet
from export.graph import export_core, export_module
from training.models import ImageTower, ModelConfig


def mostly_black(count: int, seed: int) -> np.ndarray:
    """Pictures as an ultrasound scanner shows them: a bright patch on black."""
    pictures = np.zeros((count, 1, 64, 64), np.uint8)
    patch = np.random.default_rng(seed).integers(0, 256, (count, 1, 24, 24))
    pictures[:, :, 20:44, 20:44] = patch
    return pictures


def normalised(pictures: np.ndarray) -> np.ndarray:
    return (pictures.astype(np.float32) - 127) / 128


def run(model: onnx.ModelProto, name: str, pictures: np.ndarray) -> np.ndarray:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.append(helper.make_empty_tensor_value_info(name))
    session = ort.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run([name], {session.get_inputs()[0].name: normalised(pictures)})[0]
    return found


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """In float32, and quantised by ONNX Runtime alone."""
    folder = tmp_path_factory.mktemp("bias")
    torch.manual_seed(0)
    tower = ImageTower(ModelConfig(image_size=64, embed_dim=16))
    tower.load_imagenet()
    core, plain = folder / "core.onnx", folder / "plain.onnx"
    export_core(tower.eval(), core)
    head = ("GlobalAveragePool", "Flatten", "MatMul")
    with quiet():
        quantize_static(
            str(core),
            str(plain),
            FrameReader(normalised(mostly_black(16, 0))),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[n.name for n in onnx.load(core).graph.node if n.op_type in head],
        )
    return core, plain


def test_corrected_embeddings_are_nearer_to_those_in_float32(graphs: tuple[Path, Path]) -> None:
    core, plain = (onnx.load(path) for path in graphs)
    corrected = onnx.load(graphs[1])
    fit_convolutions(corrected, core, normalised(mostly_black(16, 0)), 64)
    unseen = mostly_black(16, 1)
    expected = run(core, "embedding", unseen)
    before, after = (
        1 - (run(model, "embedding", unseen) * expected).sum(axis=1) for model in (plain, corrected)
    )
    assert after.mean() < 0.5 * before.mean()


def test_channels_of_the_last_map_keep_their_mean(graphs: tuple[Path, Path]) -> None:
    core, plain = (onnx.load(path) for path in graphs)
    corrected = onnx.load(graphs[1])
    pictures = mostly_black(16, 0)
    fit_convolutions(corrected, core, normalised(pictures), 64)
    pooled = next(n for n in core.graph.node if n.op_type == "GlobalAveragePool")
    expected = run(core, pooled.input[0], pictures).mean(axis=(0, 2, 3))
    read = next(n for n in plain.graph.node if n.op_type == "GlobalAveragePool").input[0]
    before, after = (
        np.abs(run(model, read, pictures).mean(axis=(0, 2, 3)) - expected).mean()
        for model in (plain, corrected)
    )
    assert after < 0.5 * before


def test_only_weights_and_biases_change(graphs: tuple[Path, Path]) -> None:
    core, plain = (onnx.load(path) for path in graphs)
    corrected = onnx.load(graphs[1])
    fit_convolutions(corrected, core, normalised(mostly_black(4, 0)), 64)
    before, after = (
        {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
        for model in (plain, corrected)
    )
    assert list(before) == list(after)
    convolutions = [node for node in plain.graph.node if node.op_type == "Conv"]
    made_by = {name: node for node in plain.graph.node for name in node.output}
    fitted = {name for c in convolutions for i in c.input[1:] for name in made_by[i].input}
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert len(changed) > 80
    assert changed <= fitted
    assert [node.name for node in plain.graph.node] == [n.name for n in corrected.graph.node]


def test_a_bias_in_float_is_corrected_as_well(graphs: tuple[Path, Path]) -> None:
    core, plain = (onnx.load(path) for path in graphs)
    constants = {c.name: numpy_helper.to_array(c) for c in plain.graph.initializer}
    made_by = {name: node for node in plain.graph.node for name in node.output}
    for node in plain.graph.node:
        if node.op_type == "Conv":
            integers, scale = (constants[name] for name in made_by[node.input[2]].input[:2])
            value = (integers * scale).astype(np.float32)
            plain.graph.initializer.append(numpy_helper.from_array(value, f"{node.name} bias"))
            node.input[2] = f"{node.name} bias"
    unseen = mostly_black(8, 1)
    expected = run(core, "embedding", unseen)
    before = 1 - (run(plain, "embedding", unseen) * expected).sum(axis=1)
    fit_convolutions(plain, core, normalised(mostly_black(8, 0)), 64)
    after = 1 - (run(plain, "embedding", unseen) * expected).sum(axis=1)
    assert after.mean() < 0.5 * before.mean()


class Grouped(nn.Module):
    """A convolution whose input channels have two outputs each, as FastViT's, and one in pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.doubled = nn.Conv2d(4, 8, 3, groups=4)
        self.paired = nn.Conv2d(8, 6, 3, groups=2)
        self.projection = nn.Linear(6, 5)

    def forward(self, normalised: torch.Tensor) -> torch.Tensor:
        maps = self.paired(self.doubled(torch.relu(self.first(normalised))))
        return F.normalize(self.projection(maps.mean(dim=(2, 3))), dim=-1)


def test_outputs_of_groups_keep_their_mean(tmp_path: Path) -> None:
    torch.manual_seed(0)
    core, out = tmp_path / "core.onnx", tmp_path / "int8.onnx"
    told = {"channels": 1, "size": 64, "name": "normalised", "outputs": ["embedding"]}
    export_module(Grouped().eval(), core, **told)  # type: ignore[arg-type]
    pictures = mostly_black(16, 0)
    quantise(core, pictures, 127 / 255, 128 / 255, out)
    [pool] = [n for n in onnx.load(core).graph.node if n.op_type == "ReduceMean"]
    expected = run(onnx.load(core), pool.output[0], pictures).mean(axis=0).ravel()
    watched = onnx.load(out)
    [pool] = [n for n in watched.graph.node if n.op_type == "ReduceMean"]
    del watched.graph.output[:]
    watched.graph.output.append(helper.make_empty_tensor_value_info(pool.output[0]))
    session = ort.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"image": pictures})[0].mean(axis=0).ravel()
    np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())
