from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import fetalclip_edge as fe
from fetalclip_edge.bundle import DEFAULT_BUNDLE, ModelBundle
from fetalclip_edge.errors import BundleError, BundleIntegrityError, BundleNotFoundError

FILES = sorted(path.name for path in DEFAULT_BUNDLE.iterdir())
MANIFEST = json.loads((DEFAULT_BUNDLE / "manifest.json").read_bytes())

Edit = Callable[[dict[str, Any]], object]


def sign(folder: Path, manifest: bytes) -> None:
    """Write a manifest with its checksum, as `sha256sum manifest.json` would."""
    (folder / "manifest.json").write_bytes(manifest)
    digest = hashlib.sha256(manifest).hexdigest()
    (folder / "manifest.sha256").write_text(f"{digest}  manifest.json\n")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundle"))


@pytest.fixture
def edited(copy: Path) -> Callable[[Edit], Path]:
    """A bundle whose manifest was changed, with right checksums all the same."""

    def edit(change: Edit) -> Path:
        manifest = json.loads((copy / "manifest.json").read_bytes())
        change(manifest)
        for name in manifest.get("files", {}):
            if (copy / name).is_file():
                digest = hashlib.sha256((copy / name).read_bytes()).hexdigest()
                manifest["files"][name]["sha256"] = digest
        sign(copy, json.dumps(manifest).encode())
        return copy

    return edit


def test_the_shipped_bundle_is_what_none_loads() -> None:
    bundle = ModelBundle.load()
    assert bundle.folder == DEFAULT_BUNDLE
    assert (bundle.name, bundle.version) == (MANIFEST["name"], MANIFEST["version"])
    assert "not a medical device" in bundle.intended_use.lower()
    manifest = (DEFAULT_BUNDLE / "manifest.json").read_bytes()
    assert bundle.sha256 == hashlib.sha256(manifest).hexdigest()


def test_the_shipped_manifest_lists_every_file_with_its_sha256() -> None:
    listed = {name: entry["sha256"] for name, entry in MANIFEST["files"].items()}
    there = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in DEFAULT_BUNDLE.iterdir()
        if path.name not in ("manifest.json", "manifest.sha256")
    }
    assert listed == there
    assert {"encoder.cpu.onnx", "prompts.safetensors", "MODEL_CARD.md"} <= set(listed)


