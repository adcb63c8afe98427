"""Counters of a stream for Prometheus."""

from __future__ import annotations

import threading
from typing import Any

from fetalclip_edge.errors import SinkError
from fetalclip_edge.results import Frame, Result, StreamState
from fetalclip_edge.sinks.base import ClosingSink

__all__ = ["MetricsSink"]

_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.033, 0.05, 0.067, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class MetricsSink(ClosingSink):
    """Counts what comes out of a stream, in a registry of its own.

    - `fetalclip_edge_results_total{state, plane}`: results.
    - `fetalclip_edge_state{state}`: 1 for the state now, 0 for the others.
    - `fetalclip_edge_latency_seconds{stage}`: histograms, from `grab` to `capture_to_result`.
    - `fetalclip_edge_dropped_frames_total` and `fetalclip_edge_reconnects_total`.

    No label holds a file name or anything else of a patient.

    Args:
        port: serves them at `http://ADDRESS:PORT/metrics`, 1 to 65535, or 0 for a free one; None
            serves nothing, and `registry` goes where the program likes.
        address: to listen on; only this machine unless told otherwise, for anybody can read them.

    Attributes:
        registry: a `prometheus_client.CollectorRegistry`.
        port: on which they are served, or None.

    Raises:
        SinkError: prometheus-client is not installed, or the port cannot be listened on.
        ValueError: `port` is out of range.
    """

    name = "metrics"
    pictures = False

    def __init__(self, port: int | None = None, address: str = "127.0.0.1") -> None:
        if port is not None and not 0 <= port <= 65535:
            raise ValueError(f"port must be 0 to 65535, not {port}")
        try:
            import prometheus_client as prometheus
        except ImportError as error:
            raise SinkError(
                f"prometheus-client is not installed ({error}): "
                'pip install "fetalclip-edge[metrics]"'
            ) from error
        self.registry = prometheus.CollectorRegistry()
        self._results = prometheus.Counter(
            "fetalclip_edge_results",
            "Results of the stream",
            ["state", "plane"],
            registry=self.registry,
        )
        self._state = prometheus.Gauge(
            "fetalclip_edge_state", "1 for the state now", ["state"], registry=self.registry
        )
        self._latency = prometheus.Histogram(
            "fetalclip_edge_latency_seconds",
            "Time spent on a result, by stage",
            ["stage"],
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._dropped = prometheus.Counter(
            "fetalclip_edge_dropped_frames",
            "Frames dropped for newer ones",
            registry=self.registry,
        )
        self._reconnects = prometheus.Counter(
            "fetalclip_edge_reconnects",
            "Times the source was lost and opened again",
            registry=self.registry,
        )
        for state in StreamState:
            self._state.labels(str(state)).set(0)
        self._seen = {"dropped": 0, "epoch": 0}
        self.port: int | None = None
        self._server: tuple[Any, threading.Thread] | None = None
        if port is not None:
            try:
                self._server = prometheus.start_http_server(port, address, registry=self.registry)
            except OSError as error:
                raise SinkError(
                    f"metrics cannot be served on {address}:{port}: {error.strerror}"
                ) from error
            self.port = int(self._server[0].server_port)

    def write(self, result: Result, frame: Frame | None = None) -> None:
        """Count one result."""
        self._results.labels(str(result.state), result.plane.label).inc()
        for state in StreamState:
            self._state.labels(str(state)).set(state == result.state)
        # A result without a picture took no time worth counting.
        if result.embedding.size:
            for stage, milliseconds in result.timing.to_dict().items():
                self._latency.labels(stage).observe(milliseconds / 1000)
        # Results hold totals, so that those which the sink lost are counted too.
        self._count(self._dropped, "dropped", result.dropped or 0)
        self._count(self._reconnects, "epoch", result.epoch)

    def _count(self, counter: Any, what: str, total: int) -> None:
        counter.inc(max(0, total - self._seen[what]))
        self._seen[what] = max(total, self._seen[what])

    def close(self) -> None:
        """Serve no more. What was counted stays in `registry`."""
        server, self._server = self._server, None
        if server is not None:
            server[0].shutdown()
            server[0].server_close()
            server[1].join()
