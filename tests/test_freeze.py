from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fetalclip_edge.freeze import FreezeDetector
from fetalclip_edge.results import Frame, Region

GENERATOR = np.random.default_rng(7)
SPECKLE = GENERATOR.integers(0, 255, (120, 160), dtype=np.uint8)


def frame(
    image: NDArray[np.uint8],
    pts_s: float | None,
    *,
    captured_s: float = 0.0,
    region: Region | None = None,
) -> Frame:
    color = "gray" if image.ndim == 2 else "rgb"
    return Frame(image, color, 0, round(captured_s * 1e9), "test", pts_s, region)  # type: ignore[arg-type]


def states(frames: list[Frame], hold_s: float = 0.5, *, live: bool = False) -> list[bool]:
    detector = FreezeDetector(live=live, hold_s=hold_s)
    return [detector.update(each) for each in frames]


def test_the_shipped_clip_is_live_until_it_is_frozen(clip_images: list[NDArray[np.uint8]]) -> None:
    # Given the clip, whose last frames are one picture: frames 255 to 299, at 30 a second.
    assert all(np.array_equal(image, clip_images[255]) for image in clip_images[255:])
    assert not np.array_equal(clip_images[254], clip_images[255])
    found = states([frame(image, index / 30) for index, image in enumerate(clip_images)])
    # Then it is frozen half a second after the freeze key, and at no time before.
    assert not any(found[:269])
    assert all(found[271:])


def test_a_still_picture_is_frozen_after_the_hold_time() -> None:
    frames = [frame(SPECKLE, index / 4) for index in range(5)]
    assert states(frames) == [False, False, True, True, True]
    assert states(frames, hold_s=0.75) == [False, False, False, True, True]


def test_a_picture_like_the_one_before_it_is_a_repetition_at_once() -> None:
    other = GENERATOR.integers(0, 255, SPECKLE.shape, dtype=np.uint8)
    detector, repeated = FreezeDetector(live=False), []
    for index, image in enumerate((SPECKLE, SPECKLE, other, other, SPECKLE)):
        assert not detector.update(frame(image, index / 30))
        repeated.append(detector.repeated)
    assert repeated == [False, True, False, True, False]


def test_frames_without_a_time_of_their_own_go_by_the_clock() -> None:
    frames = [frame(SPECKLE, None, captured_s=100 + index / 4) for index in range(4)]
    assert states(frames) == [False, False, True, True]


def test_a_change_ends_it_and_the_hold_begins_anew() -> None:
    other = GENERATOR.integers(0, 255, SPECKLE.shape, dtype=np.uint8)
    images = [SPECKLE] * 3 + [other] * 3
    frames = [frame(image, index / 4) for index, image in enumerate(images)]
    assert states(frames) == [False, False, True, False, False, True]


def test_speckle_that_moves_by_a_grey_level_is_live() -> None:
    base = np.clip(SPECKLE, 2, 253)
    images = [(base + (index % 2)).astype(np.uint8) for index in range(6)]
    assert not any(states([frame(image, float(index)) for index, image in enumerate(images)]))


def test_noise_of_a_codec_around_a_still_picture_is_frozen() -> None:
    images = [SPECKLE.copy() for _ in range(4)]
    for index, image in enumerate(images):
        image[index, :] ^= 1  # one line in 120 by one level
    found = states([frame(image, float(index)) for index, image in enumerate(images)])
    assert found == [False, True, True, True]


def test_another_shape_is_another_picture() -> None:
    frames = [frame(SPECKLE, 0.0), frame(SPECKLE[:60], 1.0), frame(SPECKLE[:60], 2.0)]
    assert states(frames) == [False, False, True]


@pytest.mark.parametrize("channels", [None, 3])
def test_only_the_region_counts(channels: int | None) -> None:
    # Given a large screen with a small ultrasound picture and a running clock beside it.
    def screen(picture: NDArray[np.uint8], clock: int) -> NDArray[np.uint8]:
        image = np.zeros((480, 640), dtype=np.uint8)
        image[100:220, 100:260] = picture
        image[:80, :] = clock
        return image if channels is None else np.dstack([image] * channels)

    region = Region(100, 100, 160, 120)
    moved = (np.clip(SPECKLE, 2, 253) + 1).astype(np.uint8)
    frozen = [frame(screen(SPECKLE, 40 * i), float(i), region=region) for i in range(3)]
    live = [frame(screen((SPECKLE, moved)[i % 2], 0), float(i), region=region) for i in range(3)]
    assert states(frozen) == [False, True, True]
    assert states(live) == [False, False, False]


def test_a_small_picture_on_a_black_screen_is_live_while_it_moves() -> None:
    # Given a full screen, unmarked by a region, with ultrasound on a fiftieth of it.
    def screen(step: int) -> NDArray[np.uint8]:
        image = np.zeros((960, 1000), dtype=np.uint8)
        image[:120, :160] = np.clip(SPECKLE, 12, 253) + step
        return image

    frames = [frame(screen(index % 2), float(index)) for index in range(6)]
    assert not any(states(frames))


def test_presentation_times_of_a_device_are_no_clock() -> None:
    # Given a still picture for two seconds, whose server began to count anew at each frame
    frames = [frame(SPECKLE, 0.0, captured_s=100 + index / 2) for index in range(5)]
    assert states(frames, live=True) == [False, True, True, True, True]


def test_times_that_go_back_begin_anew() -> None:
    times = (0.0, 1.0, 0.2, 0.4, 0.8)
    assert states([frame(SPECKLE, time) for time in times]) == [False, True, False, False, True]


def test_a_frame_without_a_time_among_timed_ones_does_not_freeze() -> None:
    frames = [frame(SPECKLE, 0.0), frame(SPECKLE, None, captured_s=1000.0), frame(SPECKLE, 0.1)]
    assert states(frames) == [False, False, False]
