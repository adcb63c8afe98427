"""Answers of a film, against averages worked out by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

import fetalclip_edge as fe
from fetalclip_edge.results import (
    BrainPlaneScores,
    Frame,
    PlaneScores,
    Result,
    StreamState,
    Timing,
)
from fetalclip_edge.smoothing import Smoother
from fetalclip_edge.sources import Source

IMAGE = np.zeros((4, 4), np.uint8)
HALF_LIFE = 0.3 * math.log(2)
"""After this many seconds, the weight of an answer is a half."""


def frame(now_s: float | None, *, captured_s: float = 0.0) -> Frame:
    return Frame(IMAGE, "gray", 0, round(captured_s * 1e9), "film", now_s)


def answer(
    brain: float = 1.0, distance: float | None = 0.9, part: tuple[float, float, float] = (1, 0, 0)
) -> Result:
    scores = {"brain": brain, "femur": 1 - brain, "other": 0.0}
    label = "brain" if brain >= 0.5 else "femur"
    names = ("trans-thalamic", "trans-cerebellum", "trans-ventricular")
    parts = dict(zip(names, part, strict=True))
    out = distance is not None and distance > 1
    return Result(
        state=StreamState.OUT_OF_DOMAIN if out else StreamState.LIVE,
        plane=PlaneScores("other" if out else label, scores[label], scores),
        brain_plane=BrainPlaneScores(names[0], part[0], parts) if label == "brain" else None,
        gestational_age=None,
        head=None,
        timing=Timing(1.0, 1.0, 1.0),
        embedding=np.zeros(4, np.float32),
        reason="far" if out else None,
        domain_distance=distance,
    )


def smoothed(answers: Sequence[Result], step_s: float = 1 / 30) -> list[Result]:
    smoother = Smoother(live=False, span_s=0.3)
    return [smoother.update(each, frame(i * step_s)) for i, each in enumerate(answers)]


def states(distances: Sequence[float]) -> list[str]:
    return [str(r.state) for r in smoothed([answer(distance=d) for d in distances])]


def test_the_weight_of_an_answer_halves_with_time() -> None:
    # Given brain, femur, femur, each one half-life after the one before
    found = smoothed([answer(1.0), answer(0.0), answer(0.0)], HALF_LIFE)
    # Then the weights are 1; 1/2, 1; 1/4, 1/2, 1
    assert [r.plane.scores["brain"] for r in found] == pytest.approx([1, 1 / 3, 1 / 7])
    assert [r.plane.label for r in found] == ["brain", "femur", "femur"]
    assert found[1].plane.confidence == pytest.approx(2 / 3)
    assert sum(found[2].plane.scores.values()) == pytest.approx(1)


def test_one_odd_frame_changes_no_label() -> None:
    found = smoothed([answer(0.9)] * 10 + [answer(0.1)] + [answer(0.9)] * 10)
    assert {r.plane.label for r in found} == {"brain"}


def test_sub_planes_are_averaged_over_the_frames_that_show_a_brain() -> None:
    found = smoothed([answer(part=(0.8, 0.2, 0)), answer(0.45), answer(part=(0.2, 0.8, 0))])
    keep = math.exp(-(2 / 30) / 0.3)
    assert found[1].brain_plane is not None  # the average is still of a brain
    assert found[2].brain_plane is not None
    expected = (0.2 + keep * 0.8) / (1 + keep)
    assert found[2].brain_plane.scores["trans-thalamic"] == pytest.approx(expected)
    assert smoothed([answer(0.0)])[0].brain_plane is None


def test_a_sub_plane_of_a_minute_ago_is_no_longer_shown() -> None:
    # Given two seconds of a trans-thalamic plane, a minute of femur, and a trans-cerebellar one
    seen = [answer(part=(1, 0, 0))] * 60 + [answer(0.0)] * 1800
    found = smoothed([*seen, *[answer(part=(0.4, 0.6, 0))] * 15])
    # Then the first brain that is shown has the sub-plane that it shows
    shown = [each.brain_plane for each in found[1860:] if each.brain_plane is not None]
    assert shown[0].label == "trans-cerebellum"
    assert shown[0].scores["trans-cerebellum"] == pytest.approx(0.6)


@pytest.mark.parametrize("distance", [math.nan, math.inf])
def test_a_distance_that_is_no_number_turns_nothing_off(distance: float) -> None:
    # Given a frame whose numbers broke, and what is beyond the limit after it
    odd = replace(answer(distance=1.2), domain_distance=distance)
    found = smoothed([answer(), odd, *[answer(distance=1.08)] * 3, *[answer()] * 3])
    # Then it keeps its own answer, and the others are judged as ever
    assert [str(each.state) for each in found[:5]] == ["live", *["out_of_domain"] * 4]
    assert all(math.isfinite(each.plane.confidence) for each in found)
    assert found[-1].domain_distance == 0.9


def test_frames_a_hair_beyond_the_limit_among_others_are_answered() -> None:
    assert set(states([0.95, 1.03] * 15)) == {"live"}


def test_what_was_withheld_stays_so_until_the_average_is_within_the_limit() -> None:
    # Given frames beyond the limit, just above it, and within
    found = states([1.08] * 5 + [1.01] * 30 + [0.9] * 10)
    assert set(found[:35]) == {"out_of_domain"}
    assert found[-1] == "live"


def test_a_frame_far_beyond_is_withheld_at_once_and_alone() -> None:
    found = states([0.8] * 20 + [1.2] + [0.8] * 20)
    assert found[20] == "out_of_domain"
    assert set(found[:20]) == {"live"}
    assert found[-1] == "live"


def test_withheld_answers_say_why_and_name_no_plane() -> None:
    found = smoothed([answer(distance=1.08)] + [answer(distance=0.99)] * 2)
    assert [str(r.state) for r in found] == ["out_of_domain"] * 3
    assert found[0].reason == "far"
    assert found[1].reason is not None
    assert "last moments (1.0" in found[1].reason
    assert {r.plane.label for r in found} == {"other"}
    assert all(r.brain_plane is not None and r.brain_plane.label is None for r in found)
    assert {r.plane.scores["brain"] for r in found} == {1.0}


@pytest.mark.parametrize("times", [(0.0, 1.5), (5.0, 4.9)], ids=["a gap", "back"])
def test_nothing_is_carried_over_a_break(times: tuple[float, float]) -> None:
    smoother = Smoother(live=False)
    smoother.update(answer(1.0, 1.2), frame(times[0]))
    after = smoother.update(answer(0.0, 0.9), frame(times[1]))
    assert (after.plane.label, after.plane.confidence) == ("femur", 1.0)
    assert after.state == StreamState.LIVE


def test_a_flat_picture_keeps_its_answer_and_ends_what_was_before() -> None:
    smoother = Smoother(live=False)
    smoother.update(answer(1.0), frame(0.0))
    flat = replace(answer(0.2, None), state=StreamState.NO_SIGNAL)
    assert smoother.update(flat, frame(0.03)) is flat
    assert smoother.update(answer(0.0), frame(0.06)).plane.confidence == 1.0


def test_a_device_is_timed_by_the_clock_and_pictures_without_time_stand_alone() -> None:
    device = Smoother(live=True, span_s=0.3)
    device.update(answer(1.0), frame(7.0, captured_s=0.0))
    second = device.update(answer(0.0), frame(7.0, captured_s=HALF_LIFE))
    assert second.plane.scores["brain"] == pytest.approx(1 / 3, rel=1e-6)
    arrays = Smoother(live=False)
    arrays.update(answer(1.0), frame(None))
    assert arrays.update(answer(0.0), frame(None)).plane.confidence == 1.0


class Film(Source):
    """Ten frames, thirty a second."""

    name = "film"

    def __init__(self) -> None:
        self._next = 0

    def open(self) -> None:
        pass

    def read(self) -> Frame | None:
        self._next += 1
        return None if self._next > 10 else Frame(IMAGE, "gray", 0, 0, "film", self._next / 30)

    def close(self) -> None:
        pass


class Flickering:
    """Changes its mind with every frame."""

    def __init__(self) -> None:
        self._even = False

    def analyze_frame(self, frame: Frame) -> Result:
        self._even = not self._even
        return answer(1.0 if self._even else 0.2, 0.95 if self._even else 1.03)


@pytest.mark.parametrize(
    ("smoothing_s", "changes"), [(0.3, 0), (0.0, 9)], ids=["smoothed", "alone"]
)
def test_a_stream_smooths_unless_told_otherwise(smoothing_s: float, changes: int) -> None:
    model = Flickering()
    with fe.stream(Film(), model=model, smoothing_s=smoothing_s) as live:  # type: ignore[arg-type]
        labels = [(str(r.state), r.plane.label) for r in live]
    assert sum(a != b for a, b in itertools.pairwise(labels)) == changes


def test_pictures_of_a_folder_are_answered_one_by_one() -> None:
    source = Film()
    source.still_pictures = True
    with fe.stream(source, model=Flickering()) as live:  # type: ignore[arg-type]
        assert len({r.plane.label for r in live}) == 2
