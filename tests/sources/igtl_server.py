"""An OpenIGTLink server in a thread, which sends the bytes it is given; pyigtl packs them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from pyigtl import ImageMessage

DEVICE = "Image_Reference"


def packed(image: np.ndarray, device: str = DEVICE, **fields: object) -> bytes:
    """One IMAGE message of a picture `(H, W)` or `(H, W, 3)`."""
    return ImageMessage(image[None], device_name=device, **fields).pack()


@contextmanager
def serving(*pieces: bytes, hold: bool = False) -> Iterator[str]:
    """The address of a server that sends the pieces to whoever comes, then hangs up.

    Args:
        hold: keep the connection open until the end instead.
    """
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while not done.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        for piece in pieces:
                            connection.sendall(piece)
                    except OSError:
                        continue
                    if hold:
                        done.wait()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"igtl://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            done.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
