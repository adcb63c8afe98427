"""How a frame may lie in memory, what part of it is used, and where the input is written."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fetalclip_edge.preprocess import Preprocessor, PreprocessSpec
from fetalclip_edge.results import Region

GRAY = PreprocessSpec(color="gray", mean=0.5, std=0.25, dtype="uint8")
LEVELS = PreprocessSpec(dtype="uint8")
FRAME = np.random.default_rng(1).integers(0, 256, (300, 410, 3), dtype=np.uint8)

VIEWS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "cropped": lambda frame: frame[13:205, 7:401],
    "upside down": lambda frame: frame[::-1],
    "mirrored": lambda frame: frame[:, ::-1],
    "every other pixel": lambda frame: frame[::2, ::2],
    "transposed": lambda frame: frame.swapaxes(0, 1),
    "column order": np.asfortranarray,
    "one column": lambda frame: frame[:, 5:6],
    "one row repeated": lambda frame: np.broadcast_to(frame[:1], frame.shape),
    "read only": lambda frame: np.frombuffer(frame.tobytes(), np.uint8).reshape(frame.shape),
}
COLOR_VIEWS = {
    "channels swapped": lambda frame: frame[:, :, ::-1],
    "of four channels": lambda frame: np.dstack([frame, frame[:, :, :1]])[:, :, :3],
    "planar": lambda frame: np.ascontiguousarray(frame.transpose(2, 0, 1)).transpose(1, 2, 0),
}


@pytest.mark.parametrize("spec", [GRAY, LEVELS], ids=["gray model", "color model"])
@pytest.mark.parametrize("view", [*VIEWS, *COLOR_VIEWS])
def test_any_strides_give_what_a_contiguous_copy_gives(view: str, spec: PreprocessSpec) -> None:
    preprocessor = Preprocessor(spec)
    if view in VIEWS:
        gray = VIEWS[view](FRAME[:, :, 1])
        np.testing.assert_array_equal(preprocessor(gray), preprocessor(gray.copy("C")))
    color = (VIEWS | COLOR_VIEWS)[view](FRAME)
    np.testing.assert_array_equal(preprocessor(color), preprocessor(color.copy("C")))


@pytest.mark.parametrize("spec", [GRAY, LEVELS], ids=["gray model", "color model"])
def test_bgr_is_rgb_with_its_channels_in_the_other_order(spec: PreprocessSpec) -> None:
    preprocessor = Preprocessor(spec)
    swapped = np.ascontiguousarray(FRAME[:, :, ::-1])
    np.testing.assert_array_equal(preprocessor(swapped, color="bgr"), preprocessor(FRAME))
    np.testing.assert_array_equal(preprocessor(FRAME[:, :, ::-1], color="bgr"), preprocessor(FRAME))


def test_channels_come_out_in_the_order_red_green_blue() -> None:
    frame = np.full((9, 9, 3), (10, 20, 30), np.uint8)
    found = Preprocessor(LEVELS)(frame)
    assert [int(channel[112, 112]) for channel in found[0]] == [10, 20, 30]


@pytest.mark.parametrize("color", ["rgb", "bgr", "gray"])
def test_two_dimensions_are_gray_whatever_color_says(color: str) -> None:
    preprocessor = Preprocessor(LEVELS)
    np.testing.assert_array_equal(
        preprocessor(FRAME[:, :, 0], color=color),  # type: ignore[arg-type]
        preprocessor(np.repeat(FRAME[:, :, :1], 3, axis=2)),
    )


@pytest.mark.parametrize("region", [Region(20, 30, 200, 150), (0, 0, 410, 300), [409, 299, 1, 1]])
def test_a_region_is_pillows_crop(region: Region) -> None:
    x, y, width, height = region
    crop = Image.fromarray(FRAME).crop((x, y, x + width, y + height))
    side = max(width, height)
    square = Image.new("RGB", (side, side))
    square.paste(crop, ((side - width) // 2, (side - height) // 2))
    expected = np.asarray(square.resize((224, 224), Image.Resampling.BICUBIC)).astype(int)
    found = Preprocessor(LEVELS)(FRAME, region=region)[0].transpose(1, 2, 0)
    assert np.abs(found - expected).max() <= 2


def test_padding_is_zeros_around_the_middle_of_the_square() -> None:
    found = Preprocessor(PreprocessSpec(size=16, color="gray", mean=0, std=1, dtype="uint8"))(
        np.full((3, 16), 255, np.uint8)
    )
    # (16 - 3) // 2 = 6 rows above; at a scale of 1 nothing is blended.
    expected = np.zeros((16, 16), np.uint8)
    expected[6:9] = 255
    np.testing.assert_array_equal(found[0, 0], expected)


def test_a_slice_of_a_batch_is_written_in_place_and_nothing_beside_it() -> None:
    preprocessor = Preprocessor(PreprocessSpec())
    batch = np.full((3, 3, 224, 224), 7.0, np.float32)
    returned = preprocessor(FRAME, out=batch[1:2])
    assert np.shares_memory(returned, batch)
    np.testing.assert_array_equal(batch[1:2], preprocessor(FRAME))
    assert (batch[0] == 7).all()
    assert (batch[2] == 7).all()


def test_a_used_buffer_holds_nothing_of_the_frame_before() -> None:
    preprocessor = Preprocessor(GRAY)
    out = np.empty(GRAY.shape, np.uint8)
    preprocessor(np.full((300, 300), 255, np.uint8), out=out)
    preprocessor(np.zeros((40, 400), np.uint8), out=out)
    assert not out.any()


def test_threads_share_a_preprocessor_and_more_geometries_than_it_keeps() -> None:
    preprocessor = Preprocessor(PreprocessSpec(size=64))
    frames = [FRAME[: 20 + 9 * i, : 300 - 11 * i] for i in range(16)]
    expected = [Preprocessor(PreprocessSpec(size=64))(frame) for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(preprocessor, frames * 8))
    for index, values in enumerate(found):
        np.testing.assert_array_equal(values, expected[index % len(frames)])


def test_gil_is_released_while_a_frame_is_worked_on() -> None:
    preprocessor = Preprocessor(PreprocessSpec())
    frame = np.zeros((4096, 4096, 3), np.uint8)
    steps: list[str] = []

    def work() -> None:
        steps.append("started")
        preprocessor(frame)
        steps.append("done")

    def seen_at_work() -> bool:
        steps.clear()
        worker = Thread(target=work)
        worker.start()
        while not steps:
            time.sleep(1e-4)
        seen = steps == ["started"]
        worker.join()
        return seen

    # With an endless switch interval a thread loses the GIL only where it gives it up itself.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        assert any(seen_at_work() for _ in range(50))
    finally:
        sys.setswitchinterval(interval)
