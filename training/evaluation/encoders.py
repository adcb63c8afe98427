"""One face for all that can be measured: a bundle, a released model, a published checkpoint."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from torch import nn

import fetalclip_edge
from fetalclip_edge.bundle import MANIFEST, file_sha256
from fetalclip_edge.preprocess import Preprocessor, PreprocessSpec
from fetalclip_edge.tasks.age_bank import AgeBank
from training.progress import image_progress
from training.prompts import BRAIN_PLANE_PROMPTS, PLANE_PROMPTS, PromptSet

__all__ = [
    "BundleEncoder",
    "Embeddings",
    "Encoder",
    "NotMeasurableError",
    "Picture",
    "TowerEncoder",
    "open_encoder",
]

Embeddings = NDArray[np.float32]

_IMAGE_BATCH, _TEXT_BATCH = 16, 64
_RELEASE = "model.json"
_OUR_PROMPTS = {prompts.name: prompts for prompts in (PLANE_PROMPTS, BRAIN_PLANE_PROMPTS)}


class NotMeasurableError(ValueError):
    """This model, or this data, does not allow a task; the report gives the message as reason."""


class Picture(Protocol):
    """Whatever holds an image: an `Example` of the shards, or a file of a user's table."""

    def open(self) -> Image.Image:
        """The image in grey (mode "L")."""


