from __future__ import annotations

import pytest

from fetalclip_edge import latency
from fetalclip_edge.latency import Latency, LatencyRecorder
from fetalclip_edge.results import Timing


def timing(value: float, **stages: float) -> Timing:
    return Timing(preprocess_ms=value, inference_ms=1.0, interpret_ms=0.5, **stages)


def test_percentiles_of_one_to_a_hundred_and_one() -> None:
    recorder = LatencyRecorder()
    for value in range(101, 0, -1):
        recorder.add(timing(float(value)))
    summary = recorder.summary()
    assert summary["preprocess"] == Latency(p50=51, p95=96, p99=100, max=101)
    assert summary["inference"] == Latency(1, 1, 1, 1)


def test_an_outlier_is_not_clipped() -> None:
    recorder = LatencyRecorder()
    for value in [1.0] * 999 + [60_000.0]:
        recorder.add(timing(value))
    assert recorder.summary()["preprocess"] == Latency(p50=1, p95=1, p99=1, max=60_000)


def test_the_maximum_outlives_the_window_of_the_percentiles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(latency, "_KEPT", 10)
    recorder = LatencyRecorder()
    for value in [500.0] + [2.0] * 10:
        recorder.add(timing(value))
    assert recorder.summary()["preprocess"] == Latency(p50=2, p95=2, p99=2, max=500)


def test_stages_that_took_no_place_are_left_out() -> None:
    recorder = LatencyRecorder()
    assert recorder.summary() == {}
    recorder.add(timing(1.0))
    assert set(recorder.summary()) == {"preprocess", "inference", "interpret"}
    recorder.add(timing(1.0, grab_ms=1, queue_ms=2, capture_to_result_ms=3))
    assert list(recorder.summary()["capture_to_result"].__slots__) == ["p50", "p95", "p99", "max"]
    assert set(recorder.summary()) == {
        *("grab", "queue", "preprocess", "inference", "interpret", "capture_to_result")
    }
