"""What every backend promises, whatever runtime it hands the graph to."""

from __future__ import annotations

import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from threading import Barrier

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

import fetalclip_edge as fe
from fetalclip_edge.backends import BACKENDS, Backend, load_backend
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BackendError, BackendUnavailableError, BundleError

from .conftest import (
    ALL_BACKENDS,
    CPU_BACKENDS,
    DIM,
    GPU_BACKENDS,
    LINEAR_PREPROCESS,
    SIZE,
    MakeBundle,
)


@pytest.fixture(scope="module", params=ALL_BACKENDS)
def name(request: pytest.FixtureRequest) -> str:
    if request.param in GPU_BACKENDS:
        request.getfixturevalue("fake_gpu")
    return request.param


@pytest.fixture(scope="module")
def backend(linear: ModelBundle, name: str) -> Backend:
    """The linear model."""
    return load_backend(linear, name)


@pytest.fixture(scope="module")
def frames() -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (8, 1, SIZE, SIZE), np.uint8)


@pytest.fixture(scope="module")
def expected(
    frames: NDArray[np.uint8], weights: NDArray[np.float32]
) -> dict[str, NDArray[np.float64]]:
    """What the linear model gives, in float64 by numpy."""
    flat = frames.reshape(len(frames), -1).astype(np.float64)
    product = (flat + 1) @ weights.astype(np.float64)
    return {
        "embedding": product / np.linalg.norm(product, axis=1, keepdims=True),
        "brightness": flat.mean(axis=1, keepdims=True),
    }


def assert_as(
    found: dict[str, NDArray[np.float32]], expected: dict[str, NDArray[np.float64]], rows: slice
) -> None:
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key].dtype == np.float32
        np.testing.assert_allclose(found[key], value[rows], rtol=1e-4, atol=1e-4)


# What comes out


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_it_gives_what_the_graph_says(
    backend: Backend,
    frames: NDArray[np.uint8],
    expected: dict[str, NDArray[np.float64]],
    batch: int,
) -> None:
    for start in range(0, len(frames) - batch + 1, batch):
        rows = slice(start, start + batch)
        assert_as(backend.encode(frames[rows]), expected, rows)


def test_an_answer_stays_when_others_follow(
    backend: Backend, frames: NDArray[np.uint8], expected: dict[str, NDArray[np.float64]]
) -> None:
    answers = [backend.encode(frames[i : i + 1]) for i in range(8)]
    for i, answer in enumerate(answers):
        assert_as(answer, expected, slice(i, i + 1))


def test_frames_may_lie_in_memory_in_any_way(
    backend: Backend, frames: NDArray[np.uint8], expected: dict[str, NDArray[np.float64]]
) -> None:
    reverse = np.ascontiguousarray(frames[:, :, ::-1, ::-1])[:, :, ::-1, ::-1]
    assert not reverse.flags.c_contiguous
    assert_as(backend.encode(reverse), expected, slice(0, 8))
    read_only = frames.copy()
    read_only.flags.writeable = False
    assert_as(backend.encode(read_only), expected, slice(0, 8))


def test_the_shipped_graph_gives_unit_embeddings_whatever_the_batch(
    shipped: ModelBundle, name: str
) -> None:
    backend = load_backend(shipped, name)
    spec = shipped.preprocess
    noise = np.random.default_rng(6).integers(0, 256, (3, *spec.shape[1:]), np.uint8)
    together = backend.encode(noise)
    for key, value in together.items():
        alone = np.concatenate([backend.encode(noise[i : i + 1])[key] for i in range(3)])
        lengths = np.linalg.norm(value, axis=1) * np.linalg.norm(alone, axis=1)
        assert (np.sum(value * alone, axis=1) / lengths).min() > 0.999, key
    np.testing.assert_allclose(np.linalg.norm(together["embedding"], axis=1), 1, atol=1e-4)


@pytest.mark.data
def test_backends_agree_on_real_frames(shipped: ModelBundle, data_root: Path) -> None:
    paths = sorted((data_root / "native").glob("*.[pj][np]g"))[:16]
    images = [np.asarray(Image.open(path)) for path in paths]
    assert len(images) == 16
    embeddings, scores = {}, {}
    for name in CPU_BACKENDS:
        model = fe.Model(shipped, load_backend(shipped, name))
        embeddings[name] = model.embed(images)
        scores[name] = [model.analyze(image).plane.scores for image in images]
    cosines = np.sum(embeddings["openvino"] * embeddings["onnxruntime"], axis=1)
    assert cosines.min() > 0.98
    assert cosines.mean() > 0.998
    same = sum(
        max(one, key=one.__getitem__) == max(other, key=other.__getitem__)
        for one, other in zip(scores["openvino"], scores["onnxruntime"], strict=True)
    )
    assert same >= 15  # of 16; one may lie between two planes


