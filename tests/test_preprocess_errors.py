"""Bad input: ValueError or TypeError that names the argument and what was given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fetalclip_edge.errors import InvalidImageError, InvalidImageTypeError
from fetalclip_edge.preprocess import Preprocessor, PreprocessSpec, preprocess

FRAME = np.zeros((20, 30, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (np.zeros((0, 30), np.uint8), r"image is empty.*\(0, 30\)"),
        (np.zeros((20, 0, 3), np.uint8), r"image is empty.*\(20, 0, 3\)"),
        (np.zeros(20, np.uint8), r"image must be \(H, W\) or \(H, W, 3\), got \(20,\)"),
        (np.zeros((20, 30, 4), np.uint8), r"image must be .* got \(20, 30, 4\)"),
        (np.zeros((20, 30, 1), np.uint8), r"image .* passed as \(H, W\), got \(20, 30, 1\)"),
        (np.zeros((1, 20, 30, 3), np.uint8), r"image must be .* got \(1, 20, 30, 3\)"),
        (np.zeros((), np.uint8), r"image must be .* got \(\)"),
        (np.zeros((1, 32768), np.uint8), r"image sides must be at most 32767, got \(1, 32768\)"),
    ],
)
def test_an_image_of_a_bad_shape_is_a_value_error(image: Any, told: str) -> None:
    with pytest.raises(InvalidImageError, match=told) as caught:
        preprocess(image)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (FRAME.astype(np.float32), "image must be uint8, got float32"),
        (FRAME.astype(np.int8), "image must be uint8, got int8"),
        (FRAME.astype(np.uint16), "image must be uint8, got uint16"),
        (FRAME.astype(bool), "image must be uint8, got bool"),
        (FRAME.tolist(), "image must be a numpy array of uint8, got list"),
        ("frame.png", "image must be a numpy array of uint8, got str"),
        (None, "image must be a numpy array of uint8, got NoneType"),
    ],
)
def test_an_image_of_a_bad_type_is_a_type_error(image: Any, told: str) -> None:
    with pytest.raises(InvalidImageTypeError, match=told) as caught:
        preprocess(image)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("color", ["RGB", "grey", "", None, 3])
def test_an_unknown_color_order_is_told(color: Any) -> None:
    with pytest.raises(InvalidImageError, match=f'color must be "rgb".*got {color!r}'):
        preprocess(FRAME, color=color)


def test_three_channels_called_gray_are_told() -> None:
    with pytest.raises(InvalidImageError, match='color is "gray" but image has three channels'):
        preprocess(FRAME, color="gray")


@pytest.mark.parametrize(
    "region",
    [(0, 0, 31, 20), (-1, 0, 5, 5), (0, 16, 5, 5), (0, 0, 0, 5), (0, 0, 5, -5), (2**70, 0, 1, 1)],
)
def test_a_region_that_is_not_in_the_frame_is_told(region: Any) -> None:
    with pytest.raises(InvalidImageError, match="region must"):
        Preprocessor(PreprocessSpec())(FRAME, region=region)


def test_a_region_outside_names_the_frame_and_the_region() -> None:
    with pytest.raises(InvalidImageError, match=r"30 wide and 20 high, got \(25, 0, 6, 20\)"):
        Preprocessor(PreprocessSpec())(FRAME, region=(25, 0, 6, 20))


@pytest.mark.parametrize("region", [(0, 0, 5), (0, 0, 5.0, 5), "0055", 7, (0, 0, None, 5), {1, 2}])
def test_a_region_that_is_not_four_integers_is_told(region: Any) -> None:
    with pytest.raises(InvalidImageTypeError, match="region must be four integers"):
        Preprocessor(PreprocessSpec())(FRAME, region=region)


@pytest.mark.parametrize(
    ("out", "told"),
    [
        (np.empty((3, 224, 224), np.float32), r"out must have the shape .* got \(3, 224, 224\)"),
        (np.empty((1, 1, 224, 224), np.float32), r"out must have the shape \(1, 3, 224, 224\)"),
        (np.empty((1, 3, 224, 448), np.float32)[..., ::2], "out must be C-contiguous"),
        (np.frombuffer(bytes(602112), np.float32).reshape(1, 3, 224, 224), "writeable"),
        (
            np.zeros(602113, np.uint8)[1:].view(np.float32).reshape(1, 3, 224, 224),
            "out must be .* aligned",
        ),
    ],
)
def test_an_out_that_does_not_fit_is_a_value_error(out: Any, told: str) -> None:
    with pytest.raises(InvalidImageError, match=told):
        Preprocessor(PreprocessSpec())(FRAME, out=out)


@pytest.mark.parametrize("out", [np.empty((1, 3, 224, 224)), np.empty((1, 3, 224, 224), ">f4"), []])
def test_an_out_of_another_type_is_a_type_error(out: Any) -> None:
    with pytest.raises(InvalidImageTypeError, match="out must be"):
        Preprocessor(PreprocessSpec())(FRAME, out=out)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"std": 0.0}, "std must be above zero, got"),
        ({"std": (0.2, 0.0, 0.2)}, "std must be above zero, got"),
        ({"std": (0.2, -0.1, 0.2)}, "std must be above zero, got"),
        ({"std": float("nan")}, "std must be finite, got"),
        ({"std": (0.2, float("nan"), 0.2)}, "std must be finite, got"),
        ({"std": float("inf")}, "std must be finite, got"),
        ({"mean": float("nan")}, "mean must be finite, got"),
        ({"mean": (0.1, 0.2)}, r"mean must have 3 values, got \(0.1, 0.2\)"),
        ({"mean": ()}, r"mean must have 3 values, got \(\)"),
        ({"size": 0}, "size must be 1 to 8192, got 0"),
        ({"size": -224}, "size must be 1 to 8192, got -224"),
        ({"size": 8193}, "size must be 1 to 8192, got 8193"),
    ],
)
def test_a_bad_number_is_a_value_error(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidImageError, match=told):
        preprocess(FRAME, **arguments)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"size": 224.0}, "size must be an int, got 224.0"),
        ({"size": "224"}, "size must be an int, got '224'"),
        ({"mean": "0.5"}, "mean must be a number or 3 of them, got '0.5'"),
        ({"mean": None}, "mean must be a number or 3 of them, got None"),
        ({"std": ("a", "b", "c")}, "std must hold numbers"),
        ({"std": True}, "std must be a number"),
    ],
)
def test_a_number_of_a_bad_type_is_a_type_error(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidImageTypeError, match=told):
        preprocess(FRAME, **arguments)


def test_an_unknown_instruction_set_is_told() -> None:
    with pytest.raises(ValueError, match=r"instruction_set .* got mmx"):
        Preprocessor(PreprocessSpec(), instruction_set="mmx")


def test_a_checkout_that_is_not_installed_says_what_to_run(repository: Path) -> None:
    program = (
        "import sys, types\n"
        "package = types.ModuleType('fetalclip_edge')\n"
        f"package.__path__ = [{str(repository / 'fetalclip_edge')!r}]\n"
        "sys.modules.update({'fetalclip_edge': package, 'fetalclip_edge._native': None})\n"
        "import fetalclip_edge.preprocess\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "ImportError: fetalclip_edge._native" in ended.stderr
    assert "pip install -e ." in ended.stderr
