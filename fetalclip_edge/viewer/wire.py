"""What goes to a page: one message for a moment, with its answer and its picture together.

A message is four bytes with the length of the JSON (big endian), the JSON, and a JPEG or nothing.
An answer never travels apart from its picture, so a page cannot pair it with another.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fetalclip_edge.checklist import ItemStatus
from fetalclip_edge.pixels import encode_jpeg, ultrasound
from fetalclip_edge.results import Frame, Result
from fetalclip_edge.tasks.quality import what_would_help

__all__ = ["Moment", "describe", "encode_picture", "pack"]

_LONGEST_SIDE = 1280
"""Pixels of a picture on the page: sharp on a tablet, and 100 kB as JPEG."""

_QUALITY = 82


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """A result of the stream with its picture, numbered from 1.

    Attributes:
        number: running number; a newer moment has a higher one.
        result: what the stream says.
        frame: its picture, or None where none came.
    """

    number: int
    result: Result
    frame: Frame | None


def describe(
    moment: Moment, checklist: Sequence[ItemStatus], *, ended: str | None, now_ns: int
) -> dict[str, Any]:
    """The JSON of a message. Holds nothing of the source's name, which may be a patient's.

    Args:
        moment: what to show.
        checklist: where the exam stands.
        ended: why no more will come, or None.
        now_ns: `time.monotonic_ns()`, by which the page learns how old the picture is.
    """
    result, frame = moment.result, moment.frame
    answer = result.to_dict(details=True)
    del answer["source"]
    age_ms = None if frame is None else round((now_ns - frame.captured_ns) / 1e6, 1)
    return {
        **answer,
        "number": moment.number,
        "help": what_would_help(result),
        "age_ms": age_ms,
        "ended": ended,
        "checklist": [_describe_item(status) for status in checklist],
    }


def _describe_item(status: ItemStatus) -> dict[str, Any]:
    kept = status.captured
    return {
        "item": status.item,
        "held": round(status.held, 2),
        "captured": None
        if kept is None
        else {"number": kept.number, "score": round(kept.score, 4), "by_hand": kept.by_hand},
    }


def encode_picture(frame: Frame) -> bytes:
    """The ultrasound of a frame as JPEG, of at most 1280 pixels a side."""
    return encode_jpeg(ultrasound(frame), _LONGEST_SIDE, _QUALITY)


def pack(header: dict[str, Any], jpeg: bytes) -> bytes:
    """One message."""
    text = json.dumps(header, allow_nan=False).encode()
    return struct.pack(">I", len(text)) + text + jpeg
