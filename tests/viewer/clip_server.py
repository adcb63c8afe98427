"""The shipped clip as a live Motion JPEG stream, of its own process: `clip_server.py CLIP PORT`.

Tissue alone, then the head, over and over, at 15 pictures a second; never the frozen end.
"""

from __future__ import annotations

import http.server
import sys
import time

import av
import cv2

SHOWN = [*range(60), *range(140, 250)]


def read_pictures(clip: str) -> list[bytes]:
    with av.open(clip) as container:
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    return [cv2.imencode(".jpg", frames[number])[1].tobytes() for number in SHOWN]


class Pictures(http.server.BaseHTTPRequestHandler):
    pictures: list[bytes]

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
        self.end_headers()
        while True:
            for jpeg in self.pictures:
                head = (
                    f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                )
                self.wfile.write(head.encode() + jpeg + b"\r\n")
                time.sleep(1 / 15)

    def log_message(self, *args: object) -> None:
        pass


if __name__ == "__main__":
    Pictures.pictures = read_pictures(sys.argv[1])
    address = ("127.0.0.1", int(sys.argv[2]))
    http.server.ThreadingHTTPServer.allow_reuse_address = True
    with http.server.ThreadingHTTPServer(address, Pictures) as server:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        server.serve_forever()
