from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import fetalclip_edge as fe
from fetalclip_edge.exam import RunningAge
from fetalclip_edge.results import (
    Frame,
    HeadBiometry,
    PlaneScores,
    Result,
    StreamState,
    Timing,
)
from fetalclip_edge.sources import Source
from fetalclip_edge.tasks.growth import age_from_circumference

IMAGE = np.zeros((4, 4), np.uint8)


def frame(now_s: float | None) -> Frame:
    return Frame(IMAGE, "gray", 0, 0, "film", now_s)


def answer(mm: float | None, error_mm: float = 4.0) -> Result:
    head = HeadBiometry(head_circumference_mm=mm, head_circumference_error_mm=error_mm)
    return Result(
        state=StreamState.LIVE,
        plane=PlaneScores("brain", 1.0, {"brain": 1.0}),
        brain_plane=None,
        gestational_age=None if mm is None else age_from_circumference(mm, error_mm),
        head=head if mm is not None else HeadBiometry(reason="cut off"),
        timing=Timing(1.0, 1.0, 1.0),
        embedding=np.zeros(4, np.float32),
    )


def days(result: Result) -> tuple[int, int, int]:
    age = result.gestational_age
    assert age is not None
    return age.low_days, age.days, age.high_days


def test_the_first_look_is_the_frames_own_age() -> None:
    result = RunningAge(live=False).update(answer(200.0), frame(0.0))
    assert result.gestational_age == answer(200.0).gestational_age


def test_looks_a_second_apart_tighten_the_interval_and_others_do_not() -> None:
    close, apart = RunningAge(live=False), RunningAge(live=False)
    first = days(close.update(answer(200.0, 12.0), frame(0.0)))
    apart.update(answer(200.0, 12.0), frame(0.0))
    for i in range(1, 25):
        near = days(close.update(answer(200.0, 12.0), frame(0.04 * i)))
        far = days(apart.update(answer(200.0, 12.0), frame(1.0 * i)))
    assert (close.looks, apart.looks) == (1, 25)
    assert near == first
    assert far[1] == first[1]
    assert far[0] > first[0]
    assert far[2] < first[2]


def test_the_age_is_that_of_the_median() -> None:
    running = RunningAge(live=False)
    for i, mm in enumerate((198.0, 200.0, 212.0)):
        result = running.update(answer(mm), frame(float(i)))
    expected = age_from_circumference(200.0, 4.0)
    assert expected is not None
    assert days(result)[1] == expected.days


def test_a_still_picture_is_one_look() -> None:
    running = RunningAge(live=False)
    for i in range(10):
        running.update(answer(200.0), frame(float(i)), still=i > 0)
    assert running.looks == 1


def test_frames_without_a_measure_keep_their_own_answer() -> None:
    running = RunningAge(live=False)
    running.update(answer(200.0), frame(0.0))
    assert running.update(answer(None), frame(1.0)).gestational_age is None
    untimed = running.update(answer(210.0), frame(None))
    assert untimed.gestational_age == answer(210.0).gestational_age
    assert running.looks == 1


def test_one_odd_head_changes_nothing_and_several_are_a_new_examination() -> None:
    running = RunningAge(live=False)
    for i in range(5):
        before = days(running.update(answer(200.0), frame(float(i))))
    # Neither that of the others nor its own stands beside the odd one
    assert running.update(answer(300.0), frame(5.0)).gestational_age is None
    assert running.update(answer(300.0), frame(5.1), still=True).gestational_age is None
    assert days(running.update(answer(200.0), frame(6.0)))[1] == before[1]
    for i in range(7, 10):
        after = running.update(answer(300.0), frame(float(i)))
        assert (after.gestational_age is None) == (i < 9)
    expected = age_from_circumference(300.0, 4.0)
    assert expected is not None
    assert days(after)[1] == expected.days
    assert running.looks == 3


def test_after_a_pause_another_patient_may_lie_there() -> None:
    # Given a patient of 40 looks at 250 mm, an hour's pause, and one of 262 mm: no odd head
    told, others = RunningAge(live=False, pause_s=60.0), RunningAge(live=False)
    for running in (told, others):
        for i in range(40):
            running.update(answer(250.0, 5.0), frame(float(i)))
        # The first one's picture stands still meanwhile, and still has her age
        frozen = days(running.update(answer(250.0, 5.0), frame(3600.0), still=True))
        assert frozen[1] == answer_days(250.0)
    # When the second is looked at
    second = told.update(answer(262.0, 5.0), frame(3640.0))
    # Then her age is of her own look, unless somebody tells when an examination ends
    assert second.gestational_age == age_from_circumference(262.0, 5.0)
    assert days(others.update(answer(262.0, 5.0), frame(3640.0)))[1] == answer_days(250.0)


def answer_days(mm: float) -> int:
    age = age_from_circumference(mm, 5.0)
    assert age is not None
    return age.days


def test_less_than_a_pause_ends_nothing() -> None:
    running = RunningAge(live=False, pause_s=60.0)
    for i in range(3):
        running.update(answer(200.0), frame(59.0 * i))
    assert running.looks == 3


def test_a_still_picture_before_any_look_is_none() -> None:
    running = RunningAge(live=False)
    still = running.update(answer(200.0), frame(0.0), still=True)
    assert (still.gestational_age, running.looks) == (answer(200.0).gestational_age, 0)


