from __future__ import annotations

import socket
import sys
import urllib.request
from typing import Any

import pytest
from prometheus_client import REGISTRY

import fetalclip_edge as fe
from fetalclip_edge.results import Timing

from .conftest import MakeResult


def value(sink: fe.MetricsSink, name: str, **labels: str) -> float | None:
    found: float | None = sink.registry.get_sample_value(f"fetalclip_edge_{name}", labels)
    return found


def test_states_planes_drops_and_reconnects_are_counted(make_result: MakeResult) -> None:
    with fe.MetricsSink() as sink:
        sink.write(make_result(dropped=2))
        sink.write(make_result(dropped=5))
        sink.write(make_result("frozen", dropped=5, epoch=2))
    assert value(sink, "results_total", state="live", plane="brain") == 2
    assert value(sink, "results_total", state="frozen", plane="brain") == 1
    assert value(sink, "dropped_frames_total") == 5
    assert value(sink, "reconnects_total") == 2
    assert value(sink, "state", state="frozen") == 1
    assert value(sink, "state", state="live") == 0
    assert value(sink, "state", state="stale") == 0


def test_latency_is_a_histogram_of_seconds_by_stage(make_result: MakeResult) -> None:
    with fe.MetricsSink() as sink:
        for inference_ms in (4.0, 30.0, 9000.0):
            sink.write(make_result(timing=Timing(1.0, inference_ms, 0.5)))
        # Where no picture came, nothing was timed.
        sink.write(make_result("stale", embedding=make_result().embedding[:0]))
    assert value(sink, "latency_seconds_count", stage="inference") == 3
    assert value(sink, "latency_seconds_sum", stage="inference") == pytest.approx(9.034)
    buckets = [
        value(sink, "latency_seconds_bucket", stage="inference", le=upper)
        for upper in ("0.002", "0.005", "0.033", "5.0", "+Inf")
    ]
    assert buckets == [0, 1, 2, 2, 3]
    assert value(sink, "latency_seconds_count", stage="grab") is None


def test_they_are_served_until_closed_and_only_to_this_machine(make_result: MakeResult) -> None:
    with fe.MetricsSink(port=0) as sink:
        sink.write(make_result())
        with urllib.request.urlopen(f"http://127.0.0.1:{sink.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    assert 'fetalclip_edge_results_total{plane="brain",state="live"} 1.0' in text
    # Of our own registry, without what the process says of itself.
    assert "python_info" not in text
    assert not [name for name in REGISTRY._names_to_collectors if "fetalclip" in name]
    with (
        pytest.raises(ConnectionRefusedError),
        socket.create_connection(("127.0.0.1", sink.port or 0), 1),
    ):
        pass


def test_a_port_in_use_or_out_of_range_is_told() -> None:
    with fe.MetricsSink(port=0) as sink:
        with pytest.raises(fe.SinkError, match=f"127.0.0.1:{sink.port}: Address already in use"):
            fe.MetricsSink(port=sink.port)
    with pytest.raises(ValueError, match="port must be 0 to 65535, not 70000"):
        fe.MetricsSink(port=70_000)


def test_without_the_library_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent: Any = None
    monkeypatch.setitem(sys.modules, "prometheus_client", absent)
    with pytest.raises(fe.SinkError, match=r'pip install "fetalclip-edge\[metrics\]"'):
        fe.MetricsSink()
