from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from fetalclip_edge.backends import BACKENDS, load_backend
from fetalclip_edge.bundle import DEFAULT_BUNDLE, ModelBundle
from fetalclip_edge.errors import BackendError, BundleError, BundleIntegrityError

Edit = Callable[[Callable[[dict[str, Any]], object]], Path]


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return ModelBundle.load()


@pytest.fixture
def inputs(bundle: ModelBundle) -> np.ndarray:
    spec = bundle.preprocess
    shape = (3, spec.channels, spec.size, spec.size)
    return np.random.default_rng(5).integers(0, 256, shape).astype(spec.dtype)


@pytest.mark.parametrize("name", ["auto", *BACKENDS])
def test_a_backend_gives_unit_embeddings(
    bundle: ModelBundle, inputs: np.ndarray, name: str
) -> None:
    backend = load_backend(bundle, name)
    embedding = backend.encode(inputs)["embedding"]
    assert embedding.shape == (3, bundle.embedding_dim)
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-4)


def test_a_backend_gives_what_the_runtime_gives(bundle: ModelBundle, inputs: np.ndarray) -> None:
    session = ort.InferenceSession(bundle.graph("onnxruntime"), providers=["CPUExecutionProvider"])
    (expected,) = session.run(["embedding"], {session.get_inputs()[0].name: inputs})
    found = load_backend(bundle, "onnxruntime").encode(inputs)["embedding"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_batch_is_encoded_as_its_images_one_by_one(
    bundle: ModelBundle, inputs: np.ndarray
) -> None:
    backend = load_backend(bundle)
    one_by_one = [backend.encode(inputs[i : i + 1])["embedding"] for i in range(3)]
    np.testing.assert_allclose(
        backend.encode(inputs)["embedding"], np.concatenate(one_by_one), atol=1e-6
    )


@pytest.mark.parametrize("name", BACKENDS)
def test_a_batch_is_written_into_the_arrays_given(
    bundle: ModelBundle, inputs: np.ndarray, name: str
) -> None:
    backend = load_backend(bundle, name)
    expected = backend.encode(inputs)
    out = {key: np.full_like(value, np.nan) for key, value in expected.items()}
    given = dict(out)
    for _ in range(2):
        found = backend.encode(inputs, out)
        assert all(found[key] is given[key] for key in expected)
        for key, value in expected.items():
            np.testing.assert_allclose(given[key], value, atol=1e-6)
            given[key][:] = np.nan


@pytest.mark.parametrize("name", BACKENDS)
def test_an_array_that_does_not_fit_is_a_backend_error(
    bundle: ModelBundle, inputs: np.ndarray, name: str
) -> None:
    backend = load_backend(bundle, name)
    with pytest.raises(BackendError):
        backend.encode(inputs, {"embedding": np.zeros((3, 7), np.float32)})
    with pytest.raises(BackendError):
        backend.encode(inputs, {"surprise": np.zeros((3, 256), np.float32)})


def test_a_precision_that_the_bundle_lacks_is_refused(bundle: ModelBundle) -> None:
    with pytest.raises(BundleError, match="no fp4 graph for 'onnxruntime'; it has: int8"):
        load_backend(bundle, "onnxruntime", precision="fp4")


def test_a_backend_says_what_it_is(bundle: ModelBundle) -> None:
    backend = load_backend(bundle, "onnxruntime")
    assert (backend.name, backend.version) == ("onnxruntime", ort.__version__)
    assert (backend.precision, backend.device) == ("int8", "cpu")


@pytest.mark.parametrize("shape", [(1, 1, 10, 10), (1, 7, 224, 224), (224, 224)])
def test_an_input_of_the_wrong_shape_is_a_backend_error(
    bundle: ModelBundle, shape: tuple[int, ...]
) -> None:
    with pytest.raises(BackendError, match="ONNX Runtime"):
        load_backend(bundle).encode(np.zeros(shape, dtype=bundle.preprocess.dtype))


def test_an_unknown_name_is_refused_with_the_known_ones(bundle: ModelBundle) -> None:
    with pytest.raises(ValueError, match="choose one of auto, onnxruntime"):
        load_backend(bundle, "cuda")


@pytest.mark.parametrize("threads", [0, -1])
def test_fewer_threads_than_one_are_refused(bundle: ModelBundle, threads: int) -> None:
    with pytest.raises(ValueError, match="threads"):
        load_backend(bundle, threads=threads)


def test_a_graph_that_the_runtime_cannot_read_is_a_backend_error(edited_bundle: Edit) -> None:
    folder = edited_bundle(lambda manifest: None)
    junk = b"not a graph"
    (folder / "encoder.cpu.onnx").write_bytes(junk)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"]["encoder.cpu.onnx"]["sha256"] = hashlib.sha256(junk).hexdigest()
    text = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(text)
    digest = hashlib.sha256(text).hexdigest()
    (folder / "manifest.sha256").write_text(f"{digest}  manifest.json\n")
    with pytest.raises(BackendError, match=r"encoder\.cpu\.onnx"):
        load_backend(ModelBundle.load(folder))


def test_a_graph_that_does_not_fit_the_manifest_is_a_backend_error(edited_bundle: Edit) -> None:
    folder = edited_bundle(lambda manifest: manifest.update(embedding_dim=17))
    with pytest.raises(BackendError, match="embedding_dim 17"):
        load_backend(ModelBundle.load(folder))


def test_a_bundle_without_a_graph_for_a_backend_is_refused(edited_bundle: Edit) -> None:
    def rename(manifest: dict[str, Any]) -> None:
        manifest["graphs"] = {"abacus": manifest["graphs"]["onnxruntime"]}

    bundle = ModelBundle.load(edited_bundle(rename))
    with pytest.raises(BackendError, match="abacus"):
        load_backend(bundle)
    with pytest.raises(BundleError, match="onnxruntime"):
        load_backend(bundle, "onnxruntime")


def test_weights_outside_the_checked_graph_are_refused(tmp_path: Path) -> None:
    # Given a bundle whose graph keeps its weights in a file that the manifest does not list
    folder = tmp_path / "bundle"
    shutil.copytree(DEFAULT_BUNDLE, folder)
    graph = onnx.load(folder / "encoder.cpu.onnx")
    onnx.save(
        graph, folder / "encoder.cpu.onnx", save_as_external_data=True, location="weights.bin"
    )
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"]["encoder.cpu.onnx"]["sha256"] = hashlib.sha256(
        (folder / "encoder.cpu.onnx").read_bytes()
    ).hexdigest()
    text = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(text)
    digest = hashlib.sha256(text).hexdigest()
    (folder / "manifest.sha256").write_text(f"{digest}  manifest.json\n")
    # Then it does not load
    with pytest.raises(BackendError):
        load_backend(ModelBundle.load(folder))


def test_a_graph_changed_after_the_check_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(DEFAULT_BUNDLE, folder)
    bundle = ModelBundle.load(folder)
    with (folder / "encoder.cpu.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleIntegrityError, match=r"encoder\.cpu\.onnx"):
        load_backend(bundle)
