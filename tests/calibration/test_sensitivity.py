"""What each layer costs when it alone is rounded."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.sensitivity import alone, quantised_layers, rank_layers
from calibration.symmetric_int8 import Placed

WEIGHTS = {
    "coarse": np.random.default_rng(0).normal(size=(4, 1, 3, 3)).astype(np.float32),
    "fine": np.random.default_rng(1).normal(size=(4, 4, 1, 1)).astype(np.float32),
}
STEPS = {"coarse": 0.5, "fine": 0.03}  # the first loses far more
INPUT_STEP = np.array(0.05, np.float32)
FRAMES = np.random.default_rng(2).normal(size=(6, 1, 9, 9)).astype(np.float32)


def graph(rounded: tuple[str, ...]) -> onnx.ModelProto:
    """Two convolutions, the second beside a path of its own, some of them on rounded values."""
    constants: dict[str, np.ndarray] = {"zero": np.array(0, np.int8), "input step": INPUT_STEP}
    nodes, read = [], "normalised"
    for name, weights in WEIGHTS.items():
        step = np.array(STEPS[name], np.float32)
        constants |= {name: weights, f"{name} step": step}
        given, seen = name, read
        if name in rounded:
            constants[name] = np.round(weights / step).clip(-127, 127).astype(np.int8)
            given, seen = f"{name} rounded", f"{read} rounded"
            nodes += [
                helper.make_node("DequantizeLinear", [name, f"{name} step", "zero"], [given]),
                helper.make_node(
                    "QuantizeLinear", [read, "input step", "zero"], [f"{read} integers"]
                ),
                helper.make_node(
                    "DequantizeLinear", [f"{read} integers", "input step", "zero"], [seen]
                ),
            ]
        nodes.append(helper.make_node("Conv", [seen, given], [f"{name} out"], name))
        if name == "fine":
            nodes.append(helper.make_node("Add", [seen, "fine out"], ["sum"]))
        read = f"{name} out"
    nodes += [
        helper.make_node("GlobalAveragePool", ["sum"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("LpNormalization", ["flat"], ["embedding"], axis=1, p=2),
    ]
    whole = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("normalised", TensorProto.FLOAT, ["N", 1, 9, 9])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def placed() -> Placed:
    return Placed(graph(("coarse", "fine")), graph(()))


def run(model: onnx.ModelProto) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"normalised": FRAMES})[0]
    return found


def test_the_layer_that_loses_most_comes_first() -> None:
    steps: list[int] = []
    ranked = rank_layers(placed(), FRAMES, lambda: steps.append(1))
    assert [each.layer for each in ranked] == ["coarse", "fine"]
    assert len(steps) == 2
    # As the graphs give it that were drawn with one layer rounded.
    expected = run(graph(()))
    for each in ranked:
        cosines = (run(graph((each.layer,))) * expected).sum(axis=1)
        assert each.loss == pytest.approx(1 - cosines.mean(), abs=1e-6)
    assert ranked[0].loss > 10 * ranked[1].loss > 0


@pytest.mark.parametrize("layer", ["coarse", "fine"])
def test_one_layer_alone_is_rounded_with_all_that_reads_its_input(layer: str) -> None:
    given = placed()
    np.testing.assert_allclose(run(alone(given, layer)), run(graph((layer,))), atol=1e-6)
    assert given.model == placed().model  # which is not changed itself


def test_a_layer_that_is_not_quantised_is_told() -> None:
    assert quantised_layers(placed().model) == ["coarse", "fine"]
    assert quantised_layers(placed().core) == []
    with pytest.raises(ValueError, match="no quantised convolution 'nowhere'"):
        alone(placed(), "nowhere")
