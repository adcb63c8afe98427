"""What pages get of a stream: everyone the newest, nobody the past."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import cv2
import numpy as np
import pytest
from starlette.testclient import TestClient, WebSocketDisconnect

import fetalclip_edge as fe
from fetalclip_edge.viewer import hub as hub_module
from fetalclip_edge.viewer.hub import Hub

from ..moments import DARK, GOOD, frame, measured, result
from .conftest import connect, open_page


def color_frame(**options: object) -> fe.Frame:
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[:, :, 0] = 200
    return frame(0, image, color="rgb", **options)


def test_an_answer_comes_with_its_picture(hub: Hub, client: TestClient) -> None:
    with open_page(client) as page:
        hub.write(result("brain", 0.75, brain_plane="trans-thalamic", dropped=3), color_frame())
        header, jpeg = page.show()
    assert (header["state"], header["plane"]["label"]) == ("live", "brain")
    assert header["plane"]["confidence"] == 0.75
    assert header["brain_plane"]["label"] == "trans-thalamic"
    assert (header["number"], header["dropped"], header["ended"]) == (1, 3, None)
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (40, 60, 3)
    blue, green, red = picture.mean(axis=(0, 1))
    assert red == pytest.approx(200, abs=4)
    assert max(blue, green) < 4


def test_age_and_head_are_shown(hub: Hub, client: TestClient) -> None:
    with open_page(client) as page:
        hub.write(measured(), frame(0))
        header, _ = page.show()
    assert header["head_circumference_mm"] == 176.4
    age = header["gestational_age"]
    assert (age["days"], age["low_days"], age["high_days"]) == (141, 133, 149)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"quality": DARK}, None),
        ({"quality": DARK, "confidence": 0.6}, "too dark: turn the gain up"),
        (
            {"quality": DARK, "label": "other", "state": "out_of_domain"},
            "too dark: turn the gain up",
        ),
        ({"quality": GOOD, "confidence": 0.6}, None),
        ({"quality": None, "confidence": 0.6}, None),
    ],
)
def test_a_page_learns_how_good_the_picture_is_and_what_would_help(
    hub: Hub, client: TestClient, options: dict[str, Any], wanted: str | None
) -> None:
    with open_page(client) as page:
        hub.write(result(**options), frame(0))
        header, _ = page.show()
    assert header["help"] == wanted
    quality = options["quality"]
    assert header["quality"] == (None if quality is None else quality.to_dict())


def test_the_region_alone_is_shown_and_not_the_name_of_the_source(
    hub: Hub, client: TestClient
) -> None:
    with open_page(client) as page:
        named = result(source="/scans/Jane_Doe.dcm")
        hub.write(named, color_frame(region=fe.Region(10, 5, 30, 20)))
        header, jpeg = page.show()
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (20, 30, 3)
    assert "Jane" not in str(header)


def test_a_large_picture_is_made_smaller(hub: Hub, client: TestClient) -> None:
    with open_page(client) as page:
        hub.write(result(), frame(0, np.zeros((1080, 1920), dtype=np.uint8)))
        _, jpeg = page.show()
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    assert picture.shape == (720, 1280)


def test_silence_comes_without_a_picture(hub: Hub, client: TestClient) -> None:
    with open_page(client) as page:
        hub.write(result("other", state="no_signal", reason="looking for it"), None)
        header, jpeg = page.show()
    assert (header["state"], header["reason"]) == ("no_signal", "looking for it")
    assert (header["age_ms"], jpeg) == (None, b"")


def test_a_page_hears_of_a_picture_that_grows_old(hub: Hub, client: TestClient) -> None:
    with open_page(client) as page:
        hub.write(result(), frame(0, captured_ns=hub_module.time.monotonic_ns()))
        first, _ = page.show()
        again, _ = page.show()
    assert again["number"] == first["number"] == 1
    assert again["age_ms"] > first["age_ms"] + 500


def test_a_page_that_opens_late_sees_how_it_stands(hub: Hub, client: TestClient) -> None:
    hub.write(result("abdomen"), frame(0))
    hub.end("the recording has ended")
    with open_page(client) as page:
        header, jpeg = page.show()
    assert (header["plane"]["label"], header["ended"]) == ("abdomen", "the recording has ended")
    assert jpeg


@pytest.mark.usefixtures("quiet")
def test_a_moment_is_encoded_once_for_all_pages(
    hub: Hub, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = hub_module.encode_picture
    monkeypatch.setattr(
        hub_module, "encode_picture", lambda frame: encoded.append(frame) or encode(frame)
    )
    with ExitStack() as pages:
        three = [pages.enter_context(open_page(client)) for _ in range(3)]
        hub.write(result(), frame(0))
        headers = [page.show()[0] for page in three]
    assert [header["number"] for header in headers] == [1, 1, 1]
    assert len(encoded) == 1


@pytest.mark.usefixtures("quiet")
def test_nothing_is_encoded_for_nobody(
    hub: Hub, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[fe.Frame] = []
    monkeypatch.setattr(
        hub_module, "encode_picture", lambda frame: encoded.append(frame) or b"jpeg"
    )
    with open_page(client):
        pass
    hub.write(result(), frame(0))
    hub.write(result(), frame(1))
    with open_page(client) as page:
        page.show_until(lambda header: header["number"] == 2)
    assert {shown.index for shown in encoded} == {1}


@pytest.mark.usefixtures("quiet")
def test_a_slow_page_drops_moments_for_itself_alone(hub: Hub, client: TestClient) -> None:
    with open_page(client) as slow, open_page(client) as fast:
        for number in range(1, 11):
            hub.write(result(), frame(number))
            assert fast.show()[0]["number"] == number
        # Two were on their way to the slow one. It shows them now, and then gets the newest.
        assert [slow.take()[0]["number"] for _ in range(2)] == [1, 2]
        slow.wish(do="shown")
        assert slow.take()[0]["number"] == 10


def test_more_pages_than_can_be_served_are_told_so(hub: Hub, client: TestClient) -> None:
    with ExitStack() as pages:
        for _ in range(16):
            pages.enter_context(open_page(client))
        with open_page(client) as page, pytest.raises(WebSocketDisconnect) as refused:
            page.take()
    assert (refused.value.code, refused.value.reason) == (1013, "16 pages are open already")


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[]", '"shown"', "{}", '{"do": "format the disk"}', '{"do": []}']
)
def test_a_page_that_talks_nonsense_is_closed(client: TestClient, text: str) -> None:
    with connect(client) as socket:
        socket.send_text(text)
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_bytes()
    assert closed.value.code == 1008


def test_a_page_that_sends_bytes_is_closed_and_no_other(hub: Hub, client: TestClient) -> None:
    with open_page(client) as page:
        with connect(client) as rude:
            rude.send_bytes(b"\xff\x00")
            with pytest.raises(WebSocketDisconnect):
                rude.receive_bytes()
        hub.write(result(), frame(0))
        assert page.show()[0]["number"] == 1
