"""Where results go besides the loop that asks for them: each sink in a thread of its own."""

from fetalclip_edge.sinks.base import Sink, SinkStats

__all__ = ["Sink", "SinkStats"]
