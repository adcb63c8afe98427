"""The stream benchmark: its camera, its loops, its numbers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import benchmarks.stream as bench
import fetalclip_edge as fe
from benchmarks.stream import Case, cases, markdown, measure, summarise
from benchmarks.stream_camera import LOOPS, Camera, Sample, Segment, clip_images

from ..live_model import LiveModel

IMAGES = [np.full((4, 6, 3), level, dtype=np.uint8) for level in (10, 20, 30)]


class Model(LiveModel):
    """Answers both ways, and keeps the grey levels that it saw."""

    def __init__(self) -> None:
        self.levels: list[int] = []

    def analyze(self, image: Any, color: str) -> fe.Result:
        assert color == "bgr"
        return self.analyze_frame(fe.Frame(image, "bgr", 0, time.monotonic_ns(), "x"))

    def analyze_frame(self, frame: fe.Frame) -> fe.Result:
        self.levels.append(int(frame.image[0, 0, 0]))
        return super().analyze_frame(frame)


def test_the_camera_gives_every_frame_in_turn_when_it_is_due_and_then_ends() -> None:
    camera = Camera(IMAGES, rate=200.0, seconds=60.0)
    levels = []
    for index in range(7):
        good, image = camera.read()
        assert good
        assert image is not None
        assert time.monotonic_ns() >= camera.due_ns(index)
        levels.append(int(image[0, 0, 0]))
        image[:] = 0  # a copy: the next turn shows the picture as it was
    assert levels == [10, 20, 30, 10, 20, 30, 10]
    assert camera.due == 12_000
    assert camera.due_ns(200) - camera.due_ns(0) == 1_000_000_000
    camera.release()
    assert camera.read() == (False, None)


def test_the_camera_ends_by_the_clock_whatever_is_unread() -> None:
    camera = Camera(IMAGES, rate=100.0, seconds=0.05)
    assert camera.due == 5
    assert camera.read()[0]
    time.sleep(0.06)
    assert camera.read() == (False, None)


@pytest.mark.parametrize("name", LOOPS)
def test_each_loop_accounts_for_its_frames(name: str) -> None:
    model: Any = Model()
    camera = Camera(IMAGES, rate=30.0, seconds=1.0)
    segment = LOOPS[name](model, camera)
    assert segment.due == 30
    indexes = [sample.index for sample in segment.samples]
    assert indexes == sorted(set(indexes))
    assert 0 < len(indexes) <= 30 - segment.dropped
    # The pictures are those of the indexes that it tells.
    assert model.levels == [10 * (1 + index % 3) for index in indexes]
    for sample in segment.samples:
        assert sample.work_ms >= 3.5  # the stand-in says 1, 2 and 0.5
        assert sample.latency_ms >= 0


def test_loops_take_turns_in_changing_order() -> None:
    order: list[str] = []

    def loop(name: str) -> Any:
        return lambda model, camera: order.append(name) or Segment(due=1)

    loops = {name: loop(name) for name in "abc"}
    model: Any = Model()
    found = measure(model, IMAGES, Case("x", 30, False), loops, 1.0, rounds=3)
    assert "".join(order) == "abcbcacab"
    assert {name: len(segments) for name, segments in found.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_loaded_cpu_is_free_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.stream.os.cpu_count", lambda: 2)
    started: list[Any] = []
    popen = bench.subprocess.Popen

    def start(*arguments: Any) -> Any:
        started.append(popen(*arguments))
        return started[-1]

    monkeypatch.setattr("benchmarks.stream.subprocess.Popen", start)
    with bench.loaded(False):
        assert started == []
    with pytest.raises(ZeroDivisionError), bench.loaded(True):
        assert [process.poll() for process in started] == [None, None]
        raise ZeroDivisionError
    assert all(process.poll() is not None for process in started)


def test_the_numbers_of_a_loop_that_falls_behind() -> None:
    # Given a camera of 100 a second whose frames take 20 ms each: half a second is lost in one
    samples = [
        Sample(index=n, latency_ms=20 + 10.0 * n, work_ms=20.0, overhead_ms=0.5) for n in range(50)
    ]
    found = summarise([Segment(samples, due=100)], rate=100.0)
    assert found["latency_ms"] == {"p50": 265.0, "p95": 485.5, "p99": 505.1, "max": 510.0}
    assert found["overhead_ms"]["p50"] == 0.5
    assert (found["due"], found["answered"], found["dropped"], found["behind"]) == (100, 50, 0, 50)
    assert found["lag_growth_ms_per_s"] == 500.0
    # 1.5 frame times and the work are 35 ms: the first two.
    assert found["within"] == 0.04


def test_the_numbers_of_a_loop_that_keeps_up_and_of_one_that_never_answers() -> None:
    steady = [Sample(n, 25.0, 20.0, 0.25) for n in range(0, 50, 2)]
    found = summarise([Segment(steady, 50, 25), Segment(steady[:1], 50, 49)], rate=50.0)
    assert (found["dropped"], found["behind"], found["within"]) == (74, 0, 1.0)
    assert found["lag_growth_ms_per_s"] == 0.0
    nothing = summarise([Segment(due=9)], rate=30.0)
    assert nothing == {"due": 9, "answered": 0, "dropped": 0, "behind": 9}
    text = markdown([{"case": "c", "loop": "l", **found}, {"case": "c", "loop": "m", **nothing}])
    assert "25.0" in text
    assert "74 of 100" in text
    assert len({line.count("|") for line in text.splitlines()}) == 1


def test_the_cases_are_thirty_and_sixty_free_and_loaded_and_an_overload() -> None:
    planned = cases(work_ms=25.0)
    assert [(case.rate, case.loaded) for case in planned] == [
        *((30, False), (30, True), (60, False), (60, True), (80.0, False))
    ]


def test_the_command_writes_json_and_markdown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "cases", lambda work_ms: [Case("20 a second", 20.0, False)])
    app = typer.Typer()
    app.command()(bench.main)
    words = ["--out", str(tmp_path), "--seconds", "0.5", "--rounds", "1", "--size", "160x120"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "stream.json").read_text())
    assert [row["loop"] for row in report["rows"]] == list(LOOPS)
    assert all(row["due"] == 10 for row in report["rows"])
    assert report["frames"] == "160x120 BGR, simulated"
    assert report["left_out"] == {}
    assert report["machine"]["cores"] >= 1
    assert "fetalclip-edge stream" in (tmp_path / "stream.md").read_text()
    refused = CliRunner().invoke(app, ["--out", str(tmp_path), "--size", "huge"])
    assert refused.exit_code == 2
    assert "--size must be WIDTHxHEIGHT" in refused.output


def test_the_frames_are_the_simulated_clip_in_colour() -> None:
    images = clip_images(192, 108)
    assert {image.shape for image in images} == {(108, 192, 3)}
    assert len(images) == 10
    assert all(image.std() > 10 for image in images)
