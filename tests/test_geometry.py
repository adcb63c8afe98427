"""A film whose pictures change their size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import fetalclip_edge as fe
from fetalclip_edge.results import Frame, PlaneScores, Region, Result, StreamState
from fetalclip_edge.sinks import CallbackSink
from fetalclip_edge.sources import IterableSource

from .live_model import Asked

SMALL, LARGE = (24, 32), (48, 64)
REGION = Region(2, 3, 20, 15)


class Timed(IterableSource):
    """A recording, thirty pictures a second."""

    def read(self) -> Frame | None:
        frame = super().read()
        return None if frame is None else replace(frame, pts_s=frame.index / 30)


def film(*sizes: tuple[int, int]) -> IterableSource:
    noise = np.random.default_rng(0)

    def pictures() -> Iterator[np.ndarray]:
        for size in sizes:
            yield noise.integers(0, 256, size, np.uint8)

    return Timed(pictures())


def answers(*sizes: tuple[int, int], **options: Any) -> tuple[list[Result], list[Frame]]:
    model = Asked()
    with fe.stream(film(*sizes), model=model, **options) as live:  # type: ignore[arg-type]
        return list(live), model.frames


def test_pictures_of_any_size_are_answered_when_no_layout_was_given() -> None:
    results, frames = answers(SMALL, LARGE, SMALL)
    assert [result.state for result in results] == [StreamState.LIVE] * 3
    assert [frame.image.shape for frame in frames] == [SMALL, LARGE, SMALL]
    assert {result.epoch for result in results} == {0}


def test_a_region_is_cut_out_of_pictures_of_the_first_size_alone() -> None:
    results, frames = answers(SMALL, LARGE, SMALL, region=REGION, pixel_size_mm=0.2)
    assert [str(result.state) for result in results] == ["live", "no_signal", "live"]
    assert (
        results[1].reason == "the picture is 64x48 now, and the region was given for one of 32x24"
    )
    assert (results[1].embedding.size, results[1].frame_index) == (0, 1)
    assert [(frame.region, frame.pixel_size_mm) for frame in frames] == [(REGION, 0.2)] * 2


def test_a_picture_that_the_region_does_not_fit_goes_to_nobody() -> None:
    # Given a scanner that shows a list of patients, at another resolution, for a while
    seen: list[tuple[str, bool]] = []
    sink = CallbackSink(lambda result, frame: seen.append((str(result.state), frame is None)))
    with fe.stream(
        film(SMALL, LARGE, SMALL),
        model=Asked(),
        region=REGION,
        sinks=[sink],  # type: ignore[arg-type]
    ) as live:
        shown = [(str(result.state), live.frame is None) for result in live]
    # Then neither the page nor a video gets it
    expected = [("live", False), ("no_signal", True), ("live", False)]
    assert shown == expected
    assert seen == expected


def test_a_scale_is_left_out_when_the_size_is_another_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    results, frames = answers(SMALL, LARGE, LARGE, SMALL, pixel_size_mm=0.2)
    assert [str(result.state) for result in results] == ["live"] * 4
    assert [frame.pixel_size_mm for frame in frames] == [0.2, None, None, 0.2]
    assert caplog.text.count("the pixel size was given for one of 32x24; it is not used") == 1


def test_pictures_of_their_own_may_differ_in_size() -> None:
    source = [np.zeros(SMALL, np.uint8), np.zeros(LARGE, np.uint8)]
    model = Asked()
    with fe.stream(source, model=model, pixel_size_mm=0.2, region=REGION) as live:  # type: ignore[arg-type]
        assert [str(result.state) for result in live] == ["live", "live"]
    assert [(frame.region, frame.pixel_size_mm) for frame in model.frames] == [(REGION, 0.2)] * 2


def test_answers_are_not_averaged_over_a_change_of_size() -> None:
    class Moody(Asked):
        def analyze_frame(self, frame: Frame) -> Result:
            brain = float(frame.image.shape == SMALL)
            scores = {"brain": brain, "femur": 1 - brain, "other": 0.0}
            plane = PlaneScores("x", 1, scores)
            return replace(super().analyze_frame(frame), plane=plane, domain_distance=0.5)

    with fe.stream(film(SMALL, SMALL, LARGE), model=Moody()) as live:  # type: ignore[arg-type]
        assert [result.plane.scores["brain"] for result in live] == [1, 1, 0]