# Arrays to write into


@pytest.mark.parametrize("batches", [[3, 3], [1, 8, 1], [8, 2]])
def test_answers_are_written_into_the_arrays_given(
    backend: Backend,
    frames: NDArray[np.uint8],
    expected: dict[str, NDArray[np.float64]],
    batches: list[int],
) -> None:
    for batch in batches:
        rows = slice(8 - batch, 8)
        out = {
            "embedding": np.full((batch, DIM), np.nan, np.float32),
            "brightness": np.full((batch, 1), np.nan, np.float32),
        }
        for _ in range(2):
            found = backend.encode(frames[rows], out)
            assert all(found[key] is out[key] for key in out)
            assert_as(out, expected, rows)
            for array in out.values():
                array[:] = np.nan


def test_only_the_outputs_asked_for_are_given(
    backend: Backend, frames: NDArray[np.uint8], expected: dict[str, NDArray[np.float64]]
) -> None:
    brightness = np.full((8, 1), np.nan, np.float32)
    assert list(backend.encode(frames, {"brightness": brightness})) == ["brightness"]
    np.testing.assert_allclose(brightness, expected["brightness"], rtol=1e-4)


def test_an_array_is_not_written_to_once_another_is_given(
    backend: Backend, frames: NDArray[np.uint8]
) -> None:
    first = {"embedding": np.zeros((8, DIM), np.float32)}
    backend.encode(frames, first)
    kept = first["embedding"].copy()
    other = np.ascontiguousarray(frames[::-1])
    backend.encode(other)
    backend.encode(other, {"brightness": np.zeros((8, 1), np.float32)})
    backend.encode(other, {"embedding": np.zeros((8, DIM), np.float32)})
    np.testing.assert_array_equal(first["embedding"], kept)


def test_a_part_of_a_larger_array_can_be_written_to(
    backend: Backend, frames: NDArray[np.uint8], expected: dict[str, NDArray[np.float64]]
) -> None:
    whole = np.full((10, DIM), 7, np.float32)
    for i in range(8):
        backend.encode(frames[i : i + 1], {"embedding": whole[i + 1 : i + 2]})
    np.testing.assert_allclose(whole[1:9], expected["embedding"], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(whole[[0, 9]], 7)


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ({"embedding": np.zeros((8, DIM + 1), np.float32)}, r"float32 \(8, 5\), not .* \(8, 6\)"),
        ({"embedding": np.zeros((7, DIM), np.float32)}, r"not float32 \(7, 5\)"),
        ({"embedding": np.zeros(8 * DIM, np.float32)}, r"not float32 \(40,\)"),
        ({"embedding": np.zeros((8, DIM), np.float64)}, "not float64"),
        ({"embedding": [[0.0] * DIM] * 8}, "must be float32"),
        ({"embedding": np.zeros((8, 2 * DIM), np.float32)[:, ::2]}, "C-contiguous"),
        ({"embedding": np.zeros((DIM, 8), np.float32).T}, "C-contiguous"),
        ({"surprise": np.zeros((8, DIM), np.float32)}, "no output 'surprise'; it has: embedding"),
    ],
)
def test_an_array_that_does_not_fit_is_refused(
    backend: Backend, frames: NDArray[np.uint8], out: dict[str, NDArray[np.float32]], said: str
) -> None:
    with pytest.raises(BackendError, match=said):
        backend.encode(frames, out)


def test_a_read_only_array_is_refused(backend: Backend, frames: NDArray[np.uint8]) -> None:
    array = np.zeros((8, DIM), np.float32)
    array.flags.writeable = False
    with pytest.raises(BackendError, match="writeable"):
        backend.encode(frames, {"embedding": array})


# What goes in


