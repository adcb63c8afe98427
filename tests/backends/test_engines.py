"""TensorRT's backends over the fake GPU: memory, faults, threads, engines."""

from __future__ import annotations

import errno
import gc
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from fetalclip_edge.backends import load_backend
from fetalclip_edge.backends.tensorrt import TensorRTBackend
from fetalclip_edge.backends.tensorrt_rtx import TensorRTRTXBackend
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.engines.build import Phases
from fetalclip_edge.engines.cache import EngineCache
from fetalclip_edge.errors import BackendError, BackendUnavailableError

from .conftest import DIM, GPU_BACKENDS, LINEAR_PREPROCESS, SIZE, MakeBundle
from .fake_cuda import cudaError_t
from .fake_tensorrt import MAGIC, install


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A fake of this test's own, whose memory must be given back at the end."""
    found = install(monkeypatch)
    yield found
    gc.collect()
    assert found.cuda._held() == 0
    assert not found.cuda._graphs


@pytest.fixture
def frames() -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (19, 1, SIZE, SIZE), np.uint8)


def embeddings(frames: NDArray[np.uint8], weights: NDArray[np.float32]) -> NDArray[np.float64]:
    product = (frames.reshape(len(frames), -1).astype(np.float64) + 1) @ weights.astype(np.float64)
    unit: NDArray[np.float64] = product / np.linalg.norm(product, axis=1, keepdims=True)
    return unit


# Frames


