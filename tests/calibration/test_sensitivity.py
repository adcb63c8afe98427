"""Layers left in float, one by one."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.sensitivity import leave_in_float, quantised_layers, rank_layers

WEIGHTS = {
    "coarse": np.random.default_rng(0).normal(size=(4, 1, 3, 3)).astype(np.float32),
    "fine": np.random.default_rng(1).normal(size=(3, 4, 3, 3)).astype(np.float32),
}
STEPS = {"coarse": 0.5, "fine": 0.03}  # the first loses far more


def model(quantised: bool) -> onnx.ModelProto:
    """Two convolutions on bytes, with a mean over all pixels made one long."""
    constants: dict[str, np.ndarray] = {"zero": np.array(0, np.int8)} if quantised else {}
    nodes = [helper.make_node("Cast", ["image"], ["grey"], to=TensorProto.FLOAT)]
    read = "grey"
    for name, weights in WEIGHTS.items():
        step = np.array(STEPS[name], np.float32)
        given = name
        if quantised:
            constants[f"{name} step"] = step
            constants[name] = np.round(weights / step).clip(-127, 127).astype(np.int8)
            given = f"{name} rounded"
            nodes.append(
                helper.make_node("DequantizeLinear", [name, f"{name} step", "zero"], [given])
            )
        else:
            constants[name] = weights
        nodes.append(helper.make_node("Conv", [read, given], [f"{name} out"], name))
        read = f"{name} out"
    nodes += [
        helper.make_node("GlobalAveragePool", [read], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("LpNormalization", ["flat"], ["embedding"], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 1, 9, 9])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def frames() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (6, 1, 9, 9)).astype(np.uint8)


def run(graph: onnx.ModelProto) -> np.ndarray:
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"image": frames()})[0]
    return found


def test_the_layer_that_loses_most_comes_first() -> None:
    seen: list[int] = []
    expected = run(model(quantised=False))
    ranked = rank_layers(
        model(quantised=True), model(quantised=False), frames(), expected, lambda: seen.append(1)
    )
    assert [layer.layer for layer in ranked] == ["coarse", "fine"]
    assert ranked[0].gain > 10 * abs(ranked[1].gain)
    assert len(seen) == 2


def test_with_every_layer_in_float_the_graph_is_the_one_in_float() -> None:
    quantised, core = model(quantised=True), model(quantised=False)
    assert quantised_layers(quantised) == ["coarse", "fine"]
    restored = leave_in_float(quantised, core, ["coarse", "fine"])
    assert quantised_layers(restored) == []
    np.testing.assert_allclose(run(restored), run(core), atol=1e-6)
    assert "DequantizeLinear" not in {node.op_type for node in restored.graph.node}
    assert all(c.data_type != TensorProto.INT8 for c in restored.graph.initializer)
    assert quantised == model(quantised=True)  # which is not changed itself


def test_a_layer_that_is_not_there_is_told() -> None:
    with pytest.raises(ValueError, match="no quantised layer nowhere"):
        leave_in_float(model(quantised=True), model(quantised=False), ["nowhere"])