class Encoder(ABC):
    """Turns images and prompts into embeddings.

    Attributes:
        name: of the model, for people.
        identity: what was measured, as plain values: kind, checksums of the files, preprocessing,
            and with "data_sha256" the shards that it was made from, where that is known.
        preprocess: how a frame becomes the model's input.
        tower: the image tower in PyTorch, or None when there is only a graph.
        age_bank: of a bundle that tells ages zero-shot, what it tells them by, or None.
    """

    name: str
    identity: dict[str, Any]
    preprocess: PreprocessSpec
    tower: nn.Module | None
    age_bank: AgeBank | None = None
    _stored: dict[str, tuple[PromptSet, Embeddings]]

    def embed(self, pictures: Sequence[Picture], title: str) -> Embeddings:
        """Embeddings float32 `(N, D)`, L2-normalised, with a progress bar on stderr.

        Raises:
            ValueError: there are no pictures, one cannot be read, or the model gives an embedding
                that is not of finite numbers.
        """
        if not pictures:
            raise ValueError(f"{title}: there are no images to embed")
        parts = []
        with image_progress(Console(stderr=True)) as progress:
            task = progress.add_task(title, total=len(pictures))
            for start in range(0, len(pictures), _IMAGE_BATCH):
                batch = [np.asarray(p.open()) for p in pictures[start : start + _IMAGE_BATCH]]
                parts.append(self._embed_batch(batch))
                progress.advance(task, len(batch))
        embeddings = np.concatenate(parts)
        if broken := int((~np.isfinite(embeddings)).any(axis=1).sum()):
            raise ValueError(
                f"{title}: {self.name} gives NaN or infinity for {broken} of {len(pictures)}: its "
                "weights are damaged"
            )
        return embeddings

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> Embeddings:
        """Embeddings float32 `(N, D)`, L2-normalised, of images in memory.

        Args:
            images: at least one, `(H, W)` grey or `(H, W, 3)` RGB, of any sizes.

        Raises:
            ValueError: the model gives an embedding that is not of finite numbers.
        """
        starts = range(0, len(images), _IMAGE_BATCH)
        parts = [self._embed_batch(list(images[i : i + _IMAGE_BATCH])) for i in starts]
        embeddings = np.concatenate(parts)
        if not np.isfinite(embeddings).all():
            raise ValueError(f"{self.name} gives NaN or infinity: its weights are damaged")
        return embeddings

    def prompts(self, task: str) -> PromptSet:
        """The prompts that the model itself brings for "planes" or "brain_planes".

        Raises:
            NotMeasurableError: it brings none.
        """
        if task in self._stored:
            return self._stored[task][0]
        if task in _OUR_PROMPTS and self.has_text:
            return _OUR_PROMPTS[task]
        raise NotMeasurableError(f"{self.name} holds no prompts for {task} and no text tower")

    def embed_prompts(self, prompts: PromptSet) -> Embeddings:
        """One embedding a class, the mean over its sentences, L2-normalised `(classes, D)`.

        Taken from what the model stores when it stores these very prompts, else from its text
        tower.

        Raises:
            NotMeasurableError: neither is there.
        """
        for stored, embeddings in self._stored.values():
            if stored.sha256 == prompts.sha256:
                return embeddings
        means = self.mean_embeddings(prompts)
        normalised: Embeddings = means / np.linalg.norm(means, axis=1, keepdims=True)
        return normalised

    def mean_embeddings(self, prompts: PromptSet) -> Embeddings:
        """The plain mean of each class's sentence embeddings `(classes, D)`.

        An image's product with it is its similarity averaged over the sentences.

        Raises:
            NotMeasurableError: there is no text tower.
        """
        texts = [text for group in prompts.prompts.values() for text in group]
        embedded = self.embed_texts(texts)
        ends = np.cumsum([len(group) for group in prompts.prompts.values()])
        groups = np.split(embedded, ends[:-1])
        return np.stack([group.mean(axis=0) for group in groups])

    @property
    @abstractmethod
    def has_text(self) -> bool:
        """Whether the model can embed any sentence."""

    @abstractmethod
    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Embeddings of sentences `(N, D)`, L2-normalised.

        Raises:
            NotMeasurableError: there is no text tower.
        """

    @abstractmethod
    def _embed_batch(self, images: list[NDArray[np.uint8]]) -> Embeddings: ...


class BundleEncoder(Encoder):
    """A bundle, run as the device runs it."""

    tower = None
    has_text = False

    def __init__(self, folder: Path, backend_name: str = "auto") -> None:
        self._model = fetalclip_edge.load(folder, backend_name)
        bundle, backend = self._model.bundle, self._model.backend
        self.age_bank = AgeBank.of_bundle(bundle)
        self.name = f"{bundle.name} {bundle.version}"
        self.preprocess = bundle.preprocess
        embeddings = bundle.prompt_embeddings()
        self._stored = {
            task: (PromptSet(task, dict(prompts.texts), version=bundle.name), embeddings[task])
            for task, prompts in bundle.prompt_sets.items()
        }
        self.identity = {
            "kind": "bundle",
            "name": self.name,
            # The card is made from this evaluation, so it is no part of what was measured.
            "files": {n: sha for n, sha in bundle.files.items() if not n.endswith(".md")},
            "encoder_sha256": bundle.encoder_sha256,
            "graph": bundle.graphs[backend.name][backend.precision],
            "backend": f"{backend.name} {backend.version}",
            "precision": backend.precision,
            "device": backend.device,
            "data_sha256": json.loads((folder / MANIFEST).read_bytes()).get("data_sha256"),
            "embedding_dim": bundle.embedding_dim,
            "preprocess": bundle.preprocess.to_dict(),
        }

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Refused: a bundle holds embeddings of its own prompts alone."""
        raise NotMeasurableError(
            "a bundle has no text tower, only the embeddings of its own prompts; "
            "evaluate the release that it was exported from"
        )

    def _embed_batch(self, images: list[NDArray[np.uint8]]) -> Embeddings:
        return self._model.embed(images)


