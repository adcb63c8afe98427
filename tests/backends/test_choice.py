"""Which backend "auto" takes, and why it passes the others over."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from fetalclip_edge import backends
from fetalclip_edge.backends import BACKENDS, Backend, load_backend, load_with_choice
from fetalclip_edge.backends.tuned import Measured, installed_version, remember
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BackendError, BackendUnavailableError, BundleError

from .conftest import CPU_BACKENDS, DIM, LINEAR_PREPROCESS, MakeBundle


@pytest.fixture(autouse=True)
def _cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were no backends but those that run here."""
    monkeypatch.setattr(backends, "BACKENDS", {name: BACKENDS[name] for name in CPU_BACKENDS})


@pytest.fixture(scope="module")
def both(make_bundle: MakeBundle, linear_graph: onnx.ModelProto) -> ModelBundle:
    """The linear model under two precisions for each backend."""
    graphs = {"fp32": "linear.onnx", "int8": "linear.onnx"}
    return make_bundle(
        {"onnxruntime": graphs, "openvino": graphs},
        {"linear.onnx": linear_graph.SerializeToString()},
        embedding_dim=DIM,
        preprocess=LINEAR_PREPROCESS,
    )


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="fetalclip_edge")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def tuned(bundle: ModelBundle, ranking: list[Measured], threads: int = 1) -> Path:
    return remember(bundle, threads, BACKENDS, ranking, {"openvino fp4": "too rough"})


RANKING = [
    Measured("onnxruntime", "int8", 2.0),
    Measured("openvino", "int8", 3.0),
    Measured("openvino", "fp32", 9.0),
]


# By name


def test_an_unknown_name_is_refused_with_the_known_ones(linear: ModelBundle) -> None:
    with pytest.raises(ValueError, match="choose one of auto, .*openvino, onnxruntime"):
        load_backend(linear, "cuda")


@pytest.mark.parametrize("threads", [0, -1, 257])
def test_threads_out_of_range_are_refused(linear: ModelBundle, threads: int) -> None:
    with pytest.raises(ValueError, match="threads"):
        load_backend(linear, threads=threads)


def test_a_name_is_taken_as_it_is(both: ModelBundle) -> None:
    tuned(both, RANKING)
    backend, choice = load_with_choice(both, "openvino")
    assert (backend.name, backend.precision) == ("openvino", "fp32")
    assert (choice.reason, choice.passed_over) == ("asked for", {})


def test_a_bundle_without_a_graph_for_a_backend_is_refused(make_bundle: MakeBundle) -> None:
    bundle = make_bundle({"abacus": {"int8": "encoder.cpu.onnx"}})
    with pytest.raises(BackendError, match=r"abacus \(int8\), and no backend can run one"):
        load_backend(bundle)
    with pytest.raises(BundleError, match="no graph for 'onnxruntime'; it has: abacus"):
        load_backend(bundle, "onnxruntime")