@pytest.mark.parametrize(
    "inputs",
    [
        np.zeros((1, 1, 10, 10), np.uint8),
        np.zeros((1, 7, SIZE, SIZE), np.uint8),
        np.zeros((SIZE, SIZE), np.uint8),
        np.zeros((1, SIZE, SIZE), np.uint8),
        np.zeros((0, 1, SIZE, SIZE), np.uint8),
        np.zeros((1, 1, SIZE, SIZE), np.float32),
        np.zeros((1, 1, SIZE, SIZE), np.int8),
        [[[[0] * SIZE] * SIZE]],
        None,
    ],
    ids=lambda value: f"{value.dtype} {value.shape}" if hasattr(value, "dtype") else "no array",
)
def test_other_inputs_are_refused_with_what_it_takes(
    backend: Backend, frames: NDArray[np.uint8], inputs: NDArray[np.uint8]
) -> None:
    with pytest.raises(BackendError, match=r"takes uint8 \(N, 1, 64, 64\), N at least 1, not "):
        backend.encode(inputs)
    # And it goes on with the next.
    assert backend.encode(frames)["embedding"].shape == (8, DIM)


# Threads and memory


@pytest.mark.parametrize("given", [False, True], ids=["new arrays", "arrays given"])
def test_threads_at_once_get_what_one_after_the_other_gets(
    backend: Backend,
    frames: NDArray[np.uint8],
    expected: dict[str, NDArray[np.float64]],
    given: bool,
) -> None:
    together = Barrier(4)

    def work(index: int) -> None:
        together.wait(timeout=20)
        for turn in range(50):
            first, batch = (index + turn) % 8, 1 + turn % 2
            rows = slice(min(first, 8 - batch), min(first, 8 - batch) + batch)
            arrays = {
                "embedding": np.empty((batch, DIM), np.float32),
                "brightness": np.empty((batch, 1), np.float32),
            }
            assert_as(backend.encode(frames[rows], arrays if given else None), expected, rows)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, index) for index in range(4)]:
            done.result()


@pytest.mark.parametrize("threads", [1, 2, 256])
def test_any_number_of_threads_gives_the_same(
    linear: ModelBundle,
    name: str,
    frames: NDArray[np.uint8],
    expected: dict[str, NDArray[np.float64]],
    threads: int,
) -> None:
    assert_as(load_backend(linear, name, threads).encode(frames), expected, slice(0, 8))


def test_memory_does_not_grow_frame_by_frame(backend: Backend, frames: NDArray[np.uint8]) -> None:
    out = {"embedding": np.empty((8, DIM), np.float32), "brightness": np.empty((8, 1), np.float32)}

    def run(turns: int) -> None:
        for _ in range(turns):
            backend.encode(frames, out)
            backend.encode(frames[:1])

    run(200)
    tracemalloc.start()
    try:
        run(10)
        traced, resident = tracemalloc.get_traced_memory()[0], _resident()
        run(1000)
        grown = tracemalloc.get_traced_memory()[0] - traced
    finally:
        tracemalloc.stop()
    # Were a batch of frames kept each time, it would be 36 MB.
    assert grown < 20_000
    assert _resident() - resident < 4_000_000


def _resident() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmRSS:"))
    return 1024 * int(line.split()[1])


# What it says of itself, and what it refuses to load


def test_it_says_what_it_is(backend: Backend, name: str) -> None:
    assert (backend.name, backend.precision) == (name, "fp32")
    on_gpu = name in GPU_BACKENDS
    assert backend.device == ("Fake GPU" if on_gpu else "cpu")
    assert backend.version == (sys.modules[name].__version__ if on_gpu else version(name))


def test_the_precision_asked_for_is_taken(
    make_bundle: MakeBundle, linear_graph: onnx.ModelProto, name: str
) -> None:
    # Given a graph of another precision that gives the opposite
    opposite = onnx.ModelProto()
    opposite.CopyFrom(linear_graph)
    (weights,) = (tensor for tensor in opposite.graph.initializer if tensor.name == "weights")
    weights.raw_data = (-onnx.numpy_helper.to_array(weights)).tobytes()
    bundle = make_bundle(
        {name: {"fp32": "linear.onnx", "int8": "opposite.onnx"}},
        {
            "linear.onnx": linear_graph.SerializeToString(),
            "opposite.onnx": opposite.SerializeToString(),
        },
        embedding_dim=DIM,
        preprocess=LINEAR_PREPROCESS,
    )
    frame = np.full((1, 1, SIZE, SIZE), 9, np.uint8)
    default, asked = load_backend(bundle, name), load_backend(bundle, name, precision="int8")
    assert (default.precision, asked.precision) == ("fp32", "int8")
    np.testing.assert_allclose(
        asked.encode(frame)["embedding"], -default.encode(frame)["embedding"], atol=1e-5
    )
    with pytest.raises(BundleError, match=f"no fp4 graph for '{name}'; it has: fp32, int8"):
        load_backend(bundle, name, precision="fp4")


