"""INT8 of transformers on CPUs: linear layers on integer kernels, near FP32, outliers or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from calibration.linear_int8 import in_u8s8, smoothed
from calibration.linear_layers import apart, linear_nodes
from calibration.linear_rounding import fit_linear_layers
from calibration.onnxruntime_int8 import quantise
from calibration.sensitivity import rank_linear_layers
from calibration.static import UnsupportedGraphError, normalised
from calibration.symmetric_int8 import method_for
from export.graph import Tower, export_core
from export.published import PublishedTower
from fetalclip_edge.backends.openvino import import_runtime
from tests.calibration.test_sensitivity import graph as two_convolutions
from tests.calibration.test_torch_ptq import MEAN, STD, frames, transformer
from tests.export.small import small_fetalclip

OUTLIER = 60.0


def with_outliers() -> Tower:
    """What trained ViTs have: channels far larger than others, after norms and inside MLPs."""
    tower = transformer()
    assert isinstance(tower, nn.Module)
    for block in tower.backbone.blocks:  # type: ignore[union-attr]
        with torch.no_grad():
            for norm, layer in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)):
                norm.weight[3] *= OUTLIER  # and the layer after it makes up for that
                norm.bias[3] *= OUTLIER
                layer.weight[:, 3] /= OUTLIER
            block.mlp.fc1.weight[5] *= OUTLIER
            block.mlp.fc1.bias[5] += 2
            block.mlp.fc2.weight[:, 5] /= OUTLIER
    return tower


def published() -> Tower:
    return PublishedTower(small_fetalclip())


TOWERS: dict[str, Callable[[], Tower]] = {
    "transformer": transformer,
    "published": published,
    "outliers": with_outliers,
}
LAYERS = {"transformer": 24, "published": 8, "outliers": 24}
"""Four a block."""
GEMMS = {"transformer": 0, "published": 2, "outliers": 0}
"""PyTorch's own attention ends in a product of matrices."""


class Made(NamedTuple):
    core: Path
    int8: Path
    size: int


@pytest.fixture(scope="module", params=TOWERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, name: str) -> Made:
    folder, tower = tmp_path_factory.mktemp("linear"), TOWERS[name]()
    core, out = folder / "core.onnx", folder / "encoder.cpu.onnx"
    export_core(tower, core)
    size = tower.config.image_size
    quantise(core, frames(16, size), MEAN, STD, out)
    return Made(core, out, size)


def unseen(size: int) -> np.ndarray:
    return frames(8, size, seed=1)


def wanted(made: Made) -> np.ndarray:
    """Embeddings in float32."""
    given = normalised(unseen(made.size), MEAN, STD)
    return embeddings(onnx.load(made.core), given)