def test_a_graph_changed_after_the_check_is_refused(make_bundle: MakeBundle) -> None:
    bundle = make_bundle({"onnxruntime": {"int8": "encoder.cpu.onnx"}})
    with (bundle.folder / "encoder.cpu.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match=r"encoder\.cpu\.onnx was changed"):
        load_backend(bundle)


# Without a tuning result


def test_gpus_come_first_and_onnxruntime_before_openvino() -> None:
    order = ["tensorrt", "tensorrt_rtx", "onnxruntime", "openvino"]
    assert list(BACKENDS) == [name for name in order if name in BACKENDS]
    assert {"openvino", "onnxruntime"} <= set(BACKENDS)


def test_the_first_that_is_installed_and_has_a_graph_is_taken(
    both: ModelBundle, caplog: pytest.LogCaptureFixture
) -> None:
    backend, choice = load_with_choice(both)
    assert (backend.name, backend.precision) == ("openvino", "fp32")
    assert (choice.backend, choice.precision) == ("openvino", "fp32")
    assert "not tuned with 1 thread; see fetalclip-edge tune" in choice.reason
    assert warnings(caplog) == []


def test_one_that_is_not_installed_is_passed_over_and_that_is_said(
    both: ModelBundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    backend, choice = load_with_choice(both)
    assert backend.name == "onnxruntime"
    assert choice.passed_over["openvino"] == "not installed"
    assert "auto: openvino was passed over: not installed" in caplog.messages


def test_one_that_the_bundle_has_no_graph_for_is_passed_over(
    make_bundle: MakeBundle, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = make_bundle({"onnxruntime": {"int8": "encoder.cpu.onnx"}})
    backend, choice = load_with_choice(bundle)
    assert backend.name == "onnxruntime"
    assert choice.passed_over["openvino"] == "the bundle has no graph for it"
    assert "auto: openvino was passed over: the bundle has no graph for it" in caplog.messages


def test_one_that_fails_is_passed_over_with_a_warning(
    make_bundle: MakeBundle, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = make_bundle(
        {"openvino": {"int8": "junk.onnx"}, "onnxruntime": {"int8": "encoder.cpu.onnx"}},
        {"junk.onnx": b"not a graph"},
    )
    backend, choice = load_with_choice(bundle)
    assert backend.name == "onnxruntime"
    assert "junk.onnx" in choice.passed_over["openvino int8"]
    (warning,) = warnings(caplog)
    assert warning.startswith("auto: openvino int8 was passed over: OpenVINO")


def test_when_all_fail_each_is_told(make_bundle: MakeBundle) -> None:
    bundle = make_bundle(
        {"openvino": {"int8": "junk.onnx"}, "onnxruntime": {"int8": "junk.onnx"}},
        {"junk.onnx": b"not a graph"},
    )
    with pytest.raises(BackendError, match=r"openvino int8: .*onnxruntime int8: .*junk\.onnx"):
        load_backend(bundle)


def test_when_none_is_installed_that_is_told(
    linear: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailableError, match="openvino: not installed; onnxruntime: not"):
        load_backend(linear)


def test_only_graphs_of_the_precision_asked_for_count(both: ModelBundle) -> None:
    backend, _ = load_with_choice(both, precision="int8")
    assert (backend.name, backend.precision) == ("openvino", "int8")
    with pytest.raises(BackendError, match="onnxruntime: the bundle has no fp4 graph"):
        load_with_choice(both, precision="fp4")


# With one


def test_the_fastest_is_taken(both: ModelBundle, caplog: pytest.LogCaptureFixture) -> None:
    tuned(both, RANKING)
    backend, choice = load_with_choice(both)
    assert (backend.name, backend.precision) == ("onnxruntime", "int8")
    assert choice.reason == "the fastest that works of those tuned on this device with 1 thread"
    assert choice.passed_over == {
        "openvino int8": "slower when tuned: 3.00 ms a frame, not 2.00 ms",
        "openvino fp32": "slower when tuned: 9.00 ms a frame, not 2.00 ms",
        "openvino fp4": "too rough",
    }
    assert "auto: openvino fp4 was passed over: too rough" in caplog.messages
    assert warnings(caplog) == []


def test_the_fastest_of_the_precision_asked_for_is_taken(both: ModelBundle) -> None:
    tuned(both, RANKING)
    backend, _ = load_with_choice(both, precision="fp32")
    assert (backend.name, backend.precision) == ("openvino", "fp32")


def test_a_precision_that_was_dropped_is_not_taken(both: ModelBundle) -> None:
    dropped = {f"{name} fp32": "dropped when tuned: too rough" for name in both.graphs}
    remember(both, 1, BACKENDS, RANKING[:2], dropped)
    with pytest.raises(BackendError, match="openvino fp32: dropped when tuned: too rough"):
        load_with_choice(both, precision="fp32")
    assert load_backend(both, "openvino", precision="fp32").precision == "fp32"


def test_what_could_not_be_tuned_is_told_too(make_bundle: MakeBundle) -> None:
    bundle = make_bundle({"onnxruntime": {"int8": "encoder.cpu.onnx"}})
    tuned(bundle, RANKING[:1])
    _, choice = load_with_choice(bundle)
    assert choice.passed_over["openvino"] == "the bundle has no graph for it"


def test_when_the_fastest_fails_the_next_is_taken_with_a_warning(
    make_bundle: MakeBundle, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = make_bundle(
        {"openvino": {"int8": "junk.onnx"}, "onnxruntime": {"int8": "encoder.cpu.onnx"}},
        {"junk.onnx": b"not a graph"},
    )
    tuned(bundle, [Measured("openvino", "int8", 1.0), Measured("onnxruntime", "int8", 2.0)])
    backend, choice = load_with_choice(bundle)
    assert backend.name == "onnxruntime"
    assert set(choice.passed_over) == {"openvino int8", "openvino fp4"}
    assert len(warnings(caplog)) == 1


def test_a_result_for_other_threads_is_not_taken(both: ModelBundle) -> None:
    tuned(both, RANKING, threads=2)
    assert load_backend(both).name == "openvino"
    assert load_backend(both, threads=2).name == "onnxruntime"


def test_a_result_for_another_bundle_is_not_taken(
    both: ModelBundle, make_bundle: MakeBundle
) -> None:
    tuned(both, RANKING)
    graphs = {"int8": "encoder.cpu.onnx"}
    other = make_bundle({"openvino": graphs, "onnxruntime": graphs})
    assert load_backend(other).name == "openvino"


def test_a_result_for_another_device_is_not_taken(
    both: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned(both, RANKING)
    monkeypatch.setattr(backends.tuned, "device_name", lambda: "another; NVIDIA GPU")
    assert load_backend(both).name == "openvino"


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ({"openvino": "1.0"}, "openvino was 1.0 when tuned and is .* now: run fetalclip-edge tune"),
        ({"onnxruntime": None}, "onnxruntime was not installed when tuned"),
        ({"fetalclip-edge": "0.0.1"}, "fetalclip-edge was 0.0.1 when tuned"),
        # Without which both TensorRTs had been dropped
        ({"cuda-bindings": "0.1"}, "cuda-bindings was 0.1 when tuned"),
    ],
)
def test_a_result_of_other_versions_is_stale_and_that_is_said(
    both: ModelBundle,
    caplog: pytest.LogCaptureFixture,
    versions: Mapping[str, str | None],
    said: str,
) -> None:
    path = tuned(both, RANKING)
    entry = json.loads(path.read_bytes())
    entry["versions"].update(versions)
    path.write_text(json.dumps(entry))
    backend, choice = load_with_choice(both)
    assert backend.name == "openvino"
    (warning,) = warnings(caplog)
    assert re.search(said, warning)
    assert warning.removeprefix("auto: ") in choice.reason


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not JSON",
        "[]",
        "{}",
        "[" * 100_000,
        '{"layout": 1}',
        "\0",
        "EMPTY",
        "WRONG GRAPH",
        "WRONG TIME",
        "NEWER",
    ],
    ids=lambda text: text[:12] or "nothing",
)
def test_a_damaged_result_is_said_and_not_taken(
    both: ModelBundle, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    path = tuned(both, RANKING)
    entry: dict[str, Any] = json.loads(path.read_bytes())
    changes: dict[str, dict[str, Any]] = {
        "EMPTY": {"ranking": []},
        "WRONG GRAPH": {"ranking": [{**entry["ranking"][0], "precision": "fp4"}]},
        "WRONG TIME": {"ranking": [{**entry["ranking"][0], "median_ms": "fast"}]},
        "NEWER": {"layout": 2},
    }
    path.write_text(json.dumps(entry | changes[text]) if text in changes else text)
    assert load_backend(both).name == "openvino"
    (warning,) = warnings(caplog)
    assert warning.endswith("run fetalclip-edge tune")


def test_a_cache_that_cannot_be_read_stops_nobody(
    both: ModelBundle, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tuned(both, RANKING)
    path.unlink()
    path.mkdir()
    assert load_backend(both).name == "openvino"
    assert len(warnings(caplog)) == 1


# What is installed


def test_the_version_is_told_without_importing(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    assert installed_version("onnxruntime") == onnxruntime.__version__
    assert installed_version("no_such_runtime") is None
    assert installed_version("antigravity") == "unknown"  # a module that no distribution brings
    assert "antigravity" not in sys.modules
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert installed_version("onnxruntime") is None


def test_a_further_backend_needs_one_entry(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, linear_graph: onnx.ModelProto
) -> None:
    # Given a runtime whose module is there
    class Abacus(Backend):
        name = "antigravity"

        def __init__(
            self, bundle: ModelBundle, *, threads: int, precision: str | None = None
        ) -> None:
            self.version, self.device, self.precision = "1", "beads", str(precision)

        def encode(
            self, inputs: NDArray[Any], out: Mapping[str, NDArray[np.float32]] | None = None
        ) -> dict[str, NDArray[np.float32]]:
            raise BackendError("not this one")

    graphs = {"int8": "encoder.cpu.onnx"}
    bundle = make_bundle({"onnxruntime": graphs, "antigravity": graphs})
    monkeypatch.setattr(backends, "BACKENDS", {"antigravity": Abacus, **BACKENDS})
    # Then it comes first
    assert load_backend(bundle).device == "beads"
