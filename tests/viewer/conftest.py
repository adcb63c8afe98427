from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra viewer is not installed")

from starlette.testclient import TestClient, WebSocketTestSession

from fetalclip_edge.checklist import Checklist
from fetalclip_edge.viewer.app import make_app
from fetalclip_edge.viewer.exams import Exams
from fetalclip_edge.viewer.hub import Hub

WAIT = 120.0
"""Seconds after which a test gives up, on the busiest machine."""


class Page:
    """What a page does: takes messages, and says that it has shown them, or does not."""

    def __init__(self, socket: WebSocketTestSession) -> None:
        self._socket = socket

    def take(self) -> tuple[dict[str, Any], bytes]:
        """The next message with a moment."""
        data = self._socket.receive_bytes()
        (length,) = struct.unpack(">I", data[:4])
        return json.loads(data[4 : 4 + length]), data[4 + length :]

    def wish(self, **wish: Any) -> None:
        self._socket.send_text(json.dumps(wish))

    def show(self) -> tuple[dict[str, Any], bytes]:
        """Take a message and say that it was shown."""
        message = self.take()
        self.wish(do="shown")
        return message

    def show_until(self, found: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Show what comes until a moment is found."""
        for _ in range(100):
            if found(header := self.show()[0]):
                return header
        raise AssertionError(f"not among a hundred messages; the last: {header}")

    def notice(self) -> dict[str, Any]:
        """The next notice; moments before it are shown."""
        for _ in range(100):
            message = self._socket.receive()
            if message.get("text") is not None:
                notice: dict[str, Any] = json.loads(message["text"])
                return notice
            assert message["type"] == "websocket.send", message
            self.wish(do="shown")
        raise AssertionError("no notice among a hundred messages")


@pytest.fixture
def hub() -> Hub:
    return Hub(Checklist())


@pytest.fixture
def exams(hub: Hub) -> Exams:
    return Exams(hub.checklist, None)


@pytest.fixture
def client(hub: Hub, exams: Exams) -> Iterator[TestClient]:
    """A browser on this machine, where no token is asked for."""
    app = make_app(
        hub,
        token=None,
        port=8765,
        new_exam=exams.end,
        report=lambda: b"<!doctype html>what there is",
    )
    with TestClient(app, base_url="http://127.0.0.1:8765") as browser:
        yield browser


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No message but when there is news."""
    monkeypatch.setattr("fetalclip_edge.viewer.hub._HEARTBEAT_S", 600.0)


def connect(client: TestClient, **headers: str) -> WebSocketTestSession:
    """A WebSocket, addressed as the browser's pages are."""
    address = str(client.base_url).replace("http", "ws")
    return client.websocket_connect(f"{address}/live", headers=headers)


@contextmanager
def open_page(client: TestClient) -> Iterator[Page]:
    with connect(client) as socket:
        yield Page(socket)


@contextmanager
def viewing(*arguments: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The command, and the address that it says."""
    command = [sys.executable, "-m", "fetalclip_edge.cli", "view", "--port", "0"]
    with subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            said = re.fullmatch(r"open (http://\S+)  \(Ctrl-C ends\)\n", process.stdout.readline())
            assert said
            yield said[1], process
        finally:
            process.kill()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless browser, for tests marked `browser`."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="no Playwright: pip install 'fetalclip-edge[browser]'"
    )
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no browser: apt install chromium")
    # Chromium refuses its sandbox to root.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()