def embeddings(model: onnx.ModelProto, given: np.ndarray) -> np.ndarray:
    """As a graph is written, by kernels of float32."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found: np.ndarray = session.run(["embedding"], {model.graph.input[0].name: given})[0]
    return found


def on_integers(path: Path, kept: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if kept is not None:
        options.optimized_model_filepath = str(kept)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def test_onnx_runtime_on_integers_is_near_float32(made: Made) -> None:
    images = unseen(made.size)
    session = on_integers(made.int8)
    for batch in (images, images[:1]):
        found = session.run(["embedding"], {"image": batch})[0]
        cosines = (found * wanted(made)[: len(batch)]).sum(axis=1)
        assert found.shape == (len(batch), 16)
        assert cosines.min() > 0.99


def test_openvino_on_integers_is_near_float32(made: Made) -> None:
    core = import_runtime().Core()
    compiled = core.compile_model(str(made.int8), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled([unseen(made.size)])["embedding"]
    assert (found * wanted(made)).sum(axis=1).min() > 0.99


def test_onnx_runtime_fuses_every_linear_layer_to_a_product_of_integers(
    made: Made, name: str, tmp_path: Path
) -> None:
    on_integers(made.int8, tmp_path / "optimised.onnx")
    found = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert found["MatMulIntegerToFloat"] == LAYERS[name] - GEMMS[name]
    assert found["QGemm"] == GEMMS[name]
    assert found["DequantizeLinear"] == 0  # nothing goes back to floats by itself


def test_weights_have_seven_bits_and_the_rest_stays_in_float(made: Made, name: str) -> None:
    graph = onnx.load(made.int8).graph
    constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    rounded = [n for n in products if made_by.get(n.input[1], n).op_type == "DequantizeLinear"]
    assert len(rounded) == LAYERS[name]
    for node in rounded:
        activation, weight = made_by[node.input[0]], made_by[node.input[1]]
        assert constants[activation.input[2]].dtype == np.uint8
        integers, scales = (constants[each] for each in weight.input[:2])
        assert integers.dtype == np.int8
        # Two products of uint8 and seven bits fit 16 bits, where AVX2 adds them.
        assert 60 <= np.abs(integers.astype(int)).max() <= 64
        assert scales.shape == (integers.shape[1],)  # one an output
    # Attention's two products a block, and the projection, in which nothing is rounded
    in_float = [node for node in products if node not in rounded]
    assert len(in_float) == LAYERS[name] // 4 * 2 + 1
    back = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    assert not back.intersection(*[[i for n in in_float for i in n.input]])
    readers = {node.op_type for node in graph.node if back.intersection(node.input)}
    assert readers == {"MatMul", "Gemm"} if GEMMS[name] else {"MatMul"}


def test_setting_layers_apart_changes_nothing(made: Made) -> None:
    model = onnx.load(made.core)
    layers = apart(model)
    constants = [c for layer in layers for c in (layer.weights, layer.bias)]
    constants += [c for layer in layers if layer.norm for c in layer.norm.input[1:]]
    assert len(set(constants)) == len(constants)
    read = Counter(i for node in model.graph.node for i in node.input)
    assert {read[each] for each in constants} == {1}
    given = normalised(unseen(made.size), MEAN, STD)
    np.testing.assert_allclose(embeddings(model, given), wanted(made), atol=1e-5)


def test_evening_out_changes_nothing_but_ranges(made: Made, name: str) -> None:
    given = normalised(frames(8, made.size), MEAN, STD)
    even = smoothed(onnx.load(made.core), given)
    shown = normalised(unseen(made.size), MEAN, STD)
    np.testing.assert_allclose(embeddings(even.model, shown), wanted(made), atol=1e-4)
    added = [node for node in even.model.graph.node if node.name.endswith("even out")]
    if name != "outliers":
        assert not added  # a product takes time
        return
    assert {node.name.split("/")[-2] for node in added} == {"fc2"}
    for layer in even.layers:
        ranges = even.ranges[layer.given]
        largest = np.maximum(-ranges.least, ranges.most)
        assert largest.max() < OUTLIER / 2 * np.median(largest), layer.name


def test_outliers_ruin_what_is_not_evened_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tower = with_outliers()
    export_core(tower, tmp_path / "core.onnx")
    given = normalised(frames(8, 160), MEAN, STD)
    shown = normalised(unseen(160), MEAN, STD)
    expected = embeddings(onnx.load(tmp_path / "core.onnx"), shown)

    def loss() -> float:
        plain = smoothed(onnx.load(tmp_path / "core.onnx"), given)
        found = embeddings(in_u8s8(plain, [layer.name for layer in plain.layers]), shown)
        return float(1 - (found * expected).sum(axis=1).mean())

    after = loss()
    monkeypatch.setattr("calibration.linear_int8.smooth", lambda *given: dict(given[2]))
    assert after < 0.2 * loss()


def test_weights_that_are_fitted_to_what_they_read_lose_less(made: Made) -> None:
    given = normalised(frames(16, made.size), MEAN, STD)
    shown = normalised(unseen(made.size), MEAN, STD)
    losses = []
    for fit in (False, True):
        plain = smoothed(onnx.load(made.core), given)
        names = [layer.name for layer in plain.layers]
        if fit:
            fit_linear_layers(plain, names, given)
        found = embeddings(in_u8s8(plain, names), shown)
        losses.append(1 - (found * wanted(made)).sum(axis=1).mean())
    assert losses[1] < 0.8 * losses[0]


def test_a_layer_that_is_named_stays_as_it_is(made: Made, tmp_path: Path) -> None:
    core = onnx.load(made.core)
    first, last = (linear_nodes(core.graph)[place].name for place in (0, -1))
    quantise(made.core, frames(8, made.size), MEAN, STD, tmp_path / "x.onnx", [first, last])
    graph = onnx.load(tmp_path / "x.onnx").graph
    constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    kept = {n.name: constants[n.input[1]] for n in graph.node if n.name in (first, last)}
    originals = {c.name: numpy_helper.to_array(c) for c in core.graph.initializer}
    assert {values.dtype for values in kept.values()} == {np.dtype(np.float32)}
    # The last reads no layer norm, so that its weights are not even scaled.
    [product] = [node for node in core.graph.node if node.name == last]
    if not any(node.name == f"{last} even out" for node in graph.node):
        np.testing.assert_array_equal(kept[last], originals[product.input[1]])
    assert sum(c.dtype == np.int8 and c.ndim == 2 for c in constants.values()) > 5


def test_layers_that_do_not_exist_and_all_of_them_are_refused(made: Made, tmp_path: Path) -> None:
    every = [node.name for node in linear_nodes(onnx.load(made.core).graph)]
    told = (made.core, frames(2, made.size), MEAN, STD, tmp_path / "x.onnx")
    with pytest.raises(UnsupportedGraphError, match="no linear layer nowhere to leave in float"):
        quantise(*told, ["nowhere"])
    with pytest.raises(UnsupportedGraphError, match="every linear layer is to stay in float"):
        quantise(*told, every)


def test_the_layer_that_loses_most_comes_first(tmp_path: Path) -> None:
    export_core(published(), tmp_path / "core.onnx")
    given, shown = (normalised(frames(8, 56, seed), MEAN, STD) for seed in (0, 1))
    expected = embeddings(onnx.load(tmp_path / "core.onnx"), shown)
    plain = smoothed(onnx.load(tmp_path / "core.onnx"), given)
    steps: list[int] = []
    ranked = rank_linear_layers(plain, shown, lambda: steps.append(1))
    assert len(ranked) == len(steps) == 8
    assert [each.loss for each in ranked] == sorted((r.loss for r in ranked), reverse=True)
    # As the whole graph has it with that layer alone in INT8
    for each in ranked:
        found = embeddings(in_u8s8(plain, [each.layer]), shown)
        loss = 1 - (found * expected).sum(axis=1).mean()
        assert each.loss == pytest.approx(float(loss), abs=3e-6)


def test_the_kind_of_network_chooses_the_method(tmp_path: Path) -> None:
    export_core(published(), tmp_path / "vit.onnx")
    vit = onnx.load(tmp_path / "vit.onnx").graph
    assert method_for(vit) == "torch-smoothquant"
    assert method_for(vit, "torch-mse") == "torch-mse"
    with pytest.raises(UnsupportedGraphError, match="which modelopt-max leaves in float32"):
        method_for(vit, "modelopt-max")
    assert method_for(two_convolutions(()).graph) == "onnxruntime"
    with pytest.raises(ValueError, match="method must be one of onnxruntime"):
        method_for(vit, "guess")
