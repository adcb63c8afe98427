"""A model bundle: a folder with a manifest, graphs and tensors, checked by sha256 when loaded.

`manifest.sha256` holds the checksum of `manifest.json` in the format of `sha256sum`; the manifest
holds that of every other file. So a changed byte anywhere is found, and named, before anything
is parsed that could be wrong.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fetalclip_edge.errors import BundleError, BundleIntegrityError, BundleNotFoundError
from fetalclip_edge.manifest import field_of, number_of, texts_of
from fetalclip_edge.preprocess import PreprocessSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "CHECKSUM",
    "DEFAULT_BUNDLE",
    "MANIFEST",
    "REFERENCE",
    "SCHEMA_VERSION",
    "ModelBundle",
    "PromptSet",
    "Reference",
    "file_sha256",
    "prompts_sha256",
]

DEFAULT_BUNDLE = Path(__file__).parent / "bundles" / "default"
"""The bundle that the package ships."""

SCHEMA_VERSION = 3
"""Version of the manifest's layout that this package reads."""

MANIFEST, CHECKSUM = "manifest.json", "manifest.sha256"

REFERENCE = "reference.safetensors"
"""Frames with their float32 embeddings, which a bundle may hold."""

_EXTERNAL = b"\x0a\x08location"
"""Key of ONNX's `external_data` entry with a file name, as protobuf writes it."""


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts of one zero-shot task, and how to turn similarities into probabilities.

    Attributes:
        labels: the classes, in the order of the embeddings.
        texts: class -> the sentences whose embeddings were averaged.
        sha256: hash of labels and texts.
        temperature: cosines are divided by it before the softmax; fitted on validation patients.
    """

    labels: tuple[str, ...]
    texts: dict[str, tuple[str, ...]]
    sha256: str
    temperature: float


@dataclass(frozen=True, slots=True)
class Reference:
    """What the model gives before quantisation, to judge a graph on a device by.

    Attributes:
        frames: uint8 `(N, 1, S, S)`, grey, padded and resized for the model already.
        outputs: of the model in float32 by name, float32 `(N, ...)`; `embedding`, `(N, D)`, is
            L2-normalised. Bundles of before 0.4.1 hold that alone.
    """

    frames: NDArray[np.uint8]
    outputs: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class ModelBundle:
    """What a checked manifest says. Made by `ModelBundle.load`.

    Attributes:
        folder: where the bundle is.
        name, version: of the bundle.
        license: SPDX identifier of the weights' licence.
        intended_use: what it is for, and that it is not a medical device.
        preprocess: how a frame becomes the graphs' input.
        graphs: backend -> numeric precision, such as "int8" -> file name of that graph. The first
            precision of a backend is the one it takes unless told otherwise.
        embedding_dim: length of the embedding.
        prompt_sets: task -> its prompts.
        thresholds: name -> value; beyond `domain_distance` the model abstains.
        metrics: as measured at export.
        files: name -> sha256 of the files that the manifest lists, all checked.
        sha256: checksum of the manifest, and so of the whole bundle.
        head: what the graphs' map of the head is worth (see `fetalclip_edge.tasks.biometry`), or
            None where they give none.
        tasks: name -> what the manifest says of a head that was added for a task of the user's own
            (see `fetalclip_edge.tasks.class_head`).
        limits: what it is not good at, in sentences.
        age_bank: what is said of `age_bank.safetensors` (see `fetalclip_edge.tasks.age_bank`), or
            None where there is none.
    """

    folder: Path
    name: str
    version: str
    license: str
    intended_use: str
    preprocess: PreprocessSpec
    graphs: dict[str, dict[str, str]]
    embedding_dim: int
    prompt_sets: dict[str, PromptSet]
    thresholds: dict[str, float]
    metrics: dict[str, Any]
    files: dict[str, str]
    sha256: str
    head: dict[str, Any] | None = None
    tasks: dict[str, Any] = field(default_factory=dict)
    limits: tuple[str, ...] = ()
    age_bank: dict[str, Any] | None = None

    @property
    def encoder_sha256(self) -> str:
        """Hash over all that embeddings hang on: the graphs and the preprocessing.

        What is added to a bundle or taken from it otherwise leaves it as it is.
        """
        graphs = sorted(
            {self.files[file] for each in self.graphs.values() for file in each.values()}
        )
        told = json.dumps([graphs, self.preprocess.to_dict()], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    @classmethod
    def load(cls, folder: str | Path | None = None) -> ModelBundle:
        """Read a bundle and check every file in it.

        Args:
            folder: the bundle, or None for the one that the package ships.

        Raises:
            BundleNotFoundError: the folder or one of its files is missing.
            BundleIntegrityError: a file differs from its checksum; the message names it.
            BundleError: the manifest lacks something or this version cannot read it.
        """
        folder = DEFAULT_BUNDLE if folder is None else Path(folder)
        if not folder.is_dir():
            raise BundleNotFoundError(f"no bundle at {folder}: it must be a folder with {MANIFEST}")
        text = _read_manifest(folder)
        manifest = _parse(folder / MANIFEST, text)
        _check_files(folder, manifest)
        return _from_manifest(folder, manifest, hashlib.sha256(text).hexdigest())

    def precision(self, backend: str, wanted: str | None = None) -> str:
        """The precision of the graph that a backend takes.

        Args:
            backend: name of the backend.
            wanted: the precision, or None for the one that the bundle names first.

        Raises:
            BundleError: the bundle has no such graph.
        """
        if not self.graphs.get(backend):
            known = ", ".join(self.graphs) or "none"
            raise BundleError(f"bundle {self.name} has no graph for {backend!r}; it has: {known}")
        there = self.graphs[backend]
        if wanted is not None and wanted not in there:
            raise BundleError(
                f"bundle {self.name} has no {wanted} graph for {backend!r}; it has: "
                f"{', '.join(there)}"
            )
        return wanted or next(iter(there))

    def graph(self, backend: str, precision: str | None = None) -> bytes:
        """The graph for a backend, checked again as it is read.

        Args:
            backend: name of the backend.
            precision: of the graph, or None for the one that the bundle names first.

        Raises:
            BundleError: the bundle has no such graph, or it keeps weights in another file.
            BundleIntegrityError: it was changed since the bundle was loaded.
        """
        precision = self.precision(backend, precision)
        name = self.graphs[backend][precision]
        graph = self._read(name)
        if _EXTERNAL in graph:
            # Runtimes would take them from the working directory, where nobody has checked them.
            raise BundleError(
                f"{self.folder / name} keeps weights in another file, which is not allowed"
            )
        return graph

    def prompt_embeddings(self) -> dict[str, NDArray[np.float32]]:
        """Task -> float32 `(classes, embedding_dim)`, L2-normalised.

        Raises:
            BundleError: the tensors do not fit the manifest.
        """
        tensors = self.tensors("prompts.safetensors")
        for task, prompts in self.prompt_sets.items():
            shape = (len(prompts.labels), self.embedding_dim)
            if task not in tensors or tensors[task].shape != shape:
                raise BundleError(f"prompts.safetensors must hold {task!r} of shape {shape}")
        return {task: tensors[task] for task in self.prompt_sets}

    def tensors(self, name: str) -> dict[str, NDArray[np.float32]]:
        """The tensors of one of the bundle's safetensors files; what is float16 is widened.

        Raises:
            BundleError: the manifest does not list the file, or it cannot be read.
            BundleIntegrityError: it was changed since the bundle was loaded.
        """
        tensors: dict[str, NDArray[np.float32]] = {}
        for key, tensor in self._load(name).items():
            widened = tensor.astype("float32") if tensor.dtype.name == "float16" else tensor
            if widened.dtype.name != "float32" or not math.isfinite(float(widened.sum())):
                raise BundleError(f"{self.folder / name}: {key} must be finite float32 or float16")
            tensors[key] = widened
        return tensors

    def reference(self) -> Reference | None:
        """The reference frames and what the model makes of them, or None where there are none.

        Raises:
            BundleError: the file does not hold what it must.
            BundleIntegrityError: it was changed since the bundle was loaded.
        """
        if REFERENCE not in self.files:
            return None
        tensors, size = self._load(REFERENCE), self.preprocess.size
        if not {"frames", "embeddings"} <= set(tensors):
            raise BundleError(f"{REFERENCE} must hold frames and embeddings, not {list(tensors)}")
        frames, embeddings = tensors.pop("frames"), tensors.pop("embeddings")
        number = len(frames) if frames.ndim else 0
        if frames.dtype.name != "uint8" or frames.shape != (max(1, number), 1, size, size):
            raise BundleError(
                f"{REFERENCE}: frames must be uint8 (N, 1, {size}, {size}), "
                f"not {frames.dtype} {frames.shape}"
            )
        shape = (number, self.embedding_dim)
        if embeddings.dtype.name != "float32" or embeddings.shape != shape:
            raise BundleError(
                f"{REFERENCE}: embeddings must be float32 {shape}, "
                f"not {embeddings.dtype} {embeddings.shape}"
            )
        if not bool((abs((embeddings**2).sum(axis=1) - 1) < 1e-3).all()):
            raise BundleError(f"{REFERENCE}: embeddings must be L2-normalised")
        for name, values in tensors.items():
            if values.dtype.name != "float32" or values.shape[:1] != (number,):
                raise BundleError(
                    f"{REFERENCE}: {name} must be float32 ({number}, ...), "
                    f"not {values.dtype} {values.shape}"
                )
        return Reference(frames, {"embedding": embeddings, **tensors})

    def _load(self, name: str) -> dict[str, NDArray[Any]]:
        from safetensors.numpy import load

        data = self._read(name)
        try:
            tensors: dict[str, NDArray[Any]] = load(data)
        except Exception as error:
            raise BundleError(f"{self.folder / name} is no safetensors file: {error}") from error
        return tensors

    def _read(self, name: str) -> bytes:
        """The bytes of a file, which are used only if they are still those that were checked."""
        if name not in self.files:
            raise BundleError(f"manifest: files must list {name}")
        data = (self.folder / name).read_bytes()
        if hashlib.sha256(data).hexdigest() != self.files[name]:
            raise BundleIntegrityError(
                f"{self.folder / name} was changed since the bundle was loaded"
            )
        return data


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _read_manifest(folder: Path) -> bytes:
    """The manifest as it was checked: what is parsed must not be read a second time."""
    for name in (MANIFEST, CHECKSUM):
        if not (folder / name).is_file():
            raise BundleNotFoundError(f"{folder} is not a bundle: it has no {name}")
    text = (folder / MANIFEST).read_bytes()
    digest = hashlib.sha256(text).hexdigest()
    if (folder / CHECKSUM).read_bytes() != f"{digest}  {MANIFEST}\n".encode():
        raise BundleIntegrityError(
            f"{folder / MANIFEST} does not match {CHECKSUM}: one of the two was changed. "
            "Copy the bundle again, or export it anew"
        )
    return text


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise BundleError(f"{path} must hold a JSON object")
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema_version {version!r}; this version of fetalclip-edge reads "
            f"{SCHEMA_VERSION}. Export the bundle with a matching version"
        )
    return manifest


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    for name, entry in field_of(manifest, "files", dict).items():
        if Path(name).name != name:
            raise BundleError(f"manifest: files: {name!r} must be a plain file name")
        path = folder / name
        if not path.is_file():
            raise BundleNotFoundError(f"{folder} lacks {name}, which its manifest lists")
        if file_sha256(path) != field_of(entry, "sha256", str, f"files.{name}"):
            raise BundleIntegrityError(
                f"{path} differs from the checksum in the manifest: the file was changed or "
                "damaged. Copy the bundle again, or export it anew"
            )


def _from_manifest(folder: Path, manifest: Mapping[str, Any], digest: str) -> ModelBundle:
    files = field_of(manifest, "files", dict)
    graphs = field_of(manifest, "graphs", dict)
    for backend in graphs:
        for precision in field_of(graphs, backend, dict, "graphs"):
            if field_of(graphs[backend], precision, str, f"graphs.{backend}") not in files:
                raise BundleError(
                    f"manifest: graphs.{backend}.{precision} names a file that is not in files"
                )
    return ModelBundle(
        folder=folder,
        name=field_of(manifest, "name", str),
        version=field_of(manifest, "version", str),
        license=field_of(manifest, "license", str),
        intended_use=field_of(manifest, "intended_use", str),
        preprocess=PreprocessSpec.from_dict(field_of(manifest, "preprocess", dict)),
        graphs={backend: dict(files_of) for backend, files_of in graphs.items()},
        embedding_dim=field_of(manifest, "embedding_dim", int),
        prompt_sets={
            task: _prompt_set(entry, f"prompt_sets.{task}")
            for task, entry in field_of(manifest, "prompt_sets", dict).items()
        },
        thresholds={
            name: number_of(value, f"thresholds.{name}")
            for name, value in field_of(manifest, "thresholds", dict).items()
        },
        metrics=field_of(manifest, "metrics", dict),
        files={name: entry["sha256"] for name, entry in files.items()},
        sha256=digest,
        head=field_of(manifest, "head", dict) if "head" in manifest else None,
        tasks=field_of(manifest, "tasks", dict) if "tasks" in manifest else {},
        limits=texts_of(manifest.get("limits", []), "limits"),
        age_bank=field_of(manifest, "age_bank", dict) if "age_bank" in manifest else None,
    )


def _prompt_set(entry: Mapping[str, Any], where: str) -> PromptSet:
    texts = field_of(entry, "texts", dict, where)
    labels = texts_of(field_of(entry, "labels", list, where), f"{where}.labels")
    if set(labels) != set(texts) or len(set(labels)) != len(labels):
        raise BundleError(f"manifest: {where}.labels and {where}.texts name different classes")
    temperature = number_of(field_of(entry, "temperature", object, where), f"{where}.temperature")
    if temperature <= 0:
        raise BundleError(f"manifest: {where}.temperature must be above 0, not {temperature}")
    prompts = {label: texts_of(texts[label], f"{where}.texts.{label}") for label in labels}
    if prompts_sha256(prompts) != field_of(entry, "sha256", str, where):
        raise BundleError(f"manifest: {where}.sha256 is not that of its labels and texts")
    return PromptSet(labels, prompts, prompts_sha256(prompts), temperature)


def prompts_sha256(prompts: Mapping[str, Sequence[str]]) -> str:
    """Hash over the classes of a task and their sentences, in order."""
    listed = [[label, list(texts)] for label, texts in prompts.items()]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()
