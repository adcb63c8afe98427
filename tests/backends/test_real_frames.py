"""Every backend on real frames, as near to PyTorch as the accuracy gate wants its precision."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from export.graph import export_core, with_grey_levels
from fetalclip_edge.backends import Backend, load_backend
from fetalclip_edge.bundle import DEFAULT_BUNDLE, ModelBundle
from training.datasets import square
from training.release import Release, load_release

from .conftest import ALL_BACKENDS, CPU_BACKENDS, GPU_BACKENDS, MakeBundle

pytestmark = pytest.mark.data

COUNT = 50
MEAN_COSINE = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.99}
LEAST_COSINE = {"fp32": 0.999, "fp16": 0.99, "int8": 0.9}
SAME_PLANE = 49
"""Of 50: the gate wants 98 % of the answers to be those of FP32."""

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


@pytest.fixture(scope="module")
def release(repository: Path) -> Release:
    return load_release(repository / "training" / "released" / "student")


@pytest.fixture(scope="module")
def frames(data_root: Path, release: Release) -> Bytes:
    """Test images from all over the data set, as Pillow makes the network's input of them."""
    with (data_root / "planes" / "labels.csv").open(newline="") as file:
        names = [row["file"] for row in csv.DictReader(file) if row["split"] == "test"]
    chosen = [names[i * len(names) // COUNT] for i in range(COUNT)]
    size = release.config.image_size
    images = [square(Image.open(data_root / "planes" / name), size) for name in chosen]
    return np.stack(images)[:, None]


@pytest.fixture(scope="module")
def expected(release: Release, frames: Bytes) -> Floats:
    """What PyTorch makes of them."""
    with torch.inference_mode():
        parts = [release.tower(part.float()) for part in torch.from_numpy(frames).split(10)]
    embeddings: Floats = torch.cat(parts).numpy()
    return embeddings


@pytest.fixture(scope="module")
def both(
    make_bundle: MakeBundle, release: Release, tmp_path_factory: pytest.TempPathFactory
) -> ModelBundle:
    """The shipped INT8 graph and the same model in FP32, for every backend."""
    core = tmp_path_factory.mktemp("real") / "core.onnx"
    export_core(release.tower, core)
    plain = with_grey_levels(onnx.load(core), release.config.mean, release.config.std)
    graphs = {name: {"fp32": "encoder.onnx", "int8": "encoder.cpu.onnx"} for name in ALL_BACKENDS}
    return make_bundle(graphs, {"encoder.onnx": plain.SerializeToString()})


def assert_near(found: Floats, expected: Floats, release: Release, precision: str) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=2e-3)
    cosines = np.sum(found.astype(np.float64) * expected, axis=1)
    assert cosines.mean() >= MEAN_COSINE[precision]
    assert cosines.min() >= LEAST_COSINE[precision]
    prompts = release.embeddings["planes"]
    same = (found @ prompts.T).argmax(axis=1) == (expected @ prompts.T).argmax(axis=1)
    assert same.sum() >= SAME_PLANE


CASES = [(name, precision) for name in CPU_BACKENDS for precision in ("fp32", "int8")]
CASES += [(name, "int8") for name in GPU_BACKENDS]


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_every_backend_answers_as_pytorch_does(
    both: ModelBundle,
    release: Release,
    frames: Bytes,
    expected: Floats,
    name: str,
    precision: str,
    request: pytest.FixtureRequest,
) -> None:
    if name in GPU_BACKENDS:  # the fake, so it is our side of the engine that is tested
        request.getfixturevalue("fake_gpu")
    backend = load_backend(both, name, precision=precision)
    # When frames come one by one, as in a stream, and as a batch larger than an engine takes
    single = np.concatenate([backend.encode(frames[i : i + 1])["embedding"] for i in range(COUNT)])
    assert_near(single, expected, release, precision)
    together = backend.encode(frames[:11])["embedding"]
    # Then it makes no difference which; integers may be rounded to the other side.
    cosines = np.sum(together.astype(np.float64) * single[:11], axis=1)
    assert cosines.min() >= (0.99999 if precision == "fp32" else 0.999)


@pytest.fixture(scope="module")
def in_int8(both: ModelBundle) -> dict[str, Backend]:
    return {name: load_backend(both, name, precision="int8") for name in CPU_BACKENDS}


def test_backends_agree_on_every_output_of_the_shipped_graph(
    in_int8: dict[str, Backend], frames: Bytes
) -> None:
    outputs = {name: backend.encode(frames) for name, backend in in_int8.items()}
    one, other = (outputs[name] for name in CPU_BACKENDS)
    assert {"embedding", "domain_features"} <= set(one) == set(other)
    for key in one:
        flat, second = (o[key].reshape(COUNT, -1).astype(np.float64) for o in (one, other))
        lengths = np.linalg.norm(flat, axis=1) * np.linalg.norm(second, axis=1)
        assert (np.sum(flat * second, axis=1) / lengths).min() > 0.98, key


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_shipped_graphs_for_gpus_answer_as_pytorch_does_where_they_run_as_written(
    release: Release, frames: Bytes, expected: Floats, precision: str
) -> None:
    # Given no GPU, and no integer kernels, whose sums overflow on some processors
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    graph = ModelBundle.load(DEFAULT_BUNDLE).graph("tensorrt", precision)
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    # Then they are the model all the same
    parts = [session.run(["embedding"], {"image": part})[0] for part in np.split(frames, 10)]
    assert_near(np.concatenate(parts), expected, release, precision)
