from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import fetalclip_edge as fe
from fetalclip_edge.bench import PacedSource, benchmark
from fetalclip_edge.bundle import DEFAULT_BUNDLE
from fetalclip_edge.demo import DEMO_CLIP, Passage, passages
from fetalclip_edge.errors import SourceError
from fetalclip_edge.picture import draw_summary
from fetalclip_edge.results import PLANES, PlaneScores, Result, StreamState, Timing

STAGES = {"grab", "queue", "preprocess", "inference", "interpret", "capture_to_result"}


@pytest.fixture(scope="module")
def model() -> fe.Model:
    return fe.load()


def result(pts_s: float | None, state: str, label: str, confidence: float) -> Result:
    scores = dict.fromkeys(PLANES, 0.0) | {label: confidence}
    return Result(
        state=StreamState(state),
        plane=PlaneScores(label, confidence, scores),
        brain_plane=None,
        gestational_age=None,
        head=None,
        timing=Timing(1.0, 1.0, 1.0),
        embedding=np.zeros(4, dtype=np.float32),
        pts_s=pts_s,
        reason="unlike" if state == "out_of_domain" else None,
    )


def script(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "fetalclip-edge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


# demo


def test_the_demo_streams_the_clip_draws_it_and_ends_with_a_summary(tmp_path: Path) -> None:
    done = script("demo", "--picture", tmp_path / "demo.png")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    manifest = json.loads((DEFAULT_BUNDLE / "manifest.json").read_bytes())
    assert "300 frames of simulated ultrasound" in done.stdout
    assert manifest["name"] in done.stdout
    assert "ms inference" in done.stdout
    assert "frozen" in done.stdout
    assert done.stdout.rstrip().endswith(
        "Not a medical device: for research and engineering, never for diagnosis."
    )
    with Image.open(tmp_path / "demo.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000
        # Three frames and a chart: many colours, not a blank sheet.
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 200


def test_a_picture_without_a_folder_is_told_before_the_demo_runs(tmp_path: Path) -> None:
    done = script("demo", "--picture", tmp_path / "missing" / "demo.png")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "missing" in done.stderr


def test_the_demo_ends_on_a_frozen_head(model: fe.Model) -> None:
    with fe.stream(DEMO_CLIP, model=model) as live:
        results = list(live)
    assert len(results) == 300
    # The clip sweeps onto a simulated head, rests, and is frozen; see benchmarks/simulate.py.
    last = results[-1]
    assert (last.state, last.plane.label) == (StreamState.FROZEN, "brain")
    assert last.brain_plane is not None


def test_passages_join_what_agrees() -> None:
    results = [
        result(0.0, "live", "brain", 0.5),
        result(0.1, "live", "brain", 1.0),
        result(0.2, "frozen", "brain", 0.75),
        result(0.3, "live", "femur", 0.5),
        result(0.4, "live", "brain", 0.25),
    ]
    assert passages(results) == [
        Passage(0.0, 0.1, "live", "brain", 2, 0.75),
        Passage(0.2, 0.2, "frozen", "brain", 1, 0.75),
        Passage(0.3, 0.3, "live", "femur", 1, 0.5),
        Passage(0.4, 0.4, "live", "brain", 1, 0.25),
    ]
    assert passages([]) == []


# picture


def test_a_picture_shows_the_frames_and_their_states(
    tmp_path: Path, clip_images: Sequence[NDArray[np.uint8]]
) -> None:
    states = ["live", "out_of_domain", "no_signal"]
    results = [result(i / 30, states[i // 100], "brain", 0.9) for i in range(300)]
    draw_summary(DEMO_CLIP, results, tmp_path / "one.png", title="simulated")
    image = np.asarray(Image.open(tmp_path / "one.png").convert("RGB"))
    # Each state has its colour (Okabe and Ito), both as a bar over a frame and in the chart.
    for red_green_blue in [(0, 158, 115), (230, 159, 0), (213, 94, 0)]:
        assert (image == red_green_blue).all(axis=-1).sum() > 1000


def test_one_result_is_enough_for_a_picture_and_none_is_not(tmp_path: Path) -> None:
    draw_summary(DEMO_CLIP, [result(None, "live", "brain", 1.0)], tmp_path / "a.png", title="x")
    assert (tmp_path / "a.png").is_file()
    with pytest.raises(ValueError, match="results"):
        draw_summary(DEMO_CLIP, [], tmp_path / "b.png", title="x")
    with pytest.raises(SourceError, match="cannot be written"):
        draw_summary(DEMO_CLIP, [result(0, "live", "brain", 1.0)], tmp_path, title="x")


# bench


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """What `bench --json` prints, with a rate that no small machine keeps up with."""
    done = script("bench", "--json", "--frames", 40, "--rate", 1000)
    assert (done.returncode, done.stderr) == (0, "")
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


def test_bench_reports_percentiles_of_every_stage(report: dict[str, Any]) -> None:
    assert set(report["latency_ms"]) == STAGES
    for latency in report["latency_ms"].values():
        assert set(latency) == {"p50", "p95", "p99", "max"}
        assert 0 <= latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"]
    whole = report["latency_ms"]["capture_to_result"]
    assert whole["max"] >= report["latency_ms"]["inference"]["max"]
    assert report["frames_per_second"] > 0


def test_bench_counts_every_frame(report: dict[str, Any]) -> None:
    frames = report["frames"]
    assert (frames["offered"], frames["rate_per_s"]) == (40, 1000)
    assert frames["answered"] + frames["dropped"] == 40
    assert frames["answered"] >= 1


def test_bench_says_what_it_measured_and_on_what(
    report: dict[str, Any], clip_images: Sequence[NDArray[np.uint8]]
) -> None:
    manifest = json.loads((DEFAULT_BUNDLE / "manifest.json").read_bytes())
    height, width = clip_images[0].shape
    assert report["frames"]["clip"] == "simulated_head.mp4 (simulated)"
    assert (report["frames"]["width"], report["frames"]["height"]) == (width, height)
    assert report["bundle"]["name"] == manifest["name"]
    assert re.fullmatch(r"[0-9a-f]{64}", report["bundle"]["sha256"])
    assert report["backend"]["name"] == "onnxruntime"
    assert report["backend"]["precision"] == "int8"
    assert report["machine"]["processor"]
    assert report["machine"]["cores"] == os.cpu_count()
    assert report["machine"]["architecture"] == platform.machine()
    assert report["machine"]["python"] == platform.python_version()
    assert report["fetalclip_edge"] == fe.__version__


def test_bench_warms_up_and_scales_and_tells_progress(
    model: fe.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    original = fe.Model.analyze_frame

    def spy(self: fe.Model, frame: fe.Frame) -> fe.Result:
        shapes.append(frame.image.shape)
        return original(self, frame)

    monkeypatch.setattr(fe.Model, "analyze_frame", spy)
    steps: list[None] = []
    found = benchmark(
        model, frames=3, size=(64, 48), rate=500.0, advance=lambda: steps.append(None)
    )
    answered = found["frames"]["answered"]
    assert (found["frames"]["width"], found["frames"]["height"]) == (64, 48)
    assert {shape[:2] for shape in shapes} == {(48, 64)}
    # More were answered than timed: the warm-up, which no number contains.
    assert len(shapes) > answered + 3
    assert len(steps) == answered + 3


@pytest.mark.parametrize(
    "options", [{"frames": 0}, {"rate": 0.0}, {"rate": float("nan")}, {"size": (0, 10)}]
)
def test_bench_refuses_what_cannot_be_timed(model: fe.Model, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="positive"):
        benchmark(model, **options)


def test_bench_for_people_names_machine_and_bundle() -> None:
    done = script("bench", "--frames", 3, "--rate", 500, "--size", "320x240")
    manifest = json.loads((DEFAULT_BUNDLE / "manifest.json").read_bytes())
    assert done.returncode == 0
    words = ("p50", "p95", "p99", "max", "capture to result", "frames per second", "320x240")
    for word in (*words, manifest["name"], "onnxruntime", "cores"):
        assert word in done.stdout


def test_paced_frames_come_in_order_and_never_early() -> None:
    images = [np.full((4, 4), level, dtype=np.uint8) for level in (10, 20)]
    begin_ns = time.monotonic_ns()
    with PacedSource(images, "gray", rate=200.0, count=5) as source:
        frames = list(source)
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert [int(frame.image[0, 0]) for frame in frames] == [10, 20, 10, 20, 10]
    assert all(frame.captured_ns - begin_ns >= frame.index * 5_000_000 for frame in frames)
    assert source.live


def test_a_result_is_plain_data() -> None:
    answer = result(0.5, "live", "brain", 1.0).to_dict()
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    assert asdict(Passage(0.0, 1.0, "live", "brain", 2, 0.5))["label"] == "brain"
