"""Channels of residual streams get one range, and the graph computes what it did."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.equalisation import equalise


def graph(last: str) -> onnx.ModelProto:
    """Two convolutions are added up, and read by `last` and another convolution."""
    rng = np.random.default_rng(0)
    scale = np.array([100.0, 1.0, 0.01, 10.0], np.float32).reshape(4, 1, 1, 1)
    shapes = {"a": (4, 1, 1, 1), "b": (4, 4, 1, 1), "c": (2, 4, 1, 1)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    weights["a"] *= scale
    nodes = [
        helper.make_node("Conv", ["x", "a", "a_bias"], ["first"], "first"),
        helper.make_node("Conv", ["first", "b"], ["second"], "second"),
        helper.make_node("Add", ["first", "second"], ["sum"], "add"),
        helper.make_node("Conv", ["sum", "c"], ["read"], "read"),
        helper.make_node(last, ["read" if last == "Identity" else "sum"], ["y"], "last"),
    ]
    weights["a_bias"] = np.ones(4, np.float32)
    made = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 5, 5])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("read", TensorProto.FLOAT, None),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def frames() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(6, 1, 5, 5)).astype(np.float32)


def run(model: onnx.ModelProto, name: str) -> np.ndarray:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.append(helper.make_empty_tensor_value_info(name))
    session = ort.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run([name], {"x": frames()})[0]
    return found


def test_every_channel_reaches_the_same_largest_value() -> None:
    before, after = graph("Identity"), equalise(graph("Identity"), frames())
    np.testing.assert_allclose(run(after, "y"), run(before, "y"), rtol=1e-3, atol=1e-3)

    def largest(model: onnx.ModelProto) -> np.ndarray:
        values = [
            np.abs(run(model, name)).max(axis=(0, 2, 3)) for name in ("first", "second", "sum")
        ]
        return np.max(values, axis=0)

    assert largest(before).max() / largest(before).min() > 5
    np.testing.assert_allclose(largest(after), largest(before).max(), rtol=1e-3)


@pytest.mark.parametrize("last", ["Relu", "GlobalAveragePool"])
def test_a_stream_that_others_read_stays_as_it_is(last: str) -> None:
    assert equalise(graph(last), frames()) == graph(last)
