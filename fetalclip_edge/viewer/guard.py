"""Who may see the page: everyone on this machine, or whoever has the token."""

from __future__ import annotations

import ipaddress
import secrets
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard", "is_loopback"]

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Pictures of patients do not belong in a browser's cache.
    "Cache-Control": "no-store",
}

_REFUSED = 4403
"""Close code of a WebSocket that is not let in; sent as HTTP 403, for it was never accepted."""


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Stands before the whole application, pages and WebSocket alike.

    Without a token, requests must be addressed to this machine by a loopback name (a page of
    another site that has its own name point here is refused). With a token, they must bring it: in
    the URL the first time, then in a cookie. A WebSocket must come from a page of this server.

    Args:
        app: what is guarded.
        token: or None when the server listens on loopback alone.
        port: that the server listens on, part of the cookie's name: cookies know no ports.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, port: int) -> None:
        self._app, self._token = app, token
        self._cookie = f"fetalclip_edge_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["type"] == "websocket":
            if self._refusal(headers) or not _from_own_page(headers):
                await receive()
                await send({"type": "websocket.close", "code": _REFUSED})
                return
            await self._app(scope, receive, send)
            return
        answer = self._first_visit(scope) or self._refusal(headers) or self._app
        await answer(scope, receive, _with_headers(send))

    def _first_visit(self, scope: Scope) -> Response | None:
        """Put the token of the URL into a cookie, and drop it from the URL."""
        if self._token is None:
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if not self._is_token(given):
            return None
        response = RedirectResponse("/", status_code=303)
        # Lax: a link in a message opens; other sites' pages cannot use the cookie otherwise.
        response.set_cookie(self._cookie, self._token, httponly=True, samesite="lax")
        return response

    def _refusal(self, headers: Headers) -> Response | None:
        if self._token is None:
            if is_loopback(_host_name(headers.get("host", ""))):
                return None
            return PlainTextResponse("open this page as http://127.0.0.1\n", status_code=403)
        cookies = cookie_parser(headers.get("cookie", ""))
        if self._is_token(cookies.get(self._cookie, "")):
            return None
        return PlainTextResponse(
            "open the address, with its token, that fetalclip-edge view has printed\n",
            status_code=403,
        )

    def _is_token(self, given: str) -> bool:
        assert self._token is not None
        return secrets.compare_digest(given.encode("utf-8", "replace"), self._token.encode())


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _from_own_page(headers: Headers) -> bool:
    """Whether a WebSocket's origin is this server. Programs other than browsers send none."""
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host", "")


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(_HEADERS)
        await send(message)

    return send_with_headers
