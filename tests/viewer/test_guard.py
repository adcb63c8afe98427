"""Who is let in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient, WebSocketDisconnect

from fetalclip_edge.viewer.app import make_app
from fetalclip_edge.viewer.guard import is_loopback
from fetalclip_edge.viewer.hub import Hub
from fetalclip_edge.viewer.serve import address_of

from ..moments import frame, result
from .conftest import Page, connect

TOKEN = "correct-horse-battery-staple"


@pytest.fixture
def stranger(hub: Hub) -> Iterator[TestClient]:
    """A browser of another machine, which has not been given the token yet."""
    hub.write(result(), frame(0))
    app = make_app(hub, token=TOKEN, port=8765, new_exam=lambda: "", report=lambda: b"")
    with TestClient(app, base_url="http://192.168.0.7:8765") as browser:
        yield browser


def can_watch(client: TestClient, **headers: str) -> bool:
    try:
        with connect(client, **headers) as socket:
            Page(socket).take()
    except WebSocketDisconnect:
        return False
    return True


def test_without_the_token_nothing_is_shown(stranger: TestClient) -> None:
    for path in ("/", "/main.js", "/captured/femur.png", "/nothing", "/?token=", "/?token=x"):
        answer = stranger.get(path)
        assert answer.status_code == 403, path
        assert "set-cookie" not in answer.headers
    assert not can_watch(stranger)


@pytest.mark.parametrize("token", ["", "x", TOKEN[:-1], TOKEN + "x", "%C3%A9%FF", "\udcff"])
def test_a_wrong_token_is_refused(stranger: TestClient, token: str) -> None:
    cookie = f"fetalclip_edge_8765={token}".encode("utf-8", "surrogateescape")
    assert stranger.get("/", headers={b"cookie": cookie}).status_code == 403
    if token.isascii():
        assert stranger.get(f"/?token={token}").status_code == 403


def test_the_token_of_the_url_becomes_a_cookie(stranger: TestClient) -> None:
    first = stranger.get(f"/?token={TOKEN}", follow_redirects=False)
    assert (first.status_code, first.headers["location"]) == (303, "/")
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    # From here on the browser has the cookie.
    page = stranger.get("/")
    assert page.status_code == 200
    assert "Not a medical device" in page.text
    assert can_watch(stranger)


def test_a_token_leads_to_this_page_and_to_no_other(stranger: TestClient) -> None:
    answer = stranger.get(f"//evil.example/?token={TOKEN}", follow_redirects=False)
    assert answer.headers.get("location", "/") == "/"


def test_another_sites_page_cannot_watch(stranger: TestClient) -> None:
    stranger.get(f"/?token={TOKEN}")
    assert can_watch(stranger, origin="http://192.168.0.7:8765")
    assert not can_watch(stranger, origin="http://evil.example")
    assert not can_watch(stranger, origin="http://192.168.0.7:9999")
    assert not can_watch(stranger, origin="null")


def test_another_sites_page_cannot_watch_on_this_machine(hub: Hub, client: TestClient) -> None:
    hub.write(result(), frame(0))
    assert can_watch(client, origin="http://127.0.0.1:8765")
    assert not can_watch(client, origin="http://evil.example")


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "[::1]:8765", "127.0.0.1"])
def test_this_machine_needs_no_token(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "[", "10.0.0.1"])
def test_a_name_that_was_made_to_point_here_is_refused(
    hub: Hub, client: TestClient, host: str
) -> None:
    hub.write(result(), frame(0))
    assert client.get("/", headers={"host": host}).status_code == 403
    assert not can_watch(client, host=host)


@pytest.mark.parametrize("path", ["/", "/main.js", "/style.css", "/nothing"])
def test_every_answer_forbids_foreign_content(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "/docs"])
def test_nothing_but_the_page_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_the_page_needs_nothing_from_elsewhere(client: TestClient) -> None:
    for name in ("", "style.css", "main.js", "connection.js", "checklist.js", "icon.svg"):
        text = client.get(f"/{name}").text.replace("http://www.w3.org/", "")
        assert "http://" not in text
        assert "https://" not in text


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.7", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_loopback_is_told_from_the_network(host: str, alone: bool) -> None:
    assert is_loopback(host) is alone


@pytest.mark.parametrize(
    ("arguments", "address"),
    [
        (("127.0.0.1", 80, None), "http://127.0.0.1:80/"),
        (("::1", 8765, None), "http://[::1]:8765/"),
        (("10.0.0.5", 8765, "secret"), "http://10.0.0.5:8765/?token=secret"),
    ],
)
def test_the_address_is_one_to_open(arguments: tuple[str, int, str | None], address: str) -> None:
    assert address_of(*arguments) == address


def test_of_all_addresses_one_that_others_can_open_is_said() -> None:
    assert "0.0.0.0" not in address_of("0.0.0.0", 1, None)