def test_what_is_read_is_what_was_checked(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a manifest that somebody exchanges as soon as it is opened
    path, open_path = copy / "manifest.json", Path.open
    forged = path.read_bytes().replace(b"medical device", b"miracle device")

    def exchanging(self: Path, *arguments: Any, **options: Any) -> Any:
        file = open_path(self, *arguments, **options)
        if self == path:
            self.unlink()
            with open_path(self, "wb") as other:
                other.write(forged)
        return file

    monkeypatch.setattr(Path, "open", exchanging)
    # Then the bundle is the one whose checksum was right
    assert "medical device" in ModelBundle.load(copy).intended_use


def test_the_shipped_manifest_tells_licence_credits_and_measured_quality() -> None:
    assert MANIFEST["license"]
    assert all({"name", "credit", "license"} <= set(entry) for entry in MANIFEST["training_data"])
    assert MANIFEST["metrics"]
    assert MANIFEST["limits"]


@pytest.mark.parametrize("task", ["planes", "brain_planes"])
def test_prompt_embeddings_have_length_one(task: str) -> None:
    bundle = ModelBundle.load()
    embeddings = bundle.prompt_embeddings()[task]
    labels = MANIFEST["prompt_sets"][task]["labels"]
    assert bundle.prompt_sets[task].labels == tuple(labels)
    assert embeddings.shape == (len(labels), MANIFEST["embedding_dim"])
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_changed_bit_anywhere_is_refused_by_name(
    copy: Path, name: str, where: float, bit: int
) -> None:
    original = (DEFAULT_BUNDLE / name).read_bytes()
    changed = bytearray(original)
    changed[int(where * len(changed))] ^= 1 << bit
    (copy / name).write_bytes(changed)
    try:
        with pytest.raises(BundleIntegrityError) as caught:
            fe.load(copy)
        assert name in str(caught.value)
    finally:
        (copy / name).write_bytes(original)


@pytest.mark.parametrize("name", FILES)
def test_a_byte_more_or_less_is_refused(copy: Path, name: str) -> None:
    original = (copy / name).read_bytes()
    for changed in (original + b"\n", original[:-1], b""):
        (copy / name).write_bytes(changed)
        with pytest.raises(BundleIntegrityError, match=name):
            ModelBundle.load(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=name) as caught:
        ModelBundle.load(copy)
    assert isinstance(caught.value, BundleNotFoundError)


@pytest.mark.parametrize("make", [Path.touch, lambda path: None], ids=["a file", "nothing"])
def test_what_is_no_folder_is_no_bundle(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "bundle"
    make(path)
    with pytest.raises(BundleNotFoundError, match=str(path)):
        ModelBundle.load(path)


@pytest.mark.parametrize(
    "manifest",
    [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"schema_version": NaN}', b"[" * 200_000],
)
def test_a_manifest_that_is_no_json_object_is_refused(copy: Path, manifest: bytes) -> None:
    sign(copy, manifest)
    with pytest.raises(BundleError, match="manifest.json"):
        ModelBundle.load(copy)


@pytest.mark.parametrize("version", [0, 1, 2, 4, "3", None])
def test_another_schema_version_is_refused(edited: Callable[[Edit], Path], version: object) -> None:
    folder = edited(lambda manifest: manifest.update(schema_version=version))
    with pytest.raises(BundleError, match="schema_version"):
        ModelBundle.load(folder)


@pytest.mark.parametrize(
    "key",
    [
        "schema_version",
        "name",
        "version",
        "license",
        "intended_use",
        "preprocess",
        "preprocess.size",
        "preprocess.mean",
        "graphs",
        "embedding_dim",
        "prompt_sets",
        "prompt_sets.planes",
        "prompt_sets.planes.labels",
        "prompt_sets.planes.texts",
        "prompt_sets.planes.sha256",
        "prompt_sets.planes.temperature",
        "prompt_sets.brain_planes",
        "thresholds",
        "thresholds.domain_distance",
        "metrics",
        "files",
        "files.prompts.safetensors",
    ],
)
def test_a_missing_key_is_named(edited: Callable[[Edit], Path], key: str) -> None:
    first, _, rest = key.partition(".")
    keys = [first, rest] if first == "files" and rest else key.split(".")

    def remove(manifest: dict[str, Any]) -> None:
        for part in keys[:-1]:
            manifest = manifest[part]
        del manifest[keys[-1]]

    with pytest.raises(BundleError, match=keys[-1]):
        fe.load(edited(remove))


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("name",), 3),
        (("embedding_dim",), "256"),
        (("graphs",), []),
        (("graphs", "onnxruntime"), "encoder.cpu.onnx"),
        (("graphs", "onnxruntime", "int8"), ["encoder.cpu.onnx"]),
        (("graphs", "onnxruntime", "int8"), "elsewhere.onnx"),
        (("files",), ["encoder.cpu.onnx"]),
        (("files", "prompts.safetensors"), "abc"),
        (("preprocess", "size"), 0),
        (("preprocess", "padding"), "stretch"),
        (("preprocess", "surprise"), 1),
        (("prompt_sets", "planes", "labels"), ["brain"]),
        (("prompt_sets", "planes", "labels"), [["brain"]]),
        (("prompt_sets", "planes", "texts", "brain"), "one text"),
        (("prompt_sets", "planes", "temperature"), 0),
        (("prompt_sets", "planes", "temperature"), -0.1),
        (("prompt_sets", "planes", "temperature"), True),
        (("thresholds", "domain_distance"), "0.5"),
        (("thresholds", "domain_distance"), 0),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(
    edited: Callable[[Edit], Path], keys: tuple[str, ...], value: object
) -> None:
    def change(manifest: dict[str, Any]) -> None:
        for part in keys[:-1]:
            manifest = manifest[part]
        manifest[keys[-1]] = value

    with pytest.raises(BundleError) as caught:
        # Not through `edited`'s checksums alone: `files` itself may be the broken part.
        fe.load(_unchecked(edited, change))
    named = {"surprise": "unknown", "brain": "texts.brain"}.get(keys[-1], keys[-1])
    assert named in str(caught.value)


def _unchecked(edited: Callable[[Edit], Path], change: Edit) -> Path:
    folder = edited(lambda manifest: None)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    change(manifest)
    sign(folder, json.dumps(manifest).encode())
    return folder


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/hostname", "sub/file.txt", "..", "."])
def test_a_file_outside_the_folder_is_never_read(
    edited: Callable[[Edit], Path], tmp_path: Path, name: str
) -> None:
    (tmp_path / "outside.txt").write_bytes(b"outside")
    digest = hashlib.sha256(b"outside").hexdigest()
    folder = edited(lambda manifest: manifest["files"].update({name: {"sha256": digest}}))
    with pytest.raises(BundleError):
        ModelBundle.load(folder)


def test_a_graph_that_is_not_checked_is_refused(edited: Callable[[Edit], Path]) -> None:
    folder = edited(lambda manifest: manifest["files"].pop("encoder.cpu.onnx"))
    with pytest.raises(BundleError, match="onnxruntime"):
        ModelBundle.load(folder)


def test_tensors_that_do_not_fit_the_manifest_are_refused(
    edited: Callable[[Edit], Path],
) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["prompt_sets"]["planes"]["labels"].remove("femur")
        manifest["prompt_sets"]["planes"]["texts"].pop("femur")

    with pytest.raises(BundleError, match="planes"):
        ModelBundle.load(edited(change)).prompt_embeddings()


def test_tensors_that_are_no_safetensors_are_refused(
    copy: Path, edited: Callable[[Edit], Path]
) -> None:
    (copy / "prompts.safetensors").write_bytes(b"\x80\x04K\x01.")  # a pickle of 1
    with pytest.raises(BundleError, match="prompts.safetensors"):
        fe.load(edited(lambda manifest: None))


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("domain_features", r"'domain_features\.means' must have \d+ columns, not 3"),
        ("attention", "is of attention, which the graph does not give"),
    ],
)
def test_a_domain_of_other_outputs_than_the_graphs_is_refused(
    copy: Path, edited: Callable[[Edit], Path], output: str, told: str
) -> None:
    three = {"means": np.zeros((2, 3), np.float32), "whitening": np.eye(3, dtype=np.float32)}
    save_file(
        {f"{output}.{name}": tensor for name, tensor in three.items()}, copy / "domain.safetensors"
    )
    with pytest.raises(BundleError, match=told):
        fe.load(edited(lambda manifest: None))


