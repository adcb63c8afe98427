"""A video server of its own process, to be killed: `python server.py KIND PORT LEVEL`.

It serves noise around a grey level, 64x48 and 40 pictures a second, each different, for ever. A
line on its input, `TRICK LEVEL`, changes the level, by which pictures from before and after are
told apart, and plays a trick:

    calm      nothing else
    slow      two pictures a second from now on
    resize    pictures of 96x64 from now on
    garbage   random bytes in the middle of the connection, then pictures as before
    truncate  half a picture, then pictures as before
"""

from __future__ import annotations

import contextlib
import importlib
import socket
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np


class Mood:
    """What the server was last told."""

    def __init__(self, level: int) -> None:
        self.level = level
        self.size = (48, 64)
        self.pause_s = 1 / 40
        self.trick = "calm"

    def obey(self) -> None:
        for line in sys.stdin:
            trick, level = line.split()
            if trick == "slow":
                self.pause_s = 0.5
            if trick == "resize":
                self.size = (64, 96)
            # Last, so that no picture of the new level is of the old size.
            self.trick, self.level = trick, int(level)

    def pictures(self) -> Iterator[tuple[np.ndarray, str]]:
        """Pictures, uint8 `(H, W)`, with the trick to play on each."""
        noise = np.random.default_rng(0)
        while True:
            trick, self.trick = self.trick, "calm"
            picture = noise.integers(-20, 21, self.size) + self.level
            yield picture.astype(np.uint8), trick
            time.sleep(self.pause_s)


GARBAGE = np.random.default_rng(1).bytes(3000)


def main() -> None:
    kind, port, level = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    serve = importlib.import_module(kind).serve
    mood = Mood(level)
    threading.Thread(target=mood.obey, daemon=True).start()

    def attend(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            serve(connection, mood)

    with socket.create_server(("127.0.0.1", port)) as listener:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=attend, args=[connection], daemon=True).start()


if __name__ == "__main__":
    sys.modules["server"] = sys.modules["__main__"]
    main()
