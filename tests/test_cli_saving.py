"""What `fetalclip-edge stream` saves and serves, and the table that a terminal shows."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import av
import pytest

import fetalclip_edge as fe
from fetalclip_edge.demo import DEMO_CLIP
from fetalclip_edge.errors import SinkError
from fetalclip_edge.results import Frame, Result

from .command_line import CommandLine

COMMAND = [sys.executable, "-m", "fetalclip_edge.cli", "stream", str(DEMO_CLIP)]


def without_times(lines: list[str]) -> list[dict[str, object]]:
    return [{k: v for k, v in json.loads(line).items() if k != "timing_ms"} for line in lines]


def test_a_recording_is_saved_whole(command_line: CommandLine, tmp_path: Path) -> None:
    run = command_line(
        *("stream", DEMO_CLIP, "--json", "--max-frames", 12),
        *("--save-jsonl", tmp_path / "a.jsonl", "--save-video", tmp_path / "a.mkv"),
    )
    assert (run.code, run.err) == (0, "")
    # The same objects, every one, although writing the video takes longer than answering.
    assert (tmp_path / "a.jsonl").read_text() == run.out
    assert len(run.objects) == 12
    with av.open(str(tmp_path / "a.mkv")) as container:
        times = [float(frame.time) for frame in container.decode(video=0)]
    assert times == pytest.approx([n / 30 for n in range(12)], abs=0.002)


def test_a_live_stream_is_saved_too(command_line: CommandLine, tmp_path: Path) -> None:
    run = command_line(
        *("stream", DEMO_CLIP, "--json", "--policy", "latest", "--max-frames", 5, "--details"),
        *("--save-jsonl", tmp_path / "a.jsonl"),
    )
    assert run.code == 0
    saved = (tmp_path / "a.jsonl").read_text().splitlines()
    assert without_times(saved) == without_times(run.out.splitlines())
    assert len(saved) == 5
    assert all("quality" in json.loads(line) for line in saved)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--save-jsonl", "missing/a.jsonl"], "missing/a.jsonl cannot be written"),
        (["--save-video", "missing/a.mp4"], "missing/a.mp4 cannot be written"),
        (["--save-video", "a.words"], "end its name in .mp4 or .mkv"),
        (["--metrics-port", "0"], "--metrics-port"),
        (["--metrics-port", "70000"], "--metrics-port"),
    ],
)
def test_what_cannot_be_saved_is_bad_input(
    options: list[str],
    told: str,
    command_line: CommandLine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    run = command_line("stream", DEMO_CLIP, "--json", *options)
    assert (run.code, run.out) == (2, "")
    assert told in " ".join(run.err.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "mistake",
    [
        ["missing.mp4"],
        [DEMO_CLIP, "--policy", "newest"],
        [DEMO_CLIP, "--policy", "latest", "--pixel-size-mm", "-1"],
    ],
)
def test_a_mistake_elsewhere_overwrites_nothing(
    mistake: list[str], command_line: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text("yesterday")
    run = command_line("stream", *mistake, "--save-jsonl", tmp_path / "a.jsonl")
    assert run.code == 2
    assert (tmp_path / "a.jsonl").read_text() == "yesterday"


def test_ctrl_c_leaves_a_video_that_plays(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"  # which nothing plays that was not finished
    command = [*COMMAND, "--json", "--save-video", str(video)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdout is not None
        for _ in range(3):
            assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    with av.open(str(video)) as container:
        assert len(list(container.decode(video=0))) >= 1


def test_a_full_disk_ends_the_saving_of_a_recording(command_line: CommandLine) -> None:
    run = command_line("stream", DEMO_CLIP, "--json", "--save-jsonl", "/dev/full")
    assert run.code == 1
    assert "No space left" in run.err


@pytest.mark.parametrize("as_json", [True, False])
def test_a_sink_that_fails_costs_a_live_stream_its_exit_code_alone(
    as_json: bool, command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: fe.JsonlSink, result: Result, frame: Frame | None = None) -> None:
        raise SinkError("disk full")

    monkeypatch.setattr(fe.JsonlSink, "write", fail)
    run = command_line(
        *("stream", DEMO_CLIP, "--policy", "latest", "--max-frames", 3),
        *("--save-jsonl", tmp_path / "a.jsonl", *(["--json"] if as_json else [])),
    )
    assert run.code == 1
    assert len(run.objects) == 3 if as_json else "3 results of" in run.out
    assert "jsonl: 3 results lost, 0 written" in run.err
    assert "error: not all was saved: jsonl (SinkError: disk full)" in run.err


def test_metrics_are_served_while_it_streams() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*COMMAND, "--json", "--policy", "latest", "--metrics-port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdout is not None
        for _ in range(3):
            assert process.stdout.readline()
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 130
    assert re.search(r'fetalclip_edge_latency_seconds_count{stage="inference"} [1-9]', text)


def test_a_terminal_shows_a_table_and_after_ctrl_c_the_summary() -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    process = subprocess.Popen(
        [*COMMAND, "--policy", "latest"], stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    written, answered = bytearray(), threading.Event()

    def read() -> None:
        try:
            while block := os.read(ours, 65536):
                written.extend(block)
                if b"withheld" in written or b" %" in written:
                    answered.set()
        except OSError:  # how Linux says that the other side has closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    assert answered.wait(60)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    reader.join(10)
    os.close(ours)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())
    table, _, summary = shown.partition(" results of ")
    for words in ("simulated_head.mp4", "state", "confidence", "sub-plane", "p95", "dropped"):
        assert words in table
    assert "Not a medical device" in table
    assert "Latency in milliseconds" in summary
    assert b"\x1b[?25h" in written  # the cursor is back