def test_other_planes_than_the_contract_names_are_refused(
    copy: Path, edited: Callable[[Edit], Path]
) -> None:
    def rename(manifest: dict[str, Any]) -> None:
        prompts = manifest["prompt_sets"]["planes"]
        prompts["labels"][prompts["labels"].index("thorax")] = "heart"
        prompts["texts"]["heart"] = prompts["texts"].pop("thorax")
        listed = [[label, prompts["texts"][label]] for label in prompts["labels"]]
        prompts["sha256"] = hashlib.sha256(json.dumps(listed).encode()).hexdigest()

    with pytest.raises(BundleError, match="thorax"):
        fe.load(edited(rename))


def test_prompt_embeddings_are_read_in_the_order_of_the_labels(
    copy: Path, edited: Callable[[Edit], Path]
) -> None:
    dim = MANIFEST["embedding_dim"]
    planes = np.eye(6, dim, dtype=np.float32)
    save_file(
        {"planes": planes, "brain_planes": np.eye(3, dim, dtype=np.float32)},
        copy / "prompts.safetensors",
    )
    bundle = ModelBundle.load(edited(lambda manifest: None))
    np.testing.assert_array_equal(bundle.prompt_embeddings()["planes"], planes)


def test_the_graph_of_an_unknown_backend_is_not_guessed() -> None:
    with pytest.raises(BundleError, match="onnxruntime"):
        ModelBundle.load().graph("abacus")


