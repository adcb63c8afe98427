"""The page in a real browser, on a real stream."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fetalclip_edge.checklist import Checklist
from fetalclip_edge.demo import DEMO_CLIP
from fetalclip_edge.results import Frame
from fetalclip_edge.viewer.app import make_app
from fetalclip_edge.viewer.exams import Exams
from fetalclip_edge.viewer.hub import Hub
from fetalclip_edge.viewer.serve import listen, serving

from ..moments import DARK, frame, measured, result
from .conftest import WAIT, viewing

pytestmark = pytest.mark.browser

SERVER = Path(__file__).with_name("clip_server.py")
NO_PLANE = "\u2013"
SEVEN_INCHES = {"width": 800, "height": 480}


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
        return number


@contextmanager
def probe(port: int) -> Iterator[subprocess.Popen[str]]:
    """A device that streams the shipped clip, to be killed."""
    command = [sys.executable, str(SERVER), str(DEMO_CLIP), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """An empty page of a 7-inch screen. What goes wrong in its scripts fails the test."""
    opened = chromium.new_page(viewport=SEVEN_INCHES)
    opened.set_default_timeout(1000 * WAIT)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    opened.close()
    assert errors == []


@contextmanager
def showing(hub: Hub) -> Iterator[str]:
    """A server of this process, and its address."""
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        exams = Exams(hub.checklist, None)
        app = make_app(hub, token=None, port=port, new_exam=exams.end, report=lambda: b"")
        with serving(app, listener):
            yield f"http://127.0.0.1:{port}/"


def lasting(index: int) -> Frame:
    """A frame that does not grow old, however slow the machine."""
    return frame(index, captured_ns=time.monotonic_ns() + 3_600_000_000_000)


def reaches(page: Any, state: str) -> None:
    page.wait_for_selector(f"body[data-state={state}]")


def picture(page: Any) -> str:
    pixels: str = page.evaluate("document.getElementById('picture').toDataURL()")
    return pixels


def test_a_stream_is_seen_lost_and_found_again(page: Any, port: int) -> None:
    with probe(port) as device, viewing(f"http://127.0.0.1:{port}/live") as (address, _):
        page.goto(address)
        # The plane changes: none at first, then the brain.
        reaches(page, "out_of_domain")
        assert page.text_content("#state-words") == "No answer"
        assert page.text_content("#plane") == NO_PLANE
        reaches(page, "live")
        page.wait_for_selector("#plane:text-is('Brain')")
        assert page.is_visible("#tag")
        assert page.text_content("#state-words") == "Live"
        assert page.text_content("#confidence").endswith(" %")
        # Held for a second, it is on the checklist.
        page.wait_for_selector("[data-item=brain].done img")
        # The source is killed.
        device.kill()
        reaches(page, "no_signal")
        assert page.text_content("#state-words") == "No signal"
        assert page.is_visible("#veil")
        assert page.text_content("#plane") == NO_PLANE
        assert not page.is_visible("#tag")
        with probe(port):
            reaches(page, "live")
            assert not page.is_visible("#veil")


def test_measures_and_the_quality_of_the_picture_are_told_in_words(page: Any) -> None:
    hub = Hub(Checklist())
    with showing(hub) as address:
        page.goto(address)
        hub.write(measured(), lasting(0))
        page.wait_for_selector("#age:text-is('20 w 1 d (19 w 0 d \u2013 21 w 2 d)')")
        assert page.text_content("#head") == "176 mm"
        assert page.text_content("#look-words") == "Good"
        fits(page, **SEVEN_INCHES)
        # Nothing is known, and why: neither in colour alone.
        hub.write(result("other", state="out_of_domain", quality=DARK), lasting(1))
        page.wait_for_selector("#look-words:text-is('Too dark: turn the gain up')")
        assert page.text_content("#state-hint") == "Waiting for a better picture"
        assert page.get_attribute("#look-icon", "href") == "#icon-out_of_domain"
        assert not page.is_visible("#facts")
        # What is known needs no better picture.
        hub.write(result("brain", quality=DARK), lasting(2))
        page.wait_for_selector("#plane:text-is('Brain')")
        assert page.text_content("#state-hint") == ""
        hub.write(result("other", state="no_signal", reason="lost"), None)
        page.wait_for_selector("#look-words:text-is('\u2013')")


def test_a_picture_is_frozen_and_captured_by_keyboard_and_by_touch(page: Any) -> None:
    with viewing("--hold", "10") as (address, _):
        page.goto(address)
        reaches(page, "live")
        page.wait_for_selector("#plane:text-is('Brain')")
        page.keyboard.press("f")
        reaches(page, "held")
        frozen = picture(page)
        assert page.get_attribute("#freeze", "aria-pressed") == "true"
        page.wait_for_selector("#state-hint:has-text('Behind it')")
        page.click("#capture")
        page.wait_for_selector("#notice:has-text('Captured: brain')")
        page.wait_for_selector("[data-item=brain].done img")
        assert picture(page) == frozen
        page.click("#freeze")
        reaches(page, "live")
        # The kept picture is shown, and the keys of the screen rest meanwhile.
        page.click("[data-item=brain]")
        page.wait_for_selector("#captured-dialog[open] img")
        page.keyboard.press("f")
        assert page.get_attribute("#freeze", "aria-pressed") == "false"
        shown = page.evaluate(
            "document.getElementById('captured-picture').decode().then(() => "
            "document.getElementById('captured-picture').naturalWidth)"
        )
        assert shown == 960
        page.keyboard.press("Escape")
        # A new exam, after a question.
        page.keyboard.press("n")
        page.click("#new-exam-dialog button:text-is('Back')")
        assert page.is_visible("[data-item=brain].done")
        page.wait_for_selector("#plane:text-is('Brain')")
        kept = page.get_attribute("[data-item=brain] img", "src")
        page.keyboard.press("c")
        page.wait_for_selector(f"[data-item=brain] img:not([src='{kept}'])")
        page.keyboard.press("n")
        page.click("#new-exam-dialog button:text-is('New exam')")
        page.wait_for_selector("[data-item=brain].missing")


def test_the_report_is_downloaded_by_keyboard_and_prints_on_one_sheet(
    page: Any, chromium: Any, tmp_path: Path
) -> None:
    with viewing("--hold", "0.5") as (address, _):
        page.goto(address)
        page.wait_for_selector("[data-item=brain].done img")
        with page.expect_download() as download:
            page.keyboard.press("r")
        assert download.value.suggested_filename == "exam-report.html"
        path = tmp_path / "report.html"
        download.value.save_as(path)
    printed = chromium.new_page()
    printed.goto(path.as_uri())
    assert printed.text_content("h1") == "Fetal ultrasound exam report"
    wide = "document.querySelector('figure:not(.missing) image').getBoundingClientRect().width"
    assert printed.evaluate(wide) > 100
    sheets = re.findall(rb"/Type\s*/Page\b", printed.pdf(prefer_css_page_size=True))
    printed.close()
    assert len(sheets) == 1


def test_a_device_that_does_not_answer_is_told_from_a_live_one(page: Any) -> None:
    with viewing() as (address, device):
        page.goto(address)
        page.wait_for_selector("body:not(.veiled)")
        device.send_signal(signal.SIGSTOP)
        reaches(page, "lost")
        assert page.text_content("#state-words") == "No connection"
        assert page.is_visible("#veil")
        assert page.text_content("#plane") == NO_PLANE
        device.send_signal(signal.SIGCONT)
        page.wait_for_selector("body:not(.veiled)")
        device.kill()
        reaches(page, "lost")
        page.keyboard.press("c")
        page.wait_for_selector("#notice.bad")


def test_a_page_that_is_stuck_holds_up_no_other(page: Any, chromium: Any) -> None:
    # Of each connection: a page that shows nothing is let go after a while, and comes back.
    received: dict[str, list[int]] = {"stuck": [], "well": []}

    def count(who: str) -> Any:
        def begin(socket: Any) -> None:
            received[who].append(0)
            socket.on("framereceived", more)

        def more(data: object) -> None:
            received[who][-1] += 1

        return begin

    stuck = chromium.new_page()
    stuck.add_init_script("window.createImageBitmap = () => new Promise(() => {});")
    stuck.on("websocket", count("stuck"))
    page.on("websocket", count("well"))
    with viewing() as (address, _):
        stuck.goto(address)
        page.goto(address)
        while sum(received["well"]) < 20:
            page.wait_for_timeout(100)
        assert max(received["stuck"]) == 2
    stuck.close()


def test_everything_fits_and_can_be_touched(page: Any) -> None:
    with viewing() as (address, _):
        page.goto(address)
        page.wait_for_selector("[data-item=thorax]")
        for width, height in [(800, 480), (1024, 600), (1280, 800), (1920, 1080)]:
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate("document.documentElement.scrollHeight") == height
            fits(page, width, height)
        # Upright, the page may be scrolled down.
        page.set_viewport_size({"width": 480, "height": 800})
        fits(page, 480, 2000)


def fits(page: Any, width: int, height: int) -> None:
    """Nothing beyond the edges, no words cut off, and the disclaimer to be seen."""
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for name in ("#freeze", "#capture", "#new-exam", "#keys", "[data-item=femur]", "footer strong"):
        box = page.locator(name).bounding_box()
        assert box["x"] >= 0, name
        assert box["x"] + box["width"] <= width, name
        assert box["y"] + box["height"] <= height, name
    for name in ("#freeze", "#capture", "[data-item=femur]"):
        assert page.locator(name).bounding_box()["height"] >= 48, name
    assert page.text_content("footer strong") == "Not a medical device."
    assert page.is_visible("footer strong")
    cut = page.evaluate(
        "[...document.querySelectorAll('button, .state, .plane, .label')]"
        ".filter(e => e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 1)"
        ".map(e => `${e.className} ${e.textContent.trim()}`)"
    )
    assert cut == [], (width, height)


def test_the_page_is_for_keyboards_and_screen_readers(page: Any) -> None:
    with viewing() as (address, _):
        page.goto(address)
        page.wait_for_selector("[data-item=thorax]")
        assert page.get_attribute("#state-words", "aria-live") == "polite"
        order = []
        for _ in range(4):
            page.keyboard.press("Tab")
            order.append(page.evaluate("document.activeElement.id"))
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid"
        assert order[:2] == ["freeze", "capture"]
        identities = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(set(identities)) == len(identities)
        page.keyboard.press("?")
        page.wait_for_selector("#keys-dialog[open]")
        signs = page.locator("#signs dt").all_text_contents()
        assert len(set(signs)) == len(signs) == 7
        page.keyboard.press("Escape")
        assert page.locator("#keys-dialog[open]").count() == 0
        for button in page.locator("button:visible").all():
            assert button.get_attribute("aria-label") or button.text_content().strip()
