"""JSON Lines and callbacks."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fetalclip_edge as fe
from fetalclip_edge.results import Frame, Result
from fetalclip_edge.sinks import SinkStats

from ..live_model import LiveModel
from .conftest import MakeFrame, MakeResult

IMAGES = np.zeros((5, 8, 8), dtype=np.uint8)


def test_lines_are_the_objects_of_the_command_line(tmp_path: Path, make_result: MakeResult) -> None:
    with fe.JsonlSink(tmp_path / "a.jsonl") as sink:
        sink.write(make_result())
        # Each line can be read before the file is closed.
        assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 1
        sink.write(make_result("frozen", frame_index=4))
    first, second = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
    assert first == {
        "source": "script",
        "state": "live",
        "plane": {
            "label": "brain",
            "confidence": 0.75,
            "scores": {
                "abdomen": 0.05,
                "brain": 0.75,
                "femur": 0.05,
                "thorax": 0.05,
                "cervix": 0.05,
                "other": 0.05,
            },
        },
        "brain_plane": {
            "label": "trans-thalamic",
            "confidence": 0.5,
            "scores": {"trans-thalamic": 0.5},
        },
        "gestational_age": None,
        "head_circumference_mm": None,
        "timing_ms": {
            "grab": 0.25,
            "queue": 2.0,
            "preprocess": 1.0,
            "inference": 20.0,
            "interpret": 0.5,
            "capture_to_result": 24.0,
        },
        "frame_index": 3,
        "pts_s": 0.5,
        "dropped": 0,
    }
    assert (second["state"], second["frame_index"]) == ("frozen", 4)


def test_a_stream_writes_every_result_and_closes_the_file(tmp_path: Path) -> None:
    model: Any = LiveModel()
    sink = fe.JsonlSink(str(tmp_path / "a.jsonl"))
    with fe.stream(IMAGES, model=model, sinks=[sink]) as live:
        results = [result.to_dict() for result in live]
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == results
    assert live.stats().sinks == {"jsonl": SinkStats(5, 0, None)}
    with pytest.raises(fe.SinkError, match="closed"):
        sink.write(None)  # type: ignore[arg-type]
    sink.close()


def test_a_file_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"missing/a\.jsonl cannot be written: No such file"):
        fe.JsonlSink(tmp_path / "missing" / "a.jsonl")
    with pytest.raises(fe.SinkError, match="Is a directory"):
        fe.JsonlSink(tmp_path)


def test_a_full_disk_is_told(make_result: MakeResult) -> None:
    sink = fe.JsonlSink("/dev/full")
    with pytest.raises(fe.SinkError, match="/dev/full cannot be written: No space left"):
        sink.write(make_result())
    # Closing tries to write once more what is still buffered.
    with pytest.raises(fe.SinkError, match="No space left"):
        sink.close()


def test_a_callback_gets_result_and_frame_in_another_thread() -> None:
    seen: list[tuple[int | None, int, str]] = []

    def note(result: Result, frame: Frame | None) -> None:
        assert frame is not None
        seen.append((result.frame_index, frame.index, threading.current_thread().name))

    model: Any = LiveModel()
    with fe.stream(IMAGES, model=model, sinks=[fe.CallbackSink(note, name="note")]) as live:
        assert len(list(live)) == 5
    assert seen == [(n, n, "fetalclip-edge sink note") for n in range(5)]


def test_a_callback_by_hand(make_result: MakeResult, make_frame: MakeFrame) -> None:
    seen: list[object] = []
    with fe.CallbackSink(lambda *given: seen.append(given)) as sink:
        result, frame = make_result(), make_frame()
        sink.write(result, frame)
    assert seen == [(result, frame)]
    with pytest.raises(TypeError, match="call must be callable"):
        fe.CallbackSink("print")  # type: ignore[arg-type]
