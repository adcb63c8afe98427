"""Arrays, iterables and objects with read()."""

from __future__ import annotations

import numpy as np
import pytest

from fetalclip_edge.errors import FrameError, InvalidImageError, InvalidImageTypeError, SourceError
from fetalclip_edge.sources import ArraySource, IterableSource, ReaderSource

GREY = np.arange(20, dtype=np.uint8).reshape(4, 5)
COLOR = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)


@pytest.mark.parametrize(
    ("array", "number", "shape", "color"),
    [
        (GREY, 1, (4, 5), "gray"),
        (COLOR, 1, (4, 5, 3), "rgb"),
        (np.stack([GREY, GREY + 1]), 2, (4, 5), "gray"),
        (np.stack([COLOR, COLOR + 1]), 2, (4, 5, 3), "rgb"),
    ],
)
def test_shapes_tell_one_picture_from_many(array, number, shape, color):
    with ArraySource(array) as source:
        frames = list(source)
    assert source.frame_count == len(frames) == number
    assert all(frame.image.shape == shape and frame.color == color for frame in frames)


def test_frames_of_an_array_are_views():
    stack = np.stack([GREY, GREY + 1])
    with ArraySource(stack) as source:
        assert all(np.shares_memory(frame.image, stack) for frame in source)


@pytest.mark.parametrize(
    ("array", "error", "words"),
    [
        (GREY.astype(np.float32), InvalidImageTypeError, "float32"),
        (GREY.astype(np.uint16), InvalidImageTypeError, "uint16"),
        ([[1, 2], [3, 4]], InvalidImageTypeError, "list"),
        (np.zeros((4, 5, 4), np.uint8), InvalidImageError, r"\(4, 5, 4\)"),
        (np.zeros((4, 5, 1), np.uint8), InvalidImageError, r"\(4, 5, 1\)"),
        (np.zeros((2, 4, 5, 4), np.uint8), InvalidImageError, r"\(2, 4, 5, 4\)"),
        (np.zeros((0, 5), np.uint8), InvalidImageError, r"\(0, 5\)"),
        (np.zeros(5, np.uint8), InvalidImageError, r"\(5,\)"),
        (np.zeros((), np.uint8), InvalidImageError, r"\(\)"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused_with_what_was_given(array, error, words):
    with pytest.raises(error, match=words):
        ArraySource(array)


def test_a_generator_is_asked_for_one_picture_at_a_time():
    asked = []

    def pictures():
        for i in range(5):
            asked.append(i)
            yield GREY

    with IterableSource(pictures()) as source:
        assert asked == []
        source.read()
        assert asked == [0]
        source.read()
        assert asked == [0, 1]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (GREY.astype(np.float64), r"frame 1 is float64 \(4, 5\)"),
        (np.zeros((4, 5, 4), np.uint8), r"frame 1 has the shape \(4, 5, 4\)"),
        ("picture.png", "frame 1 is a str"),
    ],
)
def test_a_bad_picture_is_named_and_the_next_is_read(bad, words):
    with IterableSource([GREY, bad, COLOR]) as source:
        source.read()
        with pytest.raises(FrameError, match=words):
            source.read()
        last = source.read()
    assert (last.index, last.color) == (2, "rgb")


def test_an_iterable_that_fails_is_a_source_error_with_its_cause():
    def pictures():
        yield GREY
        raise RuntimeError("probe unplugged")

    with IterableSource(pictures()) as source:
        source.read()
        with pytest.raises(SourceError, match="frame 1: RuntimeError: probe unplugged") as caught:
            source.read()
    assert isinstance(caught.value.__cause__, RuntimeError)


class Reader:
    def __init__(self, *answers):
        self.answers = list(answers)

    def read(self):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize("end", [None, (False, None), (False, GREY)])
def test_read_may_return_arrays_or_pairs(end):
    with ReaderSource(Reader(GREY, (True, COLOR), end)) as source:
        frames = list(source)
    assert [frame.color for frame in frames] == ["gray", "rgb"]
    assert np.array_equal(frames[1].image, COLOR)


def test_the_color_order_of_a_reader_can_be_given():
    with ReaderSource(Reader((True, COLOR)), color="bgr") as source:
        assert source.read().color == "bgr"


def test_a_reader_that_fails_is_a_source_error():
    with (
        ReaderSource(Reader(ValueError("no device"))) as source,
        pytest.raises(SourceError, match=r"read\(\) failed at frame 0: ValueError: no device"),
    ):
        source.read()


def test_a_live_reader_that_fails_has_lost_its_signal():
    class Unplugged:
        def read(self):
            return False, None

    with ReaderSource(Unplugged(), live=True) as source:
        with pytest.raises(SourceError, match="signal is lost"):
            source.read()
    with ReaderSource(Unplugged()) as recording:
        assert recording.read() is None
