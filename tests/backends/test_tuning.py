"""Measuring the backends, dropping those that stray, and remembering the fastest."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save

from fetalclip_edge.backends import Backend, load_backend, load_with_choice
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BackendError, BundleError
from fetalclip_edge.tuning import graphs_to_try, remember_tuning, tune

from ..command_line import CommandLine
from .conftest import CPU_BACKENDS, DIM, LINEAR_PREPROCESS, SIZE, MakeBundle

MakeTunable = Callable[..., ModelBundle]


@pytest.fixture(scope="session")
def make_tunable(
    make_bundle: MakeBundle, linear_graph: onnx.ModelProto, weights: NDArray[np.float32]
) -> MakeTunable:
    """The linear model with reference embeddings by numpy, and beside it one that strays."""
    rng = np.random.default_rng(8)
    frames = rng.integers(0, 256, (6, 1, SIZE, SIZE), np.uint8)
    product = (frames.reshape(6, -1).astype(np.float64) + 1) @ weights
    embeddings = (product / np.linalg.norm(product, axis=1, keepdims=True)).astype(np.float32)
    strays = onnx.ModelProto()
    strays.CopyFrom(linear_graph)
    (tensor,) = (t for t in strays.graph.initializer if t.name == "weights")
    tensor.raw_data = (weights + rng.normal(0, 0.01, weights.shape)).astype(np.float32).tobytes()

    def make(
        graphs: dict[str, dict[str, str]], more: dict[str, bytes] | None = None, **entries: Any
    ) -> ModelBundle:
        files = {
            "linear.onnx": linear_graph.SerializeToString(),
            "strays.onnx": strays.SerializeToString(),
            "junk.onnx": b"not a graph",
            "reference.safetensors": save({"frames": frames, "embeddings": embeddings}),
            **(more or {}),
        }
        settings = {"embedding_dim": DIM, "preprocess": LINEAR_PREPROCESS, **entries}
        return make_bundle(graphs, files, **settings)

    return make


@pytest.fixture(scope="session")
def tunable(make_tunable: MakeTunable) -> ModelBundle:
    good = {"fp32": "linear.onnx"}
    return make_tunable(
        {"openvino": good, "onnxruntime": {"int8": "strays.onnx", **good, "fp16": "junk.onnx"}}
    )


# Measuring


def test_every_graph_of_an_installed_backend_is_tried(
    tunable: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = [("onnxruntime", precision) for precision in ("int8", "fp32", "fp16")]
    assert graphs_to_try(tunable) == [*onnxruntime, ("openvino", "fp32")]
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert graphs_to_try(tunable) == onnxruntime


def test_those_that_stray_or_fail_are_dropped_and_the_others_timed(tunable: ModelBundle) -> None:
    steps: list[None] = []
    tuning = tune(tunable, rounds=7, advance=lambda: steps.append(None))
    assert len(steps) == 4 + 7
    kept, (strayed, broken) = tuning.trials[:2], tuning.trials[2:]
    assert {(t.backend, t.precision) for t in kept} == {(name, "fp32") for name in CPU_BACKENDS}
    for trial in kept:
        assert trial.problem is None
        assert trial.mean_cosine == pytest.approx(1, abs=1e-4)
        assert trial.median_ms is not None
        assert trial.p95_ms is not None
        assert 0 < trial.median_ms <= trial.p95_ms
    assert kept[0].median_ms <= kept[1].median_ms
    assert tuning.fastest is tuning.trials[0]
    assert (strayed.backend, strayed.precision, strayed.median_ms) == ("onnxruntime", "int8", None)
    assert strayed.mean_cosine is not None
    assert strayed.mean_cosine < 0.99
    assert strayed.problem is not None
    assert "of embedding" in strayed.problem
    assert "less than 0.99" in strayed.problem
    assert (broken.precision, broken.version, broken.mean_cosine) == ("fp16", None, None)
    assert broken.problem is not None
    assert "junk.onnx" in broken.problem


def test_a_graph_is_dropped_for_any_output_that_strays(
    make_tunable: MakeTunable, linear_graph: onnx.ModelProto
) -> None:
    # Given embeddings as in float32, and a brightness that falls where the model's rises
    tunable = make_tunable({"onnxruntime": {"fp32": "linear.onnx"}})
    reference = tunable.reference()
    assert reference is not None
    mean = reference.frames.reshape(6, -1).mean(axis=1, keepdims=True).astype(np.float32)
    tensors = {"frames": reference.frames, "embeddings": reference.outputs["embedding"]}
    graphs = {"onnxruntime": {"fp32": "linear.onnx"}}
    good, bad = (
        make_tunable(graphs, {"reference.safetensors": save({**tensors, "brightness": values})})
        for values in (mean, -mean)
    )
    # Then the one is kept and the other is not, and the reason names the output
    assert tune(good, rounds=1).fastest.mean_cosine == pytest.approx(1, abs=1e-4)
    with pytest.raises(BackendError, match=r"mean cosine of brightness with float32 is -1\.0000"):
        tune(bad, rounds=1)


def test_an_output_that_is_no_number_is_not_hidden_by_others(
    make_tunable: MakeTunable, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given embeddings that are no numbers beside a brightness that is right
    graphs = {"onnxruntime": {"fp32": "linear.onnx"}}
    reference = make_tunable(graphs).reference()
    assert reference is not None
    mean = reference.frames.reshape(6, -1).mean(axis=1, keepdims=True).astype(np.float32)
    tensors = {"frames": reference.frames, "embeddings": reference.outputs["embedding"]}
    more = {"reference.safetensors": save({**tensors, "brightness": mean})}
    bundle = make_tunable(graphs, more)
    kind = type(load_backend(bundle, "onnxruntime"))
    encode = kind.encode

    def broken(self: Backend, inputs: NDArray[Any], out: Any = None) -> Any:
        found = encode(self, inputs, out)
        return {**found, "embedding": np.full_like(found["embedding"], np.nan)}

    monkeypatch.setattr(kind, "encode", broken)
    with pytest.raises(BackendError, match="mean cosine of embedding with float32 is nan"):
        tune(bundle, rounds=1)


def test_a_graph_that_lacks_an_output_is_dropped(make_tunable: MakeTunable) -> None:
    tunable = make_tunable({"onnxruntime": {"fp32": "linear.onnx"}})
    reference = tunable.reference()
    assert reference is not None
    tensors = {"frames": reference.frames, "embeddings": reference.outputs["embedding"]}
    more = {"reference.safetensors": save({**tensors, "head_logits": np.ones((6, 4), np.float32)})}
    with pytest.raises(BackendError, match="gives no head_logits"):
        tune(make_tunable({"onnxruntime": {"fp32": "linear.onnx"}}, more), rounds=1)


def test_a_model_of_colours_is_tuned_on_the_same_frames(
    make_tunable: MakeTunable, weights: NDArray[np.float32]
) -> None:
    # Given a graph that takes float32 RGB, and undoes its normalisation
    third = np.concatenate([weights / 3] * 3)
    nodes = [
        onnx.helper.make_node("Mul", ["image", "std"], ["scaled"]),
        onnx.helper.make_node("Add", ["scaled", "mean"], ["grey"]),
        onnx.helper.make_node("Flatten", ["grey"], ["flat"]),
        onnx.helper.make_node("MatMul", ["flat", "weights"], ["product"]),
        onnx.helper.make_node("LpNormalization", ["product"], ["embedding"], axis=1, p=2),
    ]
    constants = {"std": [0.5 * 255], "mean": [0.25 * 255 + 1], "weights": third}
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "colours",
        [value("image", onnx.TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [value("embedding", onnx.TensorProto.FLOAT, ["N", DIM])],
        [
            onnx.numpy_helper.from_array(np.array(v, np.float32), name)
            for name, v in constants.items()
        ],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    bundle = make_tunable(
        {name: {"fp32": "colours.onnx"} for name in CPU_BACKENDS},
        preprocess={
            **LINEAR_PREPROCESS,
            "color": "rgb",
            "mean": [0.25] * 3,
            "std": [0.5] * 3,
            "dtype": "float32",
        },
        more={"colours.onnx": model.SerializeToString()},
    )
    tuning = tune(bundle, rounds=1)
    assert [trial.problem for trial in tuning.trials] == [None, None]
    assert min(trial.mean_cosine or 0 for trial in tuning.trials) > 0.999


def test_graphs_take_turns(tunable: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    for name in CPU_BACKENDS:
        kind = type(load_backend(tunable, name, precision="fp32"))
        encode = kind.encode

        def listed(self: Any, *arguments: Any, _encode: Any = encode) -> Any:
            asked.append(self.name)
            return _encode(self, *arguments)

        monkeypatch.setattr(kind, "encode", listed)
    tune(tunable, rounds=10)
    timed = asked[-20:]
    pairs = [timed[i : i + 2] for i in range(0, 20, 2)]
    assert all(set(pair) == set(CPU_BACKENDS) for pair in pairs)
    assert sum(pair[0] == "openvino" for pair in pairs) == 5


def test_without_reference_frames_nothing_is_compared(linear: ModelBundle) -> None:
    with pytest.raises(BundleError, match=r"has no reference\.safetensors"):
        tune(linear, rounds=1)


def test_when_nothing_passes_each_is_told(make_tunable: MakeTunable) -> None:
    bundle = make_tunable({"openvino": {"int8": "strays.onnx"}, "onnxruntime": {"x": "junk.onnx"}})
    with pytest.raises(BackendError, match=r"onnxruntime x: ONNX.*; openvino int8: mean cosine"):
        tune(bundle, rounds=1)


def test_an_embedding_that_is_no_number_is_dropped(
    make_tunable: MakeTunable, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_tunable(
        {"openvino": {"fp32": "linear.onnx"}, "onnxruntime": {"fp32": "linear.onnx"}}
    )
    kind = type(load_backend(bundle, "openvino"))
    nothing = np.full((1, DIM), np.nan, np.float32)
    monkeypatch.setattr(kind, "encode", lambda self, inputs, out=None: {"embedding": nothing})
    tuning = tune(bundle, rounds=1)
    assert tuning.fastest.backend == "onnxruntime"
    assert "nan" in str(tuning.trials[1].problem)
    json.dumps(tuning.to_dict(), allow_nan=False)


def test_no_rounds_are_refused(tunable: ModelBundle) -> None:
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        tune(tunable, rounds=0)


# Remembering


def test_auto_takes_what_was_the_fastest(tunable: ModelBundle, own_cache: Path) -> None:
    tuning = tune(tunable, rounds=3)
    path = remember_tuning(tunable, tuning)
    backend, choice = load_with_choice(tunable)
    assert (backend.name, backend.precision) == (tuning.fastest.backend, "fp32")
    assert "fastest" in choice.reason
    assert choice.passed_over["onnxruntime int8"].startswith("dropped when tuned: mean cosine")
    assert path.parent == own_cache
    assert stat.S_IMODE(own_cache.stat().st_mode) == 0o700
    assert [p.name for p in own_cache.iterdir()] == [path.name]


# The command


def test_tune_prints_and_remembers(
    tunable: ModelBundle, command_line: CommandLine, own_cache: Path
) -> None:
    code, out, err = command_line("tune", "--bundle", tunable.folder, "--rounds", 3, "--json")
    assert (code, err.count("\n")) == (0, 1), err
    report = json.loads(out)
    assert (report["rounds"], report["threads"], report["least_mean_cosine"]) == (3, 1, 0.99)
    assert report["fastest"]["precision"] == "fp32"
    assert {trial["backend"] for trial in report["trials"]} == set(CPU_BACKENDS)
    assert Path(report["remembered"]).parent == own_cache
    assert report["machine"]["cores"] > 0


def test_tune_for_people_shows_a_table(tunable: ModelBundle, command_line: CommandLine) -> None:
    code, out, _ = command_line("tune", "--bundle", tunable.folder, "--rounds", 3)
    assert code == 0
    assert "fastest" in out
    assert "int8" in out
    assert "reference frames, at least 0.99" in out.replace("\n", " ")


@pytest.mark.parametrize(
    "arguments",
    [["--rounds", "0"], ["--threads", "0"], ["--bundle", "missing"], ["--backend", "openvino"]],
)
def test_tune_refuses_bad_usage(command_line: CommandLine, arguments: list[str]) -> None:
    code, out, err = command_line("tune", *arguments)
    assert (code, out) == (2, "")
    assert err.strip()


def test_tune_of_a_bundle_without_reference_frames_is_2(
    linear: ModelBundle, command_line: CommandLine
) -> None:
    code, out, err = command_line("tune", "--bundle", linear.folder)
    assert (code, out) == (2, "")
    assert "reference.safetensors" in err


def test_tune_where_nothing_passes_is_1(
    make_tunable: MakeTunable, command_line: CommandLine
) -> None:
    bundle = make_tunable({"onnxruntime": {"int8": "strays.onnx"}})
    code, out, err = command_line("tune", "--bundle", bundle.folder, "--rounds", 1)
    assert (code, out) == (1, "")
    assert "onnxruntime int8: mean cosine" in err


def test_a_result_that_cannot_be_remembered_is_shown_and_1(
    tunable: ModelBundle, command_line: CommandLine, own_cache: Path
) -> None:
    own_cache.parent.mkdir(parents=True)
    own_cache.write_bytes(b"a file where the folder should be")
    code, out, err = command_line("tune", "--bundle", tunable.folder, "--rounds", 1, "--json")
    assert code == 1
    assert json.loads(out)["remembered"] is None
    assert "cannot remember it" in err


# info


def test_info_tells_what_is_installed_what_was_chosen_and_why(
    shipped: ModelBundle, command_line: CommandLine
) -> None:
    code, out, _ = command_line("info", "--json", "--bundle", shipped.folder)
    assert code == 0
    report = json.loads(out)
    assert report["choice"]["backend"] == report["backend"]["name"] == "onnxruntime"
    assert "not tuned" in report["choice"]["reason"]
    for name in CPU_BACKENDS:
        assert report["backends"][name]["graphs"] == ["int8"]
        assert report["backends"][name]["installed"]


def test_info_tells_who_was_passed_over(
    shipped: ModelBundle, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    code, out, err = command_line("info", "--json", "--bundle", shipped.folder)
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["choice"]["backend"] == "onnxruntime"
    assert report["choice"]["passed_over"]["openvino"] == "not installed"
    assert report["backends"]["openvino"]["installed"] is None
    code, out, _ = command_line("info", "--bundle", shipped.folder)
    assert "openvino: not installed" in out


def test_info_of_a_backend_asked_for_says_so(
    shipped: ModelBundle, command_line: CommandLine
) -> None:
    code, out, _ = command_line(
        "info", "--json", "--bundle", shipped.folder, "--backend", "onnxruntime"
    )
    assert code == 0
    choice = {"backend": "onnxruntime", "precision": "int8", "reason": "asked for"}
    assert json.loads(out)["choice"] == {**choice, "passed_over": {}}
