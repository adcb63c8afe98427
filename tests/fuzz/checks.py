"""What must hold whatever a reader is given: an answer of the right kind, or an error of ours."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BundleError, FrameError, SourceError
from fetalclip_edge.results import Frame
from fetalclip_edge.sources import DicomSource, read_image
from fetalclip_edge.sources.igtl import _Connection, _messages

from . import inputs
from .spoiling import EDITS, PLACES, VALUES, replace_value, spoil

_MOST_FRAMES = 200


@dataclass(frozen=True)
class Reader:
    """A reader to fuzz.

    Attributes:
        check: reads the bytes, with a folder for files; how many answers there were. Raises what
            the reader must not raise.
        examples: spoiled inputs.
        plain: the inputs before.
    """

    check: Callable[[bytes, Path], int]
    examples: st.SearchStrategy[bytes]
    plain: tuple[bytes, ...]


def _spoiled(files: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    return st.builds(spoil, st.sampled_from(files), EDITS)


def check_image(data: bytes, folder: Path) -> int:
    path = folder / "picture"
    path.write_bytes(data)
    try:
        image, color = read_image(path)
    except FrameError:
        return 0
    _check_picture(image)
    assert color == ("gray" if image.ndim == 2 else "bgr")
    return 1


def check_dicom(data: bytes, folder: Path) -> int:
    path = folder / "a.dcm"
    path.write_bytes(data)
    answers = 0
    with contextlib.suppress(SourceError), DicomSource(path) as source:
        for _ in range(_MOST_FRAMES):
            try:
                frame = source.read()
            except FrameError:
                continue
            if frame is None:
                break
            _check_frame(frame)
            answers += 1
    return answers


def check_manifest(data: bytes, folder: Path) -> int:
    inputs.write_bundle(folder, data)
    try:
        bundle = ModelBundle.load(folder)
        prompts = bundle.prompt_embeddings()
        bundle.reference()
        for backend in bundle.graphs:
            bundle.precision(backend)
    except BundleError:
        return 0
    assert all(tensor.dtype == np.float32 for tensor in prompts.values())
    assert all(value == value for value in bundle.thresholds.values())
    return 1


def check_igtl(data: bytes, folder: Path) -> int:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        connection = _Connection(ours, None, "igtl://test", _messages("test"))
        answers = 0
        while True:
            try:
                _check_frame(connection.next_frame(time.monotonic() + 10))
                answers += 1
            except FrameError:
                continue
            except SourceError:
                return answers


def _check_frame(frame: Frame) -> None:
    _check_picture(frame.image)
    assert frame.color == ("gray" if frame.image.ndim == 2 else "rgb")
    assert frame.pixel_size_mm is None or 0 < frame.pixel_size_mm < np.inf
    assert frame.pts_s is None or np.isfinite(frame.pts_s)
    if frame.region is not None:
        x, y, width, height = frame.region
        rows, columns = frame.image.shape[:2]
        assert x >= 0 <= y
        assert width > 0 < height
        assert x + width <= columns
        assert y + height <= rows


def _check_picture(image: np.ndarray) -> None:
    assert image.dtype == np.uint8
    assert image.ndim == 2 or image.shape[2:] == (3,)
    assert image.size > 0


READERS = {
    "image": Reader(check_image, _spoiled(inputs.images()), inputs.images()),
    "dicom": Reader(check_dicom, _spoiled(inputs.dicom()), inputs.dicom()),
    "igtl": Reader(check_igtl, _spoiled(inputs.messages()), inputs.messages()),
    "manifest": Reader(
        check_manifest,
        st.one_of(
            _spoiled(inputs.manifests()),
            st.builds(
                replace_value, st.just(inputs.manifests()[0]), st.integers(0, PLACES - 1), VALUES
            ),
        ),
        inputs.manifests(),
    ),
}
