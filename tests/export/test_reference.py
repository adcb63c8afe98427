"""The frames that a bundle carries for its runtimes to be judged by."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from export.graphs import Exported
from export.measure import one_thread_session
from export.reference import reference_frames, reference_tensors
from fetalclip_edge.preprocess import PreprocessSpec

SPEC = PreprocessSpec(size=64, color="gray", mean=(0.5,), std=(0.5,), dtype="uint8")


@pytest.fixture(scope="module")
def frames() -> NDArray[np.uint8]:
    return reference_frames(SPEC)


def test_every_other_frame_is_one_of_the_clip_as_pillow_resizes_it(
    frames: NDArray[np.uint8], clip_images: list[NDArray[np.uint8]]
) -> None:
    assert (frames.shape, frames.dtype) == ((16, 1, 64, 64), np.uint8)
    last = len(clip_images) - 1
    for place in range(0, 16, 2):
        image = clip_images[round(place * last / 15)]
        side = max(image.shape)
        square = np.zeros((side, side), np.uint8)
        top, left = (side - image.shape[0]) // 2, (side - image.shape[1]) // 2
        square[top : top + image.shape[0], left : left + image.shape[1]] = image
        expected = Image.fromarray(square).resize((64, 64), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(frames[place, 0].astype(int), np.asarray(expected), atol=2)


def test_no_two_are_the_same_and_none_is_flat(frames: NDArray[np.uint8]) -> None:
    assert len({frame.tobytes() for frame in frames}) == 16
    assert frames.std(axis=(1, 2, 3)).min() > 5


def test_they_are_the_same_every_time(frames: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(reference_frames(SPEC), frames)


def test_a_model_of_colours_has_the_same_frames(frames: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(reference_frames(PreprocessSpec(size=64)), frames)


def test_embeddings_are_those_of_the_float_graph(
    graphs: Exported, frames: NDArray[np.uint8]
) -> None:
    session = one_thread_session(graphs.fp32)
    tensors = reference_tensors(session, SPEC)
    np.testing.assert_array_equal(tensors["frames"], frames)
    expected, features = session.run(["embedding", "domain_features"], {"image": frames})
    assert set(tensors) == {"frames", "embeddings", "domain_features"}
    np.testing.assert_allclose(tensors["domain_features"], features, rtol=1e-3, atol=1e-4)
    assert tensors["embeddings"].dtype == np.float32
    np.testing.assert_allclose(tensors["embeddings"], expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)
