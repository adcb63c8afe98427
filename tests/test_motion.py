"""Motion and steady words in a film."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import fetalclip_edge as fe
from fetalclip_edge.demo import DEMO_CLIP
from fetalclip_edge.motion import MotionMeter, QualityWatch, speed_score
from fetalclip_edge.results import Frame, Quality, Result

from .moments import DARK, GOOD, result

Pixels = NDArray[np.uint8]
HEIGHT, WIDTH = 480, 640


def tissue(seed: int = 0) -> Pixels:
    """Structures of many sizes, larger than the screen."""
    rng = np.random.default_rng(seed)
    whole = np.zeros((HEIGHT, 2 * WIDTH), np.float32)
    for sigma in (4, 8, 16):
        layer = cv2.GaussianBlur(rng.normal(size=whole.shape).astype(np.float32), (0, 0), sigma)
        whole += layer / layer.std()
    return np.clip(100 + 30 * whole, 20, 255).astype(np.uint8)


def frame(image: Pixels, at_s: float, **options: object) -> Frame:
    return Frame(image, "gray", 0, round(at_s * 1e9), "test", at_s, **options)  # type: ignore[arg-type]


def speeds(offsets: list[float], *, rate: float = 30.0, seed: int = 0) -> list[float | None]:
    """Of a probe that looks at tissue from each of the offsets, in pixels."""
    whole, meter = tissue(seed), MotionMeter(live=False)
    return [
        meter.update(frame(whole[:, round(x) : round(x) + WIDTH], n / rate))
        for n, x in enumerate(offsets)
    ]


def last(offsets: list[float], rate: float = 30.0) -> float:
    found = speeds(offsets, rate=rate)[-1]
    assert found is not None
    return found


def test_the_first_tenth_of_a_second_has_none() -> None:
    found = speeds([0.0] * 6)
    assert found[:3] == [None] * 3
    assert all(speed is not None for speed in found[4:])


def test_a_probe_that_is_held_still_has_none_but_that_of_noise() -> None:
    assert last([7.0] * 6) == pytest.approx(0, abs=0.01)
    rng = np.random.default_rng(1)
    meter, picture = MotionMeter(live=False), tissue()[:, :WIDTH]
    noisy = [np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255) for _ in range(6)]
    found = [meter.update(frame(each.astype(np.uint8), n / 30)) for n, each in enumerate(noisy)]
    assert found[-1] is not None
    assert speed_score(found[-1]) > 0.9


def test_the_faster_it_moves_the_lower_the_score() -> None:
    # Pixels of 640 in a second, steadily
    found = [last([speed * n / 30 for n in range(6)]) for speed in (0, 20, 40, 80, 160, 320)]
    assert found == sorted(found)
    scores = [speed_score(speed) for speed in found]
    assert scores[0] == 1
    assert scores[-1] < 0.5


def test_it_hardly_depends_on_how_many_frames_a_second_come() -> None:
    by_rate = [last([60 * n / rate for n in range(8)], rate=rate) for rate in (5, 10, 30, 60)]
    assert max(by_rate) < 1.4 * min(by_rate)


def test_frames_too_far_apart_or_without_a_time_are_not_compared() -> None:
    assert speeds([0, 50, 100], rate=1.5) == [None] * 3
    meter = MotionMeter(live=False)
    untimed = replace(frame(tissue()[:, :WIDTH], 0.0), pts_s=None)
    assert [meter.update(untimed) for _ in range(3)] == [None] * 3
    # A device's own times are no clock, but that of its capture is.
    meter = MotionMeter(live=True)
    live = [replace(frame(tissue()[:, :WIDTH], n / 5), pts_s=None) for n in range(3)]
    assert [meter.update(each) is None for each in live] == [True, False, False]


def test_the_region_alone_counts() -> None:
    whole, meter = tissue(), MotionMeter(live=False)
    region = fe.Region(100, 100, 300, 300)
    found = None
    for n in range(6):
        screen = whole[:, 40 * n : 40 * n + WIDTH].copy()
        screen[100:400, 100:400] = whole[:300, :300]
        found = meter.update(frame(screen, n / 30, region=region))
    assert found == pytest.approx(0, abs=0.01)


def test_a_picture_without_structure_has_no_speed() -> None:
    meter = MotionMeter(live=False)
    black = np.zeros((HEIGHT, WIDTH), np.uint8)
    assert [meter.update(frame(black, n / 5)) for n in range(3)] == [None] * 3


def watched(qualities: list[Quality | None], hold_s: float) -> list[Result]:
    """A still film of ten frames a second."""
    watch, picture = QualityWatch(live=False, hold_s=hold_s), tissue()[:, :WIDTH]
    return [
        watch.update(result(quality=quality), frame(picture, n / 10))
        for n, quality in enumerate(qualities)
    ]


def reasons(qualities: list[Quality | None], hold_s: float) -> list[str | None]:
    return [
        None if answer.quality is None else answer.quality.reason
        for answer in watched(qualities, hold_s)
    ]


DIM = DARK.reason


def test_words_stay_until_others_have_held() -> None:
    flicker = [DARK, GOOD, DARK, GOOD, DARK, GOOD, GOOD, GOOD, GOOD]
    assert reasons([*flicker], 0.25) == [*[DIM] * 8, None]
    assert reasons([*flicker], 0.0) == [DIM, None, DIM, None, DIM, None, None, None, None]


def test_what_has_no_picture_begins_anew() -> None:
    assert reasons([DARK, None, GOOD, DARK], 1.0) == [DIM, None, None, None]


def test_motion_is_added_and_the_state_stays() -> None:
    answers = watched([replace(GOOD, motion=None)] * 3, 0.3)
    motions = [answer.quality.motion for answer in answers if answer.quality is not None]
    assert motions == [None, 1.0, 1.0]
    assert {str(answer.state) for answer in answers} == {"live"}


def test_a_stream_tells_it_and_single_pictures_have_no_motion(clip_images: list[Pixels]) -> None:
    with fe.stream(DEMO_CLIP) as live:
        found = [next(live) for _ in range(8)]
    assert found[0].quality is not None
    assert found[0].quality.motion is None
    assert found[-1].quality is not None
    assert found[-1].quality.motion is not None
    with fe.stream(clip_images[:8]) as pictures:
        assert all(one.quality and one.quality.motion is None for one in pictures)
