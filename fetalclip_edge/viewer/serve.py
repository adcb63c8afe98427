"""Runs the stream and the web server side by side, until Ctrl-C."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from fetalclip_edge.stream import Stream
from fetalclip_edge.viewer.guard import Guard
from fetalclip_edge.viewer.hub import Hub

__all__ = ["address_of", "listen", "serving", "show"]

_LONGEST_MESSAGE = 4096
"""Bytes that a page may send at once: its wishes are short."""

_END_S = 5.0


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to that address; port 0 takes a free one.

    Raises:
        OSError: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def address_of(host: str, port: int, token: str | None) -> str:
    """The URL to open, of this machine's own address where the server listens on all."""
    if host in ("", "0.0.0.0", "::"):
        host = _own_address()
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + ("" if token is None else f"?token={token}")


def _own_address() -> str:
    # Sends nothing: it only asks which address a packet to the outside would have.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])


def show(live: Stream, app: Guard, hub: Hub, listener: socket.socket) -> None:
    """Stream into the hub, and serve its pages, until Ctrl-C. A recording that ends stays shown.

    Raises:
        SourceError: the source broke.
        KeyboardInterrupt: Ctrl-C. The server has ended when it is raised.
    """
    with serving(app, listener) as thread:
        with live:
            for _ in live:
                if not thread.is_alive():
                    raise RuntimeError("the web server has ended; see the log")
        hub.end("the recording has ended")
        thread.join()


@contextmanager
def serving(app: Guard, listener: socket.socket) -> Iterator[threading.Thread]:
    """Serve for as long as the context lasts, in the thread that it gives."""
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            ws="websockets-sansio",
            ws_max_size=_LONGEST_MESSAGE,
            ws_per_message_deflate=False,  # JPEG does not shrink
            server_header=False,
            timeout_graceful_shutdown=1,
        )
    )
    # Not in the main thread, where the server would take Ctrl-C from the stream.
    thread = threading.Thread(
        target=server.run, args=([listener],), name="fetalclip-edge web server", daemon=True
    )
    thread.start()
    try:
        yield thread
    finally:
        server.should_exit = True
        thread.join(_END_S)