@pytest.mark.parametrize("name", GPU_BACKENDS)
@pytest.mark.parametrize("batch", [9, 16, 19])
def test_a_batch_larger_than_the_engine_takes_goes_in_pieces(
    gpu: SimpleNamespace,
    linear: ModelBundle,
    frames: NDArray[np.uint8],
    weights: NDArray[np.float32],
    name: str,
    batch: int,
) -> None:
    found = load_backend(linear, name).encode(frames[:batch])["embedding"]
    np.testing.assert_allclose(found, embeddings(frames[:batch], weights), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", GPU_BACKENDS)
def test_single_frames_are_replayed_and_nothing_is_allocated_for_them(
    gpu: SimpleNamespace, linear: ModelBundle, frames: NDArray[np.uint8], name: str
) -> None:
    backend = load_backend(linear, name)
    backend.encode(frames[:8])  # has a context of its own
    before = gpu.cuda._calls.copy()
    for index in range(10):
        backend.encode(frames[index : index + 1])
    spent = {call: n - before[call] for call, n in gpu.cuda._calls.items() if n > before[call]}
    assert spent == {"cudaGraphLaunch": 10, "cudaStreamSynchronize": 10}


def test_where_nothing_can_be_recorded_frames_are_enqueued(
    gpu: SimpleNamespace,
    linear: ModelBundle,
    frames: NDArray[np.uint8],
    weights: NDArray[np.float32],
) -> None:
    for call in ("cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"):
        gpu.cuda._faults = {call: cudaError_t.cudaErrorStreamCaptureInvalidated}
        backend = load_backend(linear, "tensorrt")
        found = backend.encode(frames[:1])["embedding"]
        np.testing.assert_allclose(found, embeddings(frames[:1], weights), rtol=1e-4, atol=1e-4)
        assert gpu.cuda._calls["cudaGraphLaunch"] == 0


def test_what_tensorrt_rtx_does_not_allow_is_not_recorded(
    gpu: SimpleNamespace,
    linear: ModelBundle,
    frames: NDArray[np.uint8],
    weights: NDArray[np.float32],
) -> None:
    gpu.tensorrt_rtx._capturable = False
    found = load_backend(linear, "tensorrt_rtx").encode(frames[:1])["embedding"]
    np.testing.assert_allclose(found, embeddings(frames[:1], weights), rtol=1e-4, atol=1e-4)
    assert gpu.cuda._calls["cudaStreamBeginCapture"] == 0


def test_each_thread_has_a_context_and_gives_its_memory_back(
    gpu: SimpleNamespace, linear: ModelBundle, frames: NDArray[np.uint8]
) -> None:
    backend = load_backend(linear, "tensorrt")
    held, contexts = gpu.cuda._held(), gpu.tensorrt._contexts
    for _ in range(3):
        thread = threading.Thread(target=lambda: backend.encode(frames[:1]))
        thread.start()
        thread.join()
    gc.collect()
    assert gpu.tensorrt._contexts == contexts + 3
    assert gpu.cuda._held() == held


# Faults


@pytest.mark.parametrize("status", ["cudaErrorInsufficientDriver", "cudaErrorNoDevice"])
@pytest.mark.parametrize("name", GPU_BACKENDS)
def test_a_machine_without_a_gpu_is_told_so(
    gpu: SimpleNamespace, linear: ModelBundle, name: str, status: str
) -> None:
    gpu.cuda._faults = {"cudaGetDeviceCount": cudaError_t[status]}
    with pytest.raises(BackendUnavailableError, match=rf"no NVIDIA GPU .*\({status}\)"):
        load_backend(linear, name)


def test_missing_bindings_of_cuda_are_told_with_what_to_install(
    gpu: SimpleNamespace, linear: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendUnavailableError, match=r'pip install "cuda-bindings>=12'):
        load_backend(linear, "tensorrt")


@pytest.mark.parametrize(
    "call", ["cudaMalloc", "cudaHostAlloc", "cudaStreamSynchronize", "cudaMemcpyAsync"]
)
def test_a_gpu_that_fails_while_loading_leaves_no_memory_behind(
    gpu: SimpleNamespace, linear: ModelBundle, call: str
) -> None:
    gpu.cuda._faults = {call: cudaError_t.cudaErrorMemoryAllocation}
    with pytest.raises(BackendError, match="the GPU failed: cudaErrorMemoryAllocation"):
        load_backend(linear, "tensorrt")


def test_a_gpu_that_fails_on_a_frame_is_an_error(
    gpu: SimpleNamespace, linear: ModelBundle, frames: NDArray[np.uint8]
) -> None:
    backend = load_backend(linear, "tensorrt")
    gpu.cuda._faults = {"cudaStreamSynchronize": cudaError_t.cudaErrorMemoryAllocation}
    with pytest.raises(BackendError, match="the GPU failed"):
        backend.encode(frames[:1])
    gpu.cuda._faults = {}
    assert backend.encode(frames[:1])["embedding"].shape == (1, DIM)


# Engines


@pytest.mark.parametrize("name", GPU_BACKENDS)
def test_the_engine_is_compiled_once_and_said_to_be(
    gpu: SimpleNamespace, linear: ModelBundle, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        load_backend(linear, name)
    assert getattr(gpu, name)._built == 1
    assert caplog.text.count("for Fake GPU: seconds to minutes, once") == 1


def test_another_version_of_the_runtime_compiles_anew(
    gpu: SimpleNamespace, linear: ModelBundle
) -> None:
    load_backend(linear, "tensorrt")
    gpu.tensorrt.__version__ = "10.13.3"
    assert load_backend(linear, "tensorrt").version == "10.13.3"
    assert gpu.tensorrt._built == 2


def test_an_engine_that_the_runtime_does_not_take_is_compiled_anew(
    gpu: SimpleNamespace, linear: ModelBundle, frames: NDArray[np.uint8]
) -> None:
    # Given one in the cache whose checksum is right
    found = TensorRTBackend.compile(linear)
    key = TensorRTBackend._compile(
        gpu.tensorrt, *TensorRTBackend._open()[1:], linear, "fp32", None, EngineCache()
    )[1]
    EngineCache().discard(key)
    EngineCache().get(key, lambda: b"of a compiler with a fault")
    assert found.data.startswith(MAGIC)
    # Then it is replaced
    assert load_backend(linear, "tensorrt").encode(frames)["embedding"].shape == (19, DIM)
    assert TensorRTBackend.compile(linear).data == found.data


def test_an_engine_that_never_loads_is_an_error(gpu: SimpleNamespace, linear: ModelBundle) -> None:
    gpu.tensorrt._loads = False
    for _ in range(2):
        with pytest.raises(BackendError, match="does not load the engine .*assertion failed"):
            load_backend(linear, "tensorrt")


@pytest.mark.parametrize("name", GPU_BACKENDS)
def test_a_compiler_that_gives_nothing_is_an_error_with_its_words(
    gpu: SimpleNamespace, linear: ModelBundle, name: str
) -> None:
    getattr(gpu, name)._refuses = "Could not find any implementation\nfor node conv_7"
    with pytest.raises(BackendError, match=r"linear\.onnx: .*any implementation for node conv_7"):
        load_backend(linear, name)


# Kernels that TensorRT-RTX makes as it loads


def test_kernels_are_made_once_and_taken_from_the_cache_by_the_next_start(
    gpu: SimpleNamespace, linear: ModelBundle, frames: NDArray[np.uint8]
) -> None:
    # Given a start that saw single frames, and batches
    backend = load_backend(linear, "tensorrt_rtx")
    assert gpu.tensorrt_rtx._kernels == 1
    expected = backend.encode(frames[:8])["embedding"]
    assert gpu.tensorrt_rtx._kernels == 2
    # When it starts again
    backend = load_backend(linear, "tensorrt_rtx")
    again = backend.encode(frames[:8])["embedding"]
    # Then nothing is made, and the answers are the same
    assert gpu.tensorrt_rtx._kernels == 2
    np.testing.assert_array_equal(again, expected)


def test_kernels_lie_beside_the_engine_for_the_user_alone(
    gpu: SimpleNamespace, linear: ModelBundle, own_cache: Path
) -> None:
    load_backend(linear, "tensorrt_rtx")
    names = {path.suffix: path for path in (own_cache / "engines").iterdir()}
    assert names[".kernels"].stem == names[".engine"].stem
    assert names[".kernels"].stat().st_mode & 0o777 == 0o600
    load_backend(linear, "tensorrt")
    assert len(list((own_cache / "engines").glob("*.kernels"))) == 1


@pytest.mark.parametrize("spoilt", ["cut", "foreign", "refused"])
def test_kernels_that_cannot_be_trusted_are_made_anew(
    gpu: SimpleNamespace,
    linear: ModelBundle,
    frames: NDArray[np.uint8],
    weights: NDArray[np.float32],
    own_cache: Path,
    spoilt: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    load_backend(linear, "tensorrt_rtx")
    (path,) = (own_cache / "engines").glob("*.kernels")
    whole = path.read_bytes()
    if spoilt == "refused":  # the checksum is right, and still the runtime does not take them
        backend = load_backend(linear, "tensorrt_rtx")
        EngineCache().keep_kernels(backend._key, b"of another make")
    else:
        path.write_bytes(whole[:-1] if spoilt == "cut" else b"not of this program")
    found = load_backend(linear, "tensorrt_rtx").encode(frames[:1])["embedding"]
    np.testing.assert_allclose(found, embeddings(frames[:1], weights), rtol=1e-4, atol=1e-4)
    assert gpu.tensorrt_rtx._kernels == 2
    assert path.read_bytes() == whole
    told = "does not take the kernels" if spoilt == "refused" else "is not used"
    assert told in caplog.text


def test_where_kernels_cannot_be_kept_frames_are_answered(
    gpu: SimpleNamespace,
    linear: ModelBundle,
    frames: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    TensorRTRTXBackend.compile(linear)  # the engine is there

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fetalclip_edge.cache.write_whole", full)
    backend = load_backend(linear, "tensorrt_rtx")
    assert backend.encode(frames[:1])["embedding"].shape == (1, DIM)
    assert "kernels are not kept" in caplog.text
    assert "No space left" in caplog.text


def changed(graph: onnx.ModelProto, **edits: object) -> bytes:
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    if "batch" in edits:
        copy.graph.input[0].type.tensor_type.shape.dim[0].dim_value = int(str(edits["batch"]))
    if "second" in edits:
        copy.graph.input.append(onnx.helper.make_tensor_value_info("second", 1, ["N", 1]))
    if "half" in edits:
        copy.graph.node.append(onnx.helper.make_node("Cast", ["grey"], ["half"], to=10))
        copy.graph.output.append(onnx.helper.make_tensor_value_info("half", 10, ["N", 1, 64, 64]))
    return copy.SerializeToString()


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ({"batch": 1}, "only the first dimension may, and must, be free"),
        ({"second": True}, "has 2 inputs; engines are made for one"),
        ({"half": True}, r"output half is float16 .* export the graph with float32 outputs"),
    ],
)
def test_a_graph_of_another_kind_is_refused(
    gpu: SimpleNamespace,
    make_bundle: MakeBundle,
    linear_graph: onnx.ModelProto,
    edits: dict[str, object],
    said: str,
) -> None:
    bundle = make_bundle(
        {"tensorrt": {"fp32": "linear.onnx"}},
        {"linear.onnx": changed(linear_graph, **edits)},
        embedding_dim=DIM,
        preprocess=LINEAR_PREPROCESS,
    )
    with pytest.raises(BackendError, match=said):
        load_backend(bundle, "tensorrt")


def test_a_graph_for_frames_of_another_size_is_refused(
    gpu: SimpleNamespace, make_bundle: MakeBundle, linear_graph: onnx.ModelProto
) -> None:
    bundle = make_bundle(
        {"tensorrt": {"fp32": "linear.onnx"}},
        {"linear.onnx": linear_graph.SerializeToString()},
        embedding_dim=DIM,
    )
    with pytest.raises(BackendError, match=r"takes uint8 \(1, 64, 64\), .* gives uint8 \(1, 224,"):
        load_backend(bundle, "tensorrt")


@pytest.mark.parametrize("part", ["Runtime", "Builder"])
def test_what_the_bindings_raise_is_named_and_auto_goes_on(
    gpu: SimpleNamespace,
    make_bundle: MakeBundle,
    linear_graph: onnx.ModelProto,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
) -> None:
    # Given a runtime that gives a null pointer, as pybind11 tells it
    def null(*_: object) -> None:
        raise TypeError(f"{part}: factory function returned nullptr")

    monkeypatch.setattr(gpu.tensorrt, part, null)
    files = {"linear.onnx": linear_graph.SerializeToString()}
    graphs = {name: {"fp32": "linear.onnx"} for name in ("tensorrt", "onnxruntime")}
    bundle = make_bundle(graphs, files, embedding_dim=DIM, preprocess=LINEAR_PREPROCESS)
    # Then asked for it says so, and "auto" takes the next
    with pytest.raises(BackendError, match=r"cannot run .*linear\.onnx: TypeError: .* nullptr"):
        load_backend(bundle, "tensorrt")
    assert load_backend(bundle).name == "onnxruntime"


# Progress


def test_compiling_tells_how_far_it_is(gpu: SimpleNamespace, linear: ModelBundle) -> None:
    told: list[tuple[str, float]] = []
    TensorRTBackend.compile(linear, progress=lambda what, share: told.append((what, share)))
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[0] == 0
    # In the second of four steps, after the first of its two.
    assert ("Timing", 0.375) in told
    assert told[-1] == ("compiled", 1.0)


def test_a_phase_that_is_repeated_does_not_take_the_bar_back() -> None:
    shares: list[float] = []
    phases = Phases(lambda _what, share: shares.append(share))
    phases.start("all", None, 2)
    phases.step("all", 0)
    phases.start("inner", "unknown parent", 4)
    phases.step("inner", 0)
    phases.finish("inner")
    phases.step("inner", 1)
    phases.step("all", 1)
    assert shares == [0, 0.5, 0.5, 0.5, 1.0]
