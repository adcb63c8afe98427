"""What a specification may say, how its numbers are applied, and the contract function."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fetalclip_edge.errors import BundleError
from fetalclip_edge.preprocess import CLIP_MEAN, CLIP_STD, Preprocessor, PreprocessSpec, preprocess

# At a size of 16 this is not resized at all, so every grey level is known.
ALL_LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16)


def normalised(mean: float, std: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    return (np.arange(256).reshape(16, 16) / 255 - mean) / std


def test_float32_is_level_by_255_minus_mean_by_std_for_each_channel() -> None:
    found = Preprocessor(PreprocessSpec(size=16))(ALL_LEVELS)
    assert found.dtype == np.float32
    assert found.shape == (1, 3, 16, 16)
    for channel, mean, std in zip(found[0], CLIP_MEAN, CLIP_STD, strict=True):
        np.testing.assert_allclose(channel, normalised(mean, std), rtol=0, atol=5e-7)


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.25), (0.0, 1e-5), (0.3, 1e4), (0.0, 2e6)])
def test_float16_is_what_numpy_rounds_to_with_infinity_and_subnormals(
    mean: float, std: float
) -> None:
    spec = PreprocessSpec(16, "gray", (mean,), (std,), dtype="float16")
    with np.errstate(over="ignore"):
        expected = normalised(mean, std).astype(np.float16)
    np.testing.assert_array_equal(Preprocessor(spec)(ALL_LEVELS)[0, 0], expected)


def test_uint8_is_the_grey_levels_whatever_mean_and_std_are() -> None:
    spec = PreprocessSpec(16, "gray", 0.9, 0.1, dtype="uint8")
    np.testing.assert_array_equal(Preprocessor(spec)(ALL_LEVELS)[0, 0], ALL_LEVELS)


def test_contract_function_is_the_pillow_pipeline_within_a_level() -> None:
    frame = np.random.default_rng(3).integers(0, 256, (540, 800, 3), dtype=np.uint8)
    square = Image.new("RGB", (800, 800))
    square.paste(Image.fromarray(frame), (0, 130))
    levels = np.asarray(square.resize((224, 224), Image.Resampling.BICUBIC), np.float32)
    expected = ((levels / 255 - CLIP_MEAN) / CLIP_STD).transpose(2, 0, 1)[None]
    for found in (
        preprocess(frame),
        preprocess(frame[:, :, ::-1], color="bgr"),
        preprocess(frame, 224, list(CLIP_MEAN), np.array(CLIP_STD)),
    ):
        assert found.dtype == np.float32
        assert found.shape == (1, 3, 224, 224)
        assert np.abs(found - expected).max() <= 1.01 / 255 / min(CLIP_STD)


def test_one_number_stands_for_all_channels() -> None:
    found = preprocess(ALL_LEVELS, 16, mean=0.5, std=0.25)
    for channel in found[0]:
        np.testing.assert_allclose(channel, normalised(0.5, 0.25), rtol=0, atol=5e-7)
    assert PreprocessSpec(mean=0.5, std=1).mean == (0.5, 0.5, 0.5)


def test_contract_function_gives_a_new_array_each_time() -> None:
    first = preprocess(ALL_LEVELS)
    kept = first.copy()
    assert not np.shares_memory(first, preprocess(255 - ALL_LEVELS))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    "spec",
    [PreprocessSpec(), PreprocessSpec(256, "gray", 0.1, 0.2, "bilinear", dtype="uint8")],
)
def test_a_specification_survives_the_manifest(spec: PreprocessSpec) -> None:
    assert PreprocessSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sharpen": 1}, "sharpen"),
        ({"size": 0}, "size"),
        ({"size": 224.0}, "size"),
        ({"size": True}, "size"),
        ({"color": "bgr"}, "color"),
        ({"padding": "none"}, "padding"),
        ({"interpolation": "nearest"}, "interpolation"),
        ({"dtype": "int8"}, "dtype"),
        ({"dtype": ["uint8"]}, "dtype"),
        ({"mean": "0.5"}, "mean"),
        ({"mean": [0.5, 0.5]}, "mean"),
        ({"std": [0.5, None, 0.5]}, "std"),
        ({"std": None}, "std"),
    ],
)
def test_a_manifest_with_a_bad_value_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(BundleError, match=named):
        PreprocessSpec.from_dict(PreprocessSpec().to_dict() | change)


@pytest.mark.parametrize("missing", sorted(PreprocessSpec().to_dict()))
def test_a_manifest_that_leaves_something_out_is_refused_by_name(missing: str) -> None:
    values = PreprocessSpec().to_dict()
    del values[missing]
    with pytest.raises(BundleError, match=f"lacks {missing}"):
        PreprocessSpec.from_dict(values)


def test_a_manifest_without_an_object_is_refused() -> None:
    with pytest.raises(BundleError, match="must be an object"):
        PreprocessSpec.from_dict([224])  # type: ignore[arg-type]