class TowerEncoder(Encoder):
    """A model in PyTorch: an image tower and, maybe, a text tower.

    Args:
        name: of the model.
        image: grey levels 0 to 255 `(N, 1, S, S)` to embeddings `(N, D)`, L2-normalised.
        text: sentences to embeddings, or None.
        preprocess: of the model.
        identity: see `Encoder`.
        stored: task -> prompts and their embeddings.
        device: where to run, such as "cpu".
    """

    def __init__(
        self,
        name: str,
        image: nn.Module,
        text: nn.Module | None,
        preprocess: PreprocessSpec,
        *,
        identity: Mapping[str, Any],
        stored: Mapping[str, tuple[PromptSet, Embeddings]] | None = None,
        device: str = "cpu",
    ) -> None:
        self.name = name
        self.preprocess = preprocess
        self.tower = image.to(device).eval()
        self._text = None if text is None else text.to(device).eval()
        self._stored = dict(stored or {})
        self._device = device
        # The tower normalises inside, so it takes grey levels; the geometry is the device's own.
        spec = replace(preprocess, color="gray", mean=(0.0,), std=(1.0,), dtype="uint8")
        self._preprocessor = Preprocessor(spec)
        self.identity = {**identity, "device": device, "preprocess": preprocess.to_dict()}

    @property
    def has_text(self) -> bool:
        """Whether there is a text tower."""
        return self._text is not None

    def grey_levels(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What the tower sees of an image, `(1, 1, S, S)`."""
        levels: NDArray[np.uint8] = self._preprocessor(image)
        return levels

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Embeddings of sentences `(N, D)`, L2-normalised."""
        if self._text is None:
            raise NotMeasurableError(f"{self.name} has no text tower to embed prompts with")
        parts = [
            self._text(list(texts[start : start + _TEXT_BATCH])).float().cpu().numpy()
            for start in range(0, len(texts), _TEXT_BATCH)
        ]
        embedded: Embeddings = np.concatenate(parts)
        return embedded

    @torch.inference_mode()
    def _embed_batch(self, images: list[NDArray[np.uint8]]) -> Embeddings:
        assert self.tower is not None
        levels = np.concatenate([self.grey_levels(image) for image in images])
        embedded = self.tower(torch.from_numpy(levels).to(self._device).float())
        array: Embeddings = embedded.float().cpu().numpy()
        return array


def open_encoder(
    path: Path, architecture: str | None = None, device: str = "cpu", backend: str = "auto"
) -> Encoder:
    """Open whatever `path` is.

    Args:
        path: folder of a bundle (`manifest.json`) or of a release (`model.json`), or a published
            checkpoint.
        architecture: name of the published model that a checkpoint holds; None for folders.
        device: where PyTorch runs.
        backend: that runs a bundle.

    Raises:
        FileNotFoundError: there is nothing at `path`, or it lacks a file.
        ValueError: it is none of the three, or does not hold what it must; or there is no such
            backend.
        BackendError: the backend cannot run the bundle.
    """
    if not path.exists():
        raise FileNotFoundError(f"MODEL {path} does not exist")
    if path.is_file():
        return _open_published(path, architecture, device)
    if architecture is not None:
        raise ValueError(f"--architecture is for a published checkpoint; {path} is a folder")
    if (path / MANIFEST).is_file():
        return BundleEncoder(path, backend)
    if (path / _RELEASE).is_file():
        return _open_release(path, device)
    raise ValueError(
        f"MODEL {path} is neither a bundle (it has no {MANIFEST}) nor a release "
        f"(it has no {_RELEASE})"
    )


def _open_release(folder: Path, device: str) -> Encoder:
    from training.release import load_release

    release = load_release(folder)
    described = json.loads((folder / _RELEASE).read_text(encoding="utf-8"))
    stored = {
        task: (
            PromptSet(task, {label: tuple(p["texts"][label]) for label in p["labels"]}),
            release.embeddings[task],
        )
        for task, p in described["prompts"].items()
        if task in release.embeddings
    }
    files = sorted([folder / _RELEASE, *folder.glob("*.safetensors")])
    identity = {
        "kind": "release",
        "name": folder.resolve().name,
        "files": {path.name: file_sha256(path) for path in files},
        "precision": "float32",
        "data_sha256": described["origin"].get("data_sha256"),
        "embedding_dim": release.config.embed_dim,
    }
    return TowerEncoder(
        folder.resolve().name,
        release.tower,
        release.text,
        release.preprocess,
        identity=identity,
        stored=stored,
        device=device,
    )


def _open_published(path: Path, architecture: str | None, device: str) -> Encoder:
    from training.models.published import PUBLISHED

    known = ", ".join(PUBLISHED)
    if architecture is None:
        raise ValueError(f"{path} is a file: say which model it holds, --architecture {known}")
    if architecture not in PUBLISHED:
        raise ValueError(f"--architecture must be one of {known}, not {architecture!r}")
    model = PUBLISHED[architecture](path)
    identity = {
        "kind": "published",
        "name": architecture,
        "files": {path.name: file_sha256(path)},
        "precision": "float32",
        "embedding_dim": model.embed_dim,
    }
    return TowerEncoder(
        architecture, model.image, model.text, model.preprocess, identity=identity, device=device
    )
