"""INT8 by modelopt in PyTorch: towers of convolutions, of linear layers, and as published."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

from calibration import torch_ptq
from calibration.linear_layers import linear_nodes
from calibration.symmetric_int8 import place_quantisers, quantise_symmetric
from calibration.torch_modules import prepared
from calibration.torch_ptq import TORCH_METHODS, Network, place_in_torch
from export.engine import CAPABILITIES, compile_for
from export.graph import Tower, export_core
from export.published import PublishedTower
from tests.export.small import small_fetalclip
from training.models import ImageTower, ModelConfig

MEAN, STD = 127 / 255, 128 / 255


def frames(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Smooth pictures with some noise: ranges as of pictures, not of noise alone."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    waves = [np.sin(rng.uniform(3, 20) * (x + rng.uniform(-1, 1) * y)) for _ in range(count)]
    pictures = 127 + 90 * np.stack(waves) + rng.normal(0, 8, (count, size, size))
    return pictures.clip(0, 255).astype(np.uint8)[:, None]


def convolutional() -> Tower:
    torch.manual_seed(0)
    tower = ImageTower(ModelConfig(image_size=64, embed_dim=16))
    tower.load_imagenet()
    return tower.eval().requires_grad_(False)


def transformer() -> Tower:
    """A ViT of six layers; timm's own, for tests."""
    torch.manual_seed(0)
    tower = ImageTower(ModelConfig(image_size=160, embed_dim=16, backbone="test_vit"))
    return tower.eval().requires_grad_(False)


def published() -> Tower:
    """FetalCLIP's kind, whose attention PyTorch computes in one piece."""
    return PublishedTower(small_fetalclip())


TOWERS: dict[str, Callable[[], Tower]] = {
    "convolutional": convolutional,
    "transformer": transformer,
    "published": published,
}


@pytest.fixture(scope="module")
def towers() -> dict[str, Tower]:
    return {name: make() for name, make in TOWERS.items()}


Quantise = Callable[..., Path]


@pytest.fixture(scope="module")
def quantise(towers: dict[str, Tower], tmp_path_factory: pytest.TempPathFactory) -> Quantise:
    """The INT8 graph of a tower, made once."""
    made: dict[tuple[str, str, int], Path] = {}

    def make(name: str, method: str, epochs: int = 0) -> Path:
        if (name, method, epochs) not in made:
            folder, tower = tmp_path_factory.mktemp("torch"), towers[name]
            export_core(tower, folder / "core.onnx")
            shown = frames(8, tower.config.image_size)
            out = made[name, method, epochs] = folder / "encoder.int8.onnx"
            quantise_symmetric(
                *(folder / "core.onnx", shown, MEAN, STD, out, method),
                network=Network(tower),
                epochs=epochs,
            )
        return made[name, method, epochs]

    return make


def cosines(path: Path, tower: Tower, seed: int = 1) -> np.ndarray:
    """Of the graph as it is written with the tower in PyTorch."""
    images = frames(8, tower.config.image_size, seed)
    with torch.inference_mode():
        normalised = (torch.from_numpy(images).float() - 127) / 128
        expected = tower.embed_and_characterise(normalised)[0].numpy()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(["embedding"], {"image": images})[0]
    assert found.shape == expected.shape
    return np.asarray((found * expected).sum(axis=1))


@pytest.mark.parametrize("name", TOWERS)
def test_a_prepared_tower_gives_what_the_tower_gives(name: str, towers: dict[str, Tower]) -> None:
    tower = towers[name]
    images = torch.rand(3, 1, tower.config.image_size, tower.config.image_size) * 2 - 1
    copy = prepared(tower)
    with torch.inference_mode():
        pairs = zip(
            tower.embed_and_characterise(images), copy.embed_and_characterise(images), strict=True
        )
        for wanted, found in pairs:
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)
    kinds = {type(module).__name__ for module in copy.modules()}  # type: ignore[attr-defined]
    assert not kinds & {"BatchNormAct2d", "Conv2dSame", "MultiheadAttention"}


CASES = list(zip(TOWERS, TORCH_METHODS, strict=True))


@pytest.mark.parametrize(("name", "method"), CASES)
def test_embeddings_are_near_those_in_float32(
    name: str, method: str, towers: dict[str, Tower], quantise: Quantise
) -> None:
    assert cosines(quantise(name, method), towers[name]).min() > 0.98


@pytest.mark.parametrize(("name", "method"), CASES)
def test_all_products_but_the_last_are_of_integers(
    name: str, method: str, quantise: Quantise
) -> None:
    graph = onnx.load(quantise(name, method)).graph
    constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}

    def comes_from(value: str) -> str:
        while value in made_by and made_by[value].op_type in ("Transpose", "Cast"):
            value = made_by[value].input[0]
        return made_by[value].op_type if value in made_by else "constant"

    in_float = [
        node
        for node in graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul") and comes_from(node.input[1]) == "constant"
    ]
    integers = [c for c in constants.values() if c.dtype == np.int8 and c.ndim > 1]
    assert len(in_float) == 1, [node.name for node in in_float]
    assert len(integers) > 5
    assert max(c.size for c in constants.values() if c.dtype != np.int8) < 1 << 16