def test_reset_forgets() -> None:
    running = RunningAge(live=False)
    running.update(answer(200.0), frame(0.0))
    running.reset()
    assert running.looks == 0
    assert days(running.update(answer(150.0), frame(1.0)))[1] < 140


@pytest.mark.parametrize("chart", ["intergrowth", "hadlock"])
def test_another_chart(chart: str) -> None:
    result = RunningAge(live=False, chart=chart).update(answer(200.0), frame(0.0))
    assert result.gestational_age == age_from_circumference(200.0, 4.0, chart)


def test_of_a_device_that_runs_for_days_the_last_looks_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fetalclip_edge.exam._MOST_LOOKS", 20)
    running = RunningAge(live=False)
    for i in range(30):
        running.update(answer(200.0 if i < 15 else 204.0), frame(float(i)))
    assert running.looks == 20
    assert running.head is not None
    assert running.head.head_circumference_mm == 204.0


def test_the_head_of_all_looks_and_its_error() -> None:
    running = RunningAge(live=False)
    assert (running.head, running.age) == (None, None)
    for i, mm in enumerate((198.0, 200.0, 212.0)):
        running.update(answer(mm), frame(float(i)))
    head = running.head
    assert head is not None
    assert head.head_circumference_mm == 200.0
    # Half of the variance is shared; 4 mm of 212 mm was the last error.
    assert head.head_circumference_error_mm == pytest.approx(200 * 4 / 212 * (2 / 3) ** 0.5)
    assert (head.biparietal_diameter_mm, head.outline) == (None, None)


class Film(Source):
    """Pictures, two seconds apart unless times are given. The first so many are alike."""

    name = "film"

    def __init__(self, times: Sequence[float] = (2.0, 4.0, 6.0), alike: int = 0) -> None:
        self._times = list(times)
        self._alike = len(self._times) + 1 - alike

    def open(self) -> None:
        pass

    def read(self) -> Frame | None:
        if not self._times:
            return None
        image = np.full((48, 64), 40, np.uint8)
        image[min(len(self._times), self._alike) % 48] = 255
        return Frame(image, "gray", 0, 0, "film", self._times.pop(0))

    def close(self) -> None:
        pass


class Measuring:
    """Measures what it is told."""

    chart = "hadlock"

    def __init__(self, *mm: float) -> None:
        self._answers = iter(mm)

    def analyze_frame(self, frame: Frame) -> Result:
        return answer(next(self._answers))


@pytest.mark.parametrize(
    ("still", "expected"), [(False, (196.0, 198.0, 200.0)), (True, (196.0, 200.0, 210.0))]
)
def test_a_stream_tells_the_age_of_all_frames_and_a_folder_each_its_own(
    still: bool, expected: tuple[float, ...]
) -> None:
    source = Film()
    source.still_pictures = still
    with fe.stream(source, model=Measuring(196.0, 200.0, 210.0), smoothing_s=0.0) as live:  # type: ignore[arg-type]
        found = [days(result)[1] for result in live]
    chart = "who" if still else "hadlock"
    wanted = [age_from_circumference(mm, 4.0, chart) for mm in expected]
    assert found == [age.days for age in wanted if age is not None]


def after_one_look(mm: float) -> tuple[int, int, int]:
    """Of one look."""
    age = age_from_circumference(mm, 4.0, "hadlock")
    assert age is not None
    return age.low_days, age.days, age.high_days


def test_a_new_exam_forgets_the_patient_before() -> None:
    # Given heads that differ by less than what tells another one
    model = Measuring(200.0, 200.0, 200.0, 210.0, 210.0)
    with fe.stream(Film((0.0, 2.0, 4.0, 6.0, 8.0)), model=model, smoothing_s=0.0) as live:  # type: ignore[arg-type]
        before = [days(next(live)) for _ in range(3)]
        live.new_exam()
        after = [days(next(live)) for _ in range(2)]
    assert [each[1] for each in before] == [after_one_look(200.0)[1]] * 3
    assert after[0] == after_one_look(210.0)
    assert after[1][1] == after[0][1]


def test_a_frozen_picture_of_the_patient_before_is_no_look_at_the_next() -> None:
    # Given a screen that still shows the first patient when the next exam begins
    times = [i / 4 for i in range(8)]
    model = Measuring(*[200.0] * 7, 210.0)
    with fe.stream(Film(times, alike=7), model=model, smoothing_s=0.0) as live:  # type: ignore[arg-type]
        states = [next(live).state for _ in range(4)]
        live.new_exam()
        frozen = [next(live) for _ in range(3)]
        first = next(live)
    assert states[-1] == StreamState.FROZEN
    assert {each.state for each in frozen} == {StreamState.FROZEN}
    assert first.state == StreamState.LIVE
    assert days(first) == after_one_look(210.0)


def test_a_stream_takes_a_minute_without_a_head_for_the_end_of_an_exam() -> None:
    model = Measuring(200.0, 200.0, 210.0)
    with fe.stream(Film((0.0, 2.0, 63.0)), model=model, smoothing_s=0.0) as live:  # type: ignore[arg-type]
        last = list(live)[-1]
    assert days(last) == after_one_look(210.0)