def test_a_missing_runtime_is_said_with_what_to_install(
    linear: ModelBundle, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    install = {
        "openvino": r'pip install "fetalclip-edge\[openvino\]"',
        "onnxruntime": "pip install onnxruntime",
        "tensorrt": "sudo apt install nvidia-jetpack",
        "tensorrt_rtx": r'pip install "fetalclip-edge\[tensorrt-rtx\]"',
    }
    with pytest.raises(BackendUnavailableError, match=install[name]) as caught:
        load_backend(linear, name)
    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize("junk", [b"not a graph", b"", b"\x08\x09" * 40])
def test_a_graph_that_it_cannot_read_is_named(
    make_bundle: MakeBundle, name: str, junk: bytes
) -> None:
    bundle = make_bundle({name: {"int8": "encoder.cpu.onnx"}}, {"encoder.cpu.onnx": junk})
    with pytest.raises(BackendError, match=r"encoder\.cpu\.onnx") as caught:
        load_backend(bundle, name)
    assert "\n" not in str(caught.value)


def test_an_operation_that_it_does_not_know_is_named_with_the_file(
    make_bundle: MakeBundle, linear_graph: onnx.ModelProto, name: str
) -> None:
    strange = onnx.ModelProto()
    strange.CopyFrom(linear_graph)
    strange.graph.node[3].op_type, strange.graph.node[3].domain = "Abacus", "org.example"
    strange.opset_import.append(onnx.helper.make_opsetid("org.example", 1))
    bundle = make_bundle(
        {name: {"fp32": "strange.onnx"}}, {"strange.onnx": strange.SerializeToString()}
    )
    with pytest.raises(BackendError, match=r"strange\.onnx: .*Abacus"):
        load_backend(bundle, name)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"embedding_dim": 17}, r"shape \(1, 5\), and the manifest says embedding_dim 17"),
        ({"rename": "vector"}, r"no output named embedding, only \['vector', 'brightness'\]"),
        ({"rename_both": True}, "not L2-normalised"),
    ],
)
def test_a_graph_that_does_not_fit_the_manifest_is_refused(
    make_bundle: MakeBundle,
    linear_graph: onnx.ModelProto,
    name: str,
    entries: dict[str, object],
    said: str,
) -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(linear_graph)
    if "rename" in entries:
        graph.graph.output[0].name = graph.graph.node[4].output[0] = "vector"
    if "rename_both" in entries:
        graph.graph.node[4].op_type = "Identity"
        graph.graph.node[4].ClearField("attribute")
    bundle = make_bundle(
        {name: {"fp32": "linear.onnx"}},
        {"linear.onnx": graph.SerializeToString()},
        embedding_dim=entries.get("embedding_dim", DIM),
        preprocess=LINEAR_PREPROCESS,
    )
    with pytest.raises(BackendError, match=said):
        load_backend(bundle, name)


def test_weights_in_a_file_that_nobody_checked_are_refused(
    make_bundle: MakeBundle,
    linear_graph: onnx.ModelProto,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a graph with its weights in a file that lies in the folder where we are
    graph = onnx.ModelProto()
    graph.CopyFrom(linear_graph)
    onnx.save(
        graph,
        tmp_path / "graph.onnx",
        save_as_external_data=True,
        location="weights.bin",
    )
    assert (tmp_path / "weights.bin").stat().st_size > 0
    monkeypatch.chdir(tmp_path)
    bundle = make_bundle(
        {name: {"fp32": "linear.onnx"}},
        {"linear.onnx": (tmp_path / "graph.onnx").read_bytes()},
        embedding_dim=DIM,
        preprocess=LINEAR_PREPROCESS,
    )
    # Then it does not load
    with pytest.raises(BundleError, match=r"linear\.onnx keeps weights in another file"):
        load_backend(bundle, name)


def test_every_backend_is_tested() -> None:
    assert set(ALL_BACKENDS) == set(BACKENDS)
