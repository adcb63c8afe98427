"""What is masked is not seen by the model, nor shown or kept."""

from __future__ import annotations

import weakref
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import fetalclip_edge as fe
from fetalclip_edge.errors import InvalidImageError
from fetalclip_edge.freeze import FreezeDetector
from fetalclip_edge.masking import InputMask, visible
from fetalclip_edge.preprocess import Preprocessor, PreprocessSpec
from fetalclip_edge.results import Frame, Region

from .sectors.pictures import fan, tissue_in, with_screen

Pixels = NDArray[np.uint8]
REGION = Region(40, 20, 300, 200)

SPECS = [
    PreprocessSpec(size=100, color="gray", mean=(0.5,), std=(0.25,), dtype="uint8"),
    PreprocessSpec(size=100, color="gray", mean=(0.5,), std=(0.25,), dtype="float16"),
    PreprocessSpec(size=100),
]


def picture() -> Pixels:
    """Smooth, so that resizing hardly matters."""
    y, x = np.mgrid[:240, :400]
    return (60 + x / 4 + y / 4).astype(np.uint8)


def mask() -> Pixels:
    shown = np.full((240, 400), 255, np.uint8)
    shown[:, 200:] = 0
    return shown


def frame_of(image: Pixels, **values: object) -> Frame:
    return Frame(image, "gray", 0, 0, "test", **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", SPECS, ids=["uint8", "float16", "rgb"])
@pytest.mark.parametrize("region", [None, REGION])
def test_blanking_the_input_is_as_blanking_the_frame(
    spec: PreprocessSpec, region: Region | None
) -> None:
    # Given a frame that was blanked before, and one that is blanked at the model's size
    make = Preprocessor(spec)
    blanked = np.where(mask() > 0, picture(), 0).astype(np.uint8)
    expected = make(blanked, color="gray", region=region)
    inputs = make(picture(), color="gray", region=region)
    # When
    InputMask(spec)(inputs, mask(), region)
    # Then they agree but for the few columns at the edge, which resizing blurs
    apart = np.abs(inputs.astype(float) - expected).max(axis=(0, 1, 2))
    assert np.count_nonzero(apart > 0.02 * np.ptp(expected.astype(float))) <= 6
    assert (inputs[0, :, 50, -1] == expected[0, :, 50, -1]).all()


def test_the_mask_of_another_frame_is_another_mask() -> None:
    spec = SPECS[0]
    blank, make = InputMask(spec), Preprocessor(spec)
    first, second = make(picture(), color="gray"), make(picture(), color="gray")
    blank(first, mask(), None)
    blank(second, 255 - mask(), None)
    assert first[0, 0, 50, 10] > 0
    assert first[0, 0, 50, 90] == 0
    assert second[0, 0, 50, 10] == 0
    assert second[0, 0, 50, 90] > 0


def test_streams_that_share_a_model_keep_their_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given two streams in turn, each with a mask of its own
    spec, made = SPECS[0], []
    blank, make = InputMask(spec), InputMask._blank

    def counted(self: InputMask, *arguments: Any) -> NDArray[np.bool_]:
        made.append(arguments)
        return make(self, *arguments)

    monkeypatch.setattr(InputMask, "_blank", counted)
    masks = [mask(), 255 - mask()]
    # When they are answered for
    for number in range(10):
        inputs = Preprocessor(spec)(picture(), color="gray")
        blank(inputs, masks[number % 2], None)
        assert (inputs[0, 0, 50, 10] == 0) == (number % 2 == 1)
    # Then each mask was made once
    assert len(made) == 2
    # And one that nobody holds is let go of
    gone = weakref.ref(masks[0])
    del masks, made[:]
    assert gone() is None


@pytest.mark.parametrize("level", [0, 90])
def test_what_is_masked_does_not_hide_that_there_is_no_signal(level: int) -> None:
    # Given a screen without a picture, on which a name is written where the mask is
    image = np.full((240, 400), level, np.uint8)
    for line in range(20, 240, 20):
        cv2.putText(image, "PATIENT A.", (250, line), 0, 0.5, 230, 1, cv2.LINE_AA)
    model = fe.load()
    assert model.analyze_frame(frame_of(image)).state == "out_of_domain"
    assert model.analyze_frame(frame_of(image, mask=mask())).state == "no_signal"
    assert model.analyze_frame(frame_of(image, mask=mask(), region=REGION)).state == "no_signal"


def test_what_is_visible_of_a_frame() -> None:
    frame = frame_of(picture(), region=REGION, mask=mask())
    seen = visible(frame)
    assert seen.shape == (200, 300)
    np.testing.assert_array_equal(seen[:, :160], picture()[20:220, 40:200])
    assert not seen[:, 160:].any()
    np.testing.assert_array_equal(visible(frame, 8), seen[::8])
    colour = frame_of(np.dstack([picture()] * 3), mask=mask())
    assert not visible(colour)[:, 200:].any()
    assert visible(colour)[:, :200].all()


def test_without_a_mask_nothing_is_copied() -> None:
    image = picture()
    assert np.shares_memory(visible(frame_of(image, region=REGION)), image)


def test_the_model_does_not_see_what_is_masked() -> None:
    # Given ultrasound alone, and with a screen around it
    model = fe.load()
    alone = tissue_in(fan())
    written, _ = with_screen(alone)
    # When both are masked to the ultrasound, and when they are not
    masked = [
        model.analyze_frame(frame_of(each, mask=fan())).embedding for each in (alone, written)
    ]
    plain = [model.analyze_frame(frame_of(each)).embedding for each in (alone, written)]
    # Then the screen changes nothing but where it is not masked
    assert masked[0] @ masked[1] > 0.9999
    assert plain[0] @ plain[1] < 0.99


def test_a_mask_of_another_size_is_refused() -> None:
    frame = frame_of(picture(), mask=np.zeros((3, 3), np.uint8))
    with pytest.raises(InvalidImageError, match=r"mask must be as large .* not \(3, 3\)"):
        fe.load().analyze_frame(frame)


def test_a_clock_that_is_masked_does_not_hide_a_freeze() -> None:
    detector = FreezeDetector(live=False)
    still = []
    for number in range(40):
        image = picture()
        image[:, 200:] = np.random.default_rng(number).integers(0, 255, (240, 200))
        still.append(detector.update(frame_of(image, mask=mask(), pts_s=number / 30)))
    assert still[-1]


def test_captured_pictures_are_masked() -> None:
    from .live_model import LiveModel

    checklist = fe.Checklist(live=False)
    frame = frame_of(picture(), mask=mask())
    result = LiveModel().analyze_frame(frame)
    [kept] = checklist.capture(result, frame)
    assert not kept.image[:, 200:].any()
    assert kept.image[:, :200].all()
