"""Pictures in the order of colours in which they are shown, kept and written."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fetalclip_edge.pixels import encode_jpeg, encode_png, in_color, ultrasound
from fetalclip_edge.results import Region

from .moments import frame


def orange() -> NDArray[np.uint8]:
    """Of one colour, whose channels cannot be taken for one another."""
    return np.full((40, 60, 3), (240, 130, 20), dtype=np.uint8)


def decoded(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_colours_are_told_in_the_order_red_green_blue(color: Any) -> None:
    stored = orange() if color == "rgb" else orange()[:, :, ::-1]
    seen = ultrasound(frame(0, stored, color=color, region=Region(10, 5, 30, 20)))
    assert seen.shape == (20, 30, 3)
    assert (seen == (240, 130, 20)).all()
    np.testing.assert_array_equal(decoded(encode_png(seen)), seen)
    jpeg = decoded(encode_jpeg(seen, 1000, 95))
    assert np.abs(jpeg.astype(int) - (240, 130, 20)).max() < 6


def test_grey_stays_grey() -> None:
    grey = np.arange(2400, dtype=np.uint16).reshape(40, 60).astype(np.uint8)
    seen = ultrasound(frame(0, grey))
    np.testing.assert_array_equal(decoded(encode_png(seen)), grey)
    assert decoded(encode_jpeg(seen, 1000, 95)).shape == (40, 60)
    # Of a part of the frame, too, which is a view of it
    part = ultrasound(frame(0, grey, region=Region(10, 5, 30, 20)))
    np.testing.assert_array_equal(decoded(encode_png(part)), grey[5:25, 10:40])
    np.testing.assert_array_equal(in_color(part), np.dstack([grey[5:25, 10:40]] * 3))
    assert decoded(encode_jpeg(part, 15, 95)).shape == (10, 15)


def test_a_large_jpeg_is_made_smaller_and_a_small_one_is_not() -> None:
    assert decoded(encode_jpeg(orange(), 30, 95)).shape == (20, 30, 3)
    assert decoded(encode_jpeg(orange(), 300, 95)).shape == (40, 60, 3)
    line = np.zeros((1, 500), dtype=np.uint8)
    assert decoded(encode_jpeg(line, 30, 95)).shape == (1, 30)
