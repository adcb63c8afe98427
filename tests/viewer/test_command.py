"""`fetalclip-edge view`: bad input, and a server of its own process that is ended by Ctrl-C."""

from __future__ import annotations

import json
import re
import signal
import socket
import struct
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import fetalclip_edge as fe

from ..command_line import CommandLine
from .conftest import WAIT, viewing


def test_the_shipped_clip_is_shown_until_ctrl_c() -> None:
    with viewing() as (address, process):
        page = urllib.request.urlopen(address, timeout=WAIT).read().decode()
        assert "Not a medical device" in page
        report = urllib.request.urlopen(f"{address}report.html", timeout=WAIT).read().decode()
        assert "Fetal ultrasound exam report" in report
        assert "simulated_head" not in report
        with connect(address.replace("http", "ws") + "live", open_timeout=WAIT) as page_socket:
            message = page_socket.recv(timeout=WAIT)
            assert isinstance(message, bytes)
            (length,) = struct.unpack(">I", message[:4])
            header = json.loads(message[4 : 4 + length])
            picture = cv2.imdecode(np.frombuffer(message[4 + length :], np.uint8), cv2.IMREAD_COLOR)
            assert picture is not None
            assert picture.shape == (720, 960, 3)
            assert header["state"] in ("live", "frozen", "out_of_domain")
            process.send_signal(signal.SIGINT)
            with pytest.raises(ConnectionClosed):
                while True:
                    page_socket.recv(timeout=WAIT)
        _, errors = process.communicate(timeout=WAIT)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "error" not in errors.lower()


def test_the_report_holds_what_was_measured(tmp_path: Path, clip_images: list[np.ndarray]) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    cv2.imwrite(str(folder / "head.png"), clip_images[200])
    # Of the shipped clip, by the comment in it; the head of 200 mm was simulated.
    with viewing(folder, "--pixel-size-mm", "0.15277", "--loop") as (address, _):
        for _attempt in range(600):
            report = urllib.request.urlopen(f"{address}report.html", timeout=WAIT).read().decode()
            if found := re.search(r"(\d+\.\d) mm on this picture", report):
                break
            time.sleep(0.1)
    assert found is not None
    assert 190 < float(found[1]) < 210
    # A picture that stands for itself need not be held.
    assert 'aria-label="Brain"' in report


def test_a_recording_that_has_ended_stays_and_its_exam_is_saved(
    tmp_path: Path, clip_images: list[np.ndarray]
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for name in "abc":
        cv2.imwrite(str(folder / f"{name}.png"), clip_images[200])
    with viewing(folder, "--save", tmp_path / "exams") as (address, process):
        with connect(address.replace("http", "ws") + "live", open_timeout=WAIT) as page_socket:
            while True:
                message = page_socket.recv(timeout=WAIT)
                assert isinstance(message, bytes)
                (length,) = struct.unpack(">I", message[:4])
                header = json.loads(message[4 : 4 + length])
                page_socket.send('{"do": "shown"}')
                if header["ended"]:
                    break
            assert header["plane"]["label"] == "brain"
            # Of pictures none is left out, however fast they can be read.
            report = urllib.request.urlopen(f"{address}report.html", timeout=WAIT).read().decode()
            assert "<dd>3 live</dd>" in report
            page_socket.send(json.dumps({"do": "capture", "number": header["number"]}))
            while not isinstance(notice := page_socket.recv(timeout=WAIT), str):
                page_socket.send('{"do": "shown"}')
            assert json.loads(notice)["ok"] is True
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=WAIT)
    assert "Saved as exam-001: " in errors
    report = json.loads((tmp_path / "exams" / "exam-001" / "checklist.json").read_text())
    assert report["planes"]["brain"]["by_hand"] is True
    assert (tmp_path / "exams" / "exam-001" / "brain.png").is_file()


def test_a_new_exam_is_one_for_the_stream_too(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a page whose button is pressed while the stream runs
    told: list[str] = []
    pressed: dict[str, Any] = {}
    monkeypatch.setattr(
        "fetalclip_edge.viewer.app.make_app", lambda hub, **given: pressed.update(given)
    )
    monkeypatch.setattr(fe.Stream, "new_exam", lambda live: told.append(live.source.name))

    def show(live: fe.Stream, *_: object) -> None:
        with live:
            next(live)
            told.append(pressed["new_exam"]().words)

    monkeypatch.setattr("fetalclip_edge.viewer.serve.show", show)
    done = command_line("view", "--port", "0")
    # Then the stream forgets the patient before, as the report does
    assert done.code == 0
    assert told[-1] == "New exam."
    assert told[0].endswith("simulated_head.mp4")


def test_from_other_machines_a_token_is_asked_for() -> None:
    with viewing("--host", "0.0.0.0") as (address, _):
        port, token = re.fullmatch(r"http://[^/]+:(\d+)/\?token=([\w-]{20,})", address).groups()
        own = f"http://127.0.0.1:{port}/"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(own, timeout=WAIT)
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        assert browser.open(f"{own}?token={token}", timeout=WAIT).status == 200
        assert browser.open(own, timeout=WAIT).status == 200


def test_a_port_that_is_taken_is_bad_input(command_line: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = command_line("view", "--port", port)
    assert done.code == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/nowhere/clip.mp4"], "there is no such file or folder"),
        (["gopher://example/live"], "is no kind of source"),
        (["http://127.0.0.1:9/live"], "127.0.0.1:9"),
        (["http://127.0.0.1:9/live", "--loop"], "cannot be looped"),
        (["--region", "1,2,3"], "--region must be X,Y,WIDTH,HEIGHT"),
        (["--hold", "99"], "--hold must be 0.1 to 10 seconds"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
        (["--save", __file__], "cannot be made a folder"),
        (["--backend", "abacus"], "abacus"),
        (["--bundle", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_input_is_said_in_a_line(
    command_line: CommandLine, arguments: list[str], words: str
) -> None:
    done = command_line("view", "--port", "0", *arguments)
    assert done.code == 2
    assert words in done.err
    assert done.out == ""


def test_the_extra_that_is_missing_is_named(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = command_line("view")
    assert done.code == 1
    assert 'pip install "fetalclip-edge[viewer]"' in done.err