def test_prompts_that_do_not_match_their_hash_are_refused(
    edited: Callable[[Edit], Path],
) -> None:
    def forge(manifest: dict[str, Any]) -> None:
        manifest["prompt_sets"]["planes"]["texts"]["brain"][0] = "a photo of a cat"

    with pytest.raises(BundleError, match="planes.sha256"):
        ModelBundle.load(edited(forge))


def test_a_number_beyond_all_measure_is_refused(edited: Callable[[Edit], Path]) -> None:
    def swell(manifest: dict[str, Any]) -> None:
        manifest["thresholds"]["domain_distance"] = 10**400

    with pytest.raises(BundleError, match="domain_distance"):
        ModelBundle.load(edited(swell))


# Reference frames


def _reference(size: int = MANIFEST["preprocess"]["size"]) -> dict[str, np.ndarray]:
    embeddings = np.eye(3, MANIFEST["embedding_dim"], dtype=np.float32)
    return {"frames": np.full((3, 1, size, size), 7, np.uint8), "embeddings": embeddings}


def _with_reference(copy: Path, tensors: dict[str, np.ndarray]) -> ModelBundle:
    save_file(tensors, copy / "reference.safetensors")
    manifest = json.loads((copy / "manifest.json").read_bytes())
    digest = hashlib.sha256((copy / "reference.safetensors").read_bytes()).hexdigest()
    manifest["files"]["reference.safetensors"] = {"sha256": digest}
    sign(copy, json.dumps(manifest).encode())
    return ModelBundle.load(copy)


def test_reference_frames_are_read(copy: Path) -> None:
    reference = _with_reference(copy, _reference()).reference()
    assert reference is not None
    np.testing.assert_array_equal(reference.frames, _reference()["frames"])
    assert set(reference.outputs) == {"embedding"}
    np.testing.assert_array_equal(reference.outputs["embedding"], _reference()["embeddings"])


def test_reference_outputs_beside_the_embedding_are_read_by_their_names(copy: Path) -> None:
    maps = np.arange(48, dtype=np.float32).reshape(3, 1, 4, 4)
    reference = _with_reference(copy, {**_reference(), "head_logits": maps}).reference()
    assert reference is not None
    np.testing.assert_array_equal(reference.outputs["head_logits"], maps)


def test_a_bundle_may_have_no_reference_frames(copy: Path) -> None:
    (copy / "reference.safetensors").unlink(missing_ok=True)
    manifest = json.loads((copy / "manifest.json").read_bytes())
    manifest["files"].pop("reference.safetensors", None)
    sign(copy, json.dumps(manifest).encode())
    assert ModelBundle.load(copy).reference() is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("frames"), "must hold frames and embeddings"),
        (lambda t: t.update(more=np.zeros(3)), "more must be float32"),
        (lambda t: t.update(more=np.zeros(2, np.float32)), "more must be float32"),
        (lambda t: t.update(frames=t["frames"].astype(np.float32)), "frames must be uint8"),
        (lambda t: t.update(frames=t["frames"][:, 0]), "frames must be uint8"),
        (lambda t: t.update(frames=np.array(3, np.uint8)), "frames must be uint8"),
        (lambda t: t.update(_reference(10)), "frames must be uint8"),
        (lambda t: t.update(frames=t["frames"][:0], embeddings=t["embeddings"][:0]), "frames must"),
        (lambda t: t.update(embeddings=t["embeddings"][:2]), "embeddings must be float32"),
        (lambda t: t.update(embeddings=t["embeddings"].astype(np.float64)), "must be float32"),
        (lambda t: t.update(embeddings=2 * t["embeddings"]), "L2-normalised"),
        (lambda t: t["embeddings"].fill(np.nan), "L2-normalised"),
    ],
)
def test_reference_frames_that_do_not_fit_are_refused(
    copy: Path, change: Callable[[dict[str, np.ndarray]], object], said: str
) -> None:
    tensors = _reference()
    change(tensors)
    bundle = _with_reference(copy, tensors)
    with pytest.raises(BundleError, match=said):
        bundle.reference()
