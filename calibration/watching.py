"""What tensors inside a graph are on real frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper

__all__ = ["WITHOUT_INTEGER_KERNELS", "tensors_of"]

Floats = NDArray[np.float32]

WITHOUT_INTEGER_KERNELS = "session.disable_quant_qdq"
"""ONNX Runtime's option that computes a Q/DQ graph in float32, as it is written.

Its integer kernels add two products in 16 bits on processors with AVX2 but not VNNI. Eight bits of
weights overflow there and are cut off without a word: a graph that is right on every GPU, with a
cosine of 0.995, seems to have one of 0.82.
"""


def tensors_of(
    model: onnx.ModelProto, names: Sequence[str], known: Mapping[str, Floats]
) -> Iterator[list[Floats]]:
    """Some tensors of each frame, from others that are known, doing no more work than that.

    Args:
        model: the graph, its nodes sorted.
        names: of the tensors that are wanted; none that is known.
        known: name -> all frames of a tensor, float32 `(N, ...)`.

    Yields:
        For each frame the tensors in the order of `names`, each with a first dimension of 1.
    """
    needed, nodes = set(names), []
    for node in reversed(model.graph.node):  # sorted: what a node needs comes before it
        if needed.difference(known).intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    given = sorted(needed.intersection(known))
    # Without the rest, which may be a gigabyte.
    watched = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    watched.graph.name = model.graph.name
    watched.graph.node.extend(reversed(nodes))
    for name in given:
        shape = ["N", *known[name].shape[1:]]
        watched.graph.input.append(
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        )
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    watched.graph.initializer.extend(c for c in model.graph.initializer if c.name in needed)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(WITHOUT_INTEGER_KERNELS, "1")
    session = ort.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    del watched
    for index in range(len(next(iter(known.values())))):
        yield session.run(list(names), {name: known[name][index : index + 1] for name in given})
