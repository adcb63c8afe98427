"""The web application: the page's files, the kept pictures, and the WebSocket of each page."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
from fastapi import FastAPI, HTTPException, Response, WebSocket, WebSocketDisconnect
from starlette.staticfiles import StaticFiles

from fetalclip_edge.pixels import encode_jpeg, encode_png
from fetalclip_edge.viewer.exams import Ended
from fetalclip_edge.viewer.guard import Guard
from fetalclip_edge.viewer.hub import Hub, TooManyViewersError, Viewer

__all__ = ["make_app"]

_PAGE = Path(__file__).parent / "page"
_THUMBNAIL_SIDE, _THUMBNAIL_QUALITY = 320, 82
_SILENT_PAGE_S = 20.0
"""A page that has shown nothing for so long is gone, or sleeps; it opens a new connection."""

_BAD_MESSAGE, _TRY_LATER = 1008, 1013


def make_app(
    hub: Hub,
    *,
    token: str | None,
    port: int,
    new_exam: Callable[[], Ended],
    report: Callable[[], bytes],
) -> Guard:
    """The application that uvicorn serves.

    Args:
        hub: gives the moments; its task runs for as long as the application does.
        token: what visitors must bring, or None on loopback.
        port: that the server listens on.
        new_exam: ends the exam, and says what became of it.
        report: the report of the exam so far, as a page.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(hub.run())
        yield
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/captured/{item}.{kind}")
    def captured(item: str, kind: str) -> Response:
        plane = hub.checklist.captured().get(item)
        if plane is None or kind not in ("png", "jpg"):
            raise HTTPException(404, "no such picture")
        if kind == "jpg":
            jpeg = encode_jpeg(plane.image, _THUMBNAIL_SIDE, _THUMBNAIL_QUALITY)
            return Response(jpeg, media_type="image/jpeg")
        return Response(encode_png(plane.image), media_type="image/png")

    @app.get("/report.html")
    def exam_report() -> Response:
        # To be saved and not shown here, where the screen's own style alone is let in.
        named = {"Content-Disposition": 'attachment; filename="exam-report.html"'}
        return Response(report(), media_type="text/html; charset=utf-8", headers=named)

    @app.websocket("/live")
    async def live(socket: WebSocket) -> None:
        try:
            viewer = hub.join()
        except TooManyViewersError as error:
            await socket.accept()
            await socket.close(_TRY_LATER, str(error))
            return
        page = _Page(hub, viewer, socket, new_exam)
        try:
            await socket.accept()
            async with anyio.create_task_group() as both:
                # Whichever direction ends first ends the other.
                for work in (page.send, page.receive):
                    both.start_soon(_then, work, both.cancel_scope.cancel)
        finally:
            hub.leave(viewer)

    app.mount("/", StaticFiles(directory=_PAGE, html=True))
    return Guard(app, token=token, port=port)


async def _then(work: Callable[[], Awaitable[None]], after: Callable[[], object]) -> None:
    await work()
    after()


class _Page:
    """Both directions of one page's WebSocket."""

    def __init__(
        self, hub: Hub, viewer: Viewer, socket: WebSocket, new_exam: Callable[[], Ended]
    ) -> None:
        self._hub, self._viewer, self._socket, self._new_exam = hub, viewer, socket, new_exam

    async def send(self) -> None:
        with contextlib.suppress(WebSocketDisconnect, TimeoutError):
            while True:
                with anyio.fail_after(_SILENT_PAGE_S):
                    data = await self._viewer.take()
                await self._socket.send_bytes(data)
        await self._close(_TRY_LATER)

    async def receive(self) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                try:
                    wish = json.loads(await self._socket.receive_text())
                    await self._do(wish["do"], wish.get("number"))
                except (ValueError, TypeError, KeyError, AttributeError):
                    await self._close(_BAD_MESSAGE)
                    return

    async def _do(self, what: str, number: Any) -> None:
        if what == "shown":
            self._viewer.shown()
        elif what == "hold":
            self._viewer.hold(number)
        elif what == "release":
            self._viewer.hold(None)
        elif what == "capture":
            await self._capture(number)
        elif what == "new_exam":
            ended = await asyncio.to_thread(self._hub.end_exam, self._new_exam)
            await self._say(ended.words, ok=ended.new)
        else:
            raise ValueError(f"a page cannot ask for {what!r}")

    async def _capture(self, number: int) -> None:
        moment = self._viewer.find(number)
        if moment is None:
            await self._say("That picture is gone. Freeze first, then capture.", ok=False)
            return
        try:
            kept = await asyncio.to_thread(self._hub.capture, moment)
        except ValueError as error:
            await self._say(f"Not captured: {error}.", ok=False)
            return
        await self._say(f"Captured: {', '.join(plane.item for plane in kept)}.")
        self._hub.refresh()

    async def _say(self, words: str, *, ok: bool = True) -> None:
        await self._socket.send_text(json.dumps({"notice": words, "ok": ok}))

    async def _close(self, code: int) -> None:
        # It may be closed already, by the page.
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await self._socket.close(code)
