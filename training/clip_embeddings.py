"""Embeddings of clips, each computed once and kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fetalclip_edge.bundle import file_sha256
from fetalclip_edge.errors import InvalidImageError, SourceError, SourceNotFoundError
from fetalclip_edge.results import Frame
from fetalclip_edge.sources import open_source
from fetalclip_edge.sources.images import images_in
from training.clips import Clip
from training.evaluation.encoders import Embeddings, Encoder
from training.progress import image_progress

__all__ = ["Embedded", "LeftOut", "embed_clips", "encoder_sha256", "of_plane", "read_frames"]

_KEY = "embeddings"


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """A clip with the embeddings of its frames.

    Attributes:
        clip: which.
        frames: `(T, D)`, L2-normalised, in the order of time.
        sha256: of each of the clip's files.
    """

    clip: Clip
    frames: Embeddings
    sha256: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A clip that cannot be used, as the table names it, and why."""

    name: str
    reason: str


def encoder_sha256(encoder: Encoder) -> str:
    """Hash over all that embeddings hang on; of a bundle, that by which it knows its heads."""
    known: str | None = encoder.identity.get("encoder_sha256")
    if known is not None:
        return known
    return _hash([encoder.identity["files"], encoder.identity["preprocess"]])


def read_frames(path: Path, most: int) -> list[NDArray[np.uint8]]:
    """Frames all over a clip, at most so many, in grey `(H, W)` or RGB `(H, W, 3)`.

    Only the ultrasound is kept where the source says where it lies. Every frame is decoded, but no
    more than twice as many as are wanted are in memory.

    Raises:
        SourceError: the clip, or a frame of it, cannot be read.
    """
    kept: list[NDArray[np.uint8]] = []
    step = 1
    # A path for certain: a file called "1", as DICOM files are, is no camera.
    with open_source(os.path.join(os.curdir, path)) as source:  # noqa: PTH118
        for number, frame in enumerate(source):
            if number % step == 0:
                kept.append(_pixels(frame))
            if len(kept) == 2 * most:
                kept, step = kept[::2], 2 * step
    if not kept:
        raise SourceError(f"{path}: there are no frames in it")
    chosen = np.linspace(0, len(kept) - 1, min(most, len(kept))).round().astype(int)
    return [kept[index] for index in chosen]


def embed_clips(
    encoder: Encoder, clips: Sequence[Clip], cache: Path, *, most: int, console: Console
) -> tuple[list[Embedded], list[LeftOut]]:
    """Embed the frames of clips, with a progress bar.

    Args:
        encoder: which.
        clips: what.
        cache: folder of what was computed before; other clips, encoders and numbers of frames are
            told apart by hashes. It may be deleted at any time.
        most: frames of a clip to embed, evenly over it.
        console: for the progress.

    Returns:
        The clips that could be read, in order, and the others.

    Raises:
        ValueError: clips of different splits share a file, or clips of the very same files are
            labelled differently.
    """
    about = [encoder_sha256(encoder), most]
    about += [encoder.identity.get(name) for name in ("graph", "backend", "precision")]
    embedded: list[Embedded] = []
    left_out: list[LeftOut] = []
    cache.mkdir(parents=True, exist_ok=True)
    with image_progress(console, unit="clips") as progress:
        task = progress.add_task("embedding", total=len(clips))
        for clip in clips:
            progress.advance(task)
            try:
                content = _content_sha256(clip.path)
                kept = cache / f"{_hash([about, content])}.safetensors"
                frames = _read_kept(kept)
                images = read_frames(clip.path, most) if frames is None else []
            except (OSError, InvalidImageError) as error:
                left_out.append(LeftOut(clip.name, str(error)))
                continue
            if frames is None:
                frames = encoder.embed_images(images)
                _keep(kept, frames)
            embedded.append(Embedded(clip, frames, content))
    _check_copies(embedded)
    return embedded, left_out


def of_plane(encoder: Encoder, embedded: Embedded, plane: str) -> Embeddings:
    """The frames of a clip on which the model sees a plane, `(T, D)`; maybe none.

    Raises:
        NotMeasurableError: the model brings no prompts of planes.
    """
    prompts = encoder.prompts("planes")
    scores = embedded.frames @ encoder.embed_prompts(prompts).T
    frames: Embeddings = embedded.frames[scores.argmax(axis=1) == prompts.labels.index(plane)]
    return frames


def _pixels(frame: Frame) -> NDArray[np.uint8]:
    image = frame.image
    if frame.region is not None:
        x, y, width, height = frame.region
        image = image[y : y + height, x : x + width]
    return image[:, :, ::-1] if frame.color == "bgr" and image.ndim == 3 else image


def _content_sha256(path: Path) -> tuple[str, ...]:
    if path.is_dir():
        return tuple(file_sha256(image) for image in images_in(path))
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: there is no such file or folder")
    return (file_sha256(path),)


def _check_copies(embedded: Sequence[Embedded]) -> None:
    first: dict[str, Clip] = {}
    first_whole: dict[tuple[str, ...], Clip] = {}
    for each in embedded:
        clip = each.clip
        for file in each.sha256:
            other = first.setdefault(file, clip)
            if clip.split != other.split:
                raise ValueError(
                    f"{clip.name} in {clip.split} and {other.name} in {other.split} are the same "
                    "picture: leave one out, or the figures tell of what was learned by heart"
                )
        other = first_whole.setdefault(each.sha256, clip)
        if clip.label != other.label:
            raise ValueError(
                f"{clip.name} and {other.name} are the same picture, and are labelled "
                f"{clip.label!r} and {other.label!r}"
            )


def _read_kept(path: Path) -> Embeddings | None:
    try:
        frames: Embeddings = load(path.read_bytes())[_KEY]
    except (FileNotFoundError, KeyError, SafetensorError):
        return None  # a damaged one is made anew
    return frames


def _keep(path: Path, frames: Embeddings) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(save({_KEY: np.ascontiguousarray(frames)}))
    temporary.replace(path)


def _hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