@pytest.mark.parametrize(
    ("name", "method"), [("convolutional", "torch-max"), ("published", "torch-smoothquant")]
)
def test_tensorrt_rtx_compiles_it(
    name: str, method: str, quantise: Quantise, tmp_path: Path
) -> None:
    found = compile_for(quantise(name, method), CAPABILITIES, tmp_path)
    assert found.capabilities == ("8.6", "8.9", "12.0")


def test_learning_to_be_rounded_brings_it_nearer(
    towers: dict[str, Tower], quantise: Quantise
) -> None:
    before = cosines(quantise("transformer", "torch-mse"), towers["transformer"], seed=0)
    after = cosines(quantise("transformer", "torch-mse", 3), towers["transformer"], seed=0)
    assert after.mean() > before.mean()


def test_a_network_is_rounded_once_whatever_stays_in_float(
    towers: dict[str, Tower], monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []
    learn = torch_ptq._learn

    def counted(*given: Any) -> bool:
        rounds.append(1)
        return learn(*given)

    monkeypatch.setattr(torch_ptq, "_learn", counted)
    network, tower = Network(towers["convolutional"]), towers["convolutional"]
    given = (frames(4, tower.config.image_size).astype(np.float32) - 127) / 128
    whole, core, _ = place_in_torch(network, given, "torch-max", 1)
    [first, *_] = [node.name for node in core.graph.node if node.op_type == "Conv"]
    before = whole.SerializeToString()
    parted, _, _ = place_in_torch(network, given, "torch-max", 1, [first])
    assert len(rounds) == 1
    kinds = [sum(n.op_type == "QuantizeLinear" for n in m.graph.node) for m in (whole, parted)]
    assert kinds[1] < kinds[0]
    assert whole.SerializeToString() == before
    place_in_torch(network, given[:2], "torch-max", 1)  # other frames are another thing
    assert len(rounds) == 2


def test_a_convolution_that_is_named_stays_in_float32(
    towers: dict[str, Tower], tmp_path: Path
) -> None:
    tower = towers["convolutional"]
    export_core(tower, tmp_path / "core.onnx")
    graph = onnx.load(tmp_path / "core.onnx").graph
    names = [node.name for node in graph.node if node.op_type == "Conv"]
    given = (frames(4, 64).astype(np.float32) - 127) / 128
    model, _, learned = place_in_torch(Network(tower), given, "torch-max", in_float=names[:1])
    assert not learned
    found = model.graph
    dequantised = {n.output[0] for n in found.node if n.op_type == "DequantizeLinear"}
    convolutions = [node for node in found.node if node.op_type == "Conv"]
    assert [n.name for n in convolutions if n.input[1] not in dequantised] == names[:1]
    # And it pads as it did, though in PyTorch something before it pads.
    pads = {n.name: a.ints for n in graph.node for a in n.attribute if a.name == "pads"}
    assert {n.name: a.ints for n in convolutions for a in n.attribute if a.name == "pads"} == pads


def test_a_linear_layer_that_is_named_stays_in_float32(
    towers: dict[str, Tower], tmp_path: Path
) -> None:
    # Given a name in the graph that everybody sees, where attention is written in another way
    tower = towers["published"]
    export_core(tower, tmp_path / "core.onnx")
    core = onnx.load(tmp_path / "core.onnx")
    layers = [node.name for node in linear_nodes(core.graph)]
    given = (frames(4, tower.config.image_size).astype(np.float32) - 127) / 128
    # When all but that one are rounded
    told = (core, given, 128, "torch-max", layers[4:5])
    placed = place_quantisers(*told, network=Network(tower))
    # Then seven of the eight are, and the one that is not has the named one's weights
    graph = placed.model.graph
    constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    in_float = [
        constants[node.input[0]]
        for node in graph.node
        if node.op_type == "Transpose" and node.input[0] in constants
    ]
    assert sum(c.dtype == np.int8 and c.ndim == 2 for c in constants.values()) == 7
    [kept] = in_float
    weights = {c.name: numpy_helper.to_array(c) for c in core.graph.initializer}
    [node] = [node for node in core.graph.node if node.name == layers[4]]
    expected = weights[node.input[1]]
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    np.testing.assert_array_equal(kept, expected if transposed else expected.T)


def test_methods_of_pytorch_need_the_model(tmp_path: Path, towers: dict[str, Tower]) -> None:
    export_core(towers["convolutional"], tmp_path / "core.onnx")
    with pytest.raises(ValueError, match="torch-max needs the model in PyTorch"):
        quantise_symmetric(
            tmp_path / "core.onnx", frames(2, 64), MEAN, STD, tmp_path / "x.onnx", "torch-max"
        )
    with pytest.raises(ValueError, match="learning to be rounded needs one of torch-max"):
        quantise_symmetric(
            *(tmp_path / "core.onnx", frames(2, 64), MEAN, STD, tmp_path / "x.onnx"), epochs=1
        )


def test_modelopt_that_is_missing_is_said_with_what_to_install(
    towers: dict[str, Tower], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "modelopt.torch.quantization", None)
    shown = np.zeros((1, 1, 64, 64), np.float32)
    with pytest.raises(RuntimeError, match=r'torch-max needs .*"fetalclip-edge\[export\]"'):
        place_in_torch(Network(towers["convolutional"]), shown, "torch-max")
