"""Where results go besides the loop that asks for them: each sink in a thread of its own."""

from fetalclip_edge.sinks.base import Sink, SinkStats
from fetalclip_edge.sinks.callback import CallbackSink
from fetalclip_edge.sinks.jsonl import JsonlSink
from fetalclip_edge.sinks.metrics import MetricsSink
from fetalclip_edge.sinks.video import VideoSink

__all__ = ["CallbackSink", "JsonlSink", "MetricsSink", "Sink", "SinkStats", "VideoSink"]
