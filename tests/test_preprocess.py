"""Pixels: against Pillow's own pad, resize and grey conversion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from fetalclip_edge._native import instruction_sets
from fetalclip_edge.preprocess import Preprocessor, PreprocessSpec

Levels = NDArray[np.uint8]
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
GEOMETRIES = [(540, 800), (787, 1137), (333, 97), (97, 333), (224, 224), (31, 17), (1, 1), (1, 900)]


def pillow_levels(image: Image.Image, size: int, interpolation: str = "bicubic") -> Levels:
    """Pad to a square and resize, as FetalCLIP does: (size, size) or (size, size, 3)."""
    side = max(image.size)
    square = Image.new(image.mode, (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square.resize((size, size), FILTERS[interpolation]))


def gray_model(size: int = 224, interpolation: str = "bicubic", **options: str) -> Preprocessor:
    """Grey levels as they are, one channel."""
    spec = PreprocessSpec(size, "gray", 0.5, 0.25, interpolation, dtype="uint8")
    return Preprocessor(spec, **options)


def color_model(size: int = 224, interpolation: str = "bicubic", **options: str) -> Preprocessor:
    """Levels as they are, three channels."""
    return Preprocessor(PreprocessSpec(size, interpolation=interpolation, dtype="uint8"), **options)


def noise(height: int, width: int, channels: int | None = None, seed: int = 0) -> Levels:
    shape = (height, width) if channels is None else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def difference(levels: Levels, expected: Levels) -> NDArray[np.int16]:
    return np.abs(levels.astype(np.int16) - expected.astype(np.int16))


@pytest.mark.data
def test_every_native_image_is_within_a_level_of_pillow(data_root: Path) -> None:
    paths = sorted((data_root / "native").iterdir())
    assert len(paths) == 40
    gray, color = gray_model(), color_model()
    for path in paths:
        image = Image.open(path).convert("L")
        repeated = image.convert("RGB")
        from_gray = difference(gray(np.asarray(image))[0, 0], pillow_levels(image, 224))
        from_color = difference(
            color(np.asarray(repeated))[0].transpose(1, 2, 0), pillow_levels(repeated, 224)
        )
        for found in (from_gray, from_color):
            assert found.max() <= 1, path.name
            assert found.mean() <= 0.05, path.name


@pytest.mark.data
def test_gray_and_its_repetition_in_color_give_the_same_input(data_root: Path) -> None:
    preprocessor = Preprocessor(PreprocessSpec())
    for path in sorted((data_root / "native").iterdir())[::8]:
        gray = np.asarray(Image.open(path).convert("L"))
        color = np.repeat(gray[:, :, None], 3, axis=2)
        np.testing.assert_array_equal(preprocessor(gray), preprocessor(color))
        np.testing.assert_array_equal(gray_model()(gray), gray_model()(color))


@settings(max_examples=40)
@given(st.integers(1, 4096), st.integers(1, 4096), st.sampled_from([1, 3]), st.integers(0, 99))
@example(4096, 4096, 3, 0)
@example(1, 4096, 1, 0)
@example(4096, 1, 3, 0)
def test_noise_of_any_size_is_within_two_levels_of_pillow(
    height: int, width: int, channels: int, seed: int
) -> None:
    frame = noise(height, width, None if channels == 1 else 3, seed)
    model = gray_model() if channels == 1 else color_model()
    found = model(frame)[0].transpose(1, 2, 0).squeeze()
    off = difference(found, pillow_levels(Image.fromarray(frame), 224))
    assert off.max() <= 2
    assert off.mean() <= 0.05


@settings(max_examples=60)
@given(
    st.integers(1, 300), st.integers(1, 300), st.integers(1, 400), st.sampled_from(sorted(FILTERS))
)
def test_every_output_size_and_filter_is_within_two_levels_of_pillow(
    height: int, width: int, size: int, interpolation: str
) -> None:
    frame = noise(height, width)
    found = gray_model(size, interpolation)(frame)[0, 0]
    expected = pillow_levels(Image.fromarray(frame), size, interpolation)
    assert difference(found, expected).max() <= 2


@pytest.mark.parametrize("level", [0, 1, 127, 254, 255])
def test_a_flat_square_stays_exactly_flat(level: int) -> None:
    for side in (1, 37, 224, 1000):
        found = gray_model()(np.full((side, side), level, np.uint8))
        assert (found == level).all()


@pytest.mark.parametrize(("height", "width"), GEOMETRIES)
def test_color_for_a_gray_model_is_converted_first_as_pillow_does(height: int, width: int) -> None:
    frame = noise(height, width, 3)
    expected = pillow_levels(Image.fromarray(frame).convert("L"), 224)
    found = gray_model()(frame)[0, 0]
    assert difference(found, expected).max() <= 2


def test_luma_is_pillows_to_the_bit_for_all_shades_of_a_channel_pair() -> None:
    a, b = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    for frame in (np.dstack([a, b, a ^ b]), np.dstack([b, a, a]), np.dstack([a, a, b])):
        expected = np.asarray(Image.fromarray(frame).convert("L"))
        for instruction_set in instruction_sets():
            model = gray_model(256, instruction_set=instruction_set)
            np.testing.assert_array_equal(model(frame)[0, 0], expected)
            np.testing.assert_array_equal(model(frame[:, :, ::-1], color="bgr")[0, 0], expected)


def test_best_instruction_set_is_the_default_and_a_portable_one_is_always_there() -> None:
    assert instruction_sets()[0] == "portable"
    assert gray_model()._resampler.instruction_set == instruction_sets()[-1]


@pytest.mark.parametrize("interpolation", sorted(FILTERS))
@pytest.mark.parametrize(("height", "width"), GEOMETRIES)
def test_all_instruction_sets_give_the_same_bits(
    height: int, width: int, interpolation: str
) -> None:
    frame = noise(height, width, 3)
    for frame_like in (frame, np.ascontiguousarray(frame[:, :, 0])):
        for spec in (
            PreprocessSpec(224, interpolation=interpolation),
            PreprocessSpec(97, "gray", 0.4, 0.3, interpolation, dtype="float16"),
        ):
            inputs = [
                Preprocessor(spec, instruction_set=name)(frame_like).tobytes()
                for name in instruction_sets()
            ]
            assert inputs == inputs[:1] * len(inputs)
