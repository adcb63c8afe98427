"""A Motion JPEG server of its own process, to be killed: `python mjpeg_server.py PORT`.

Serves grey noise of 64x48 at 20 pictures a second, each different, for ever.
"""

from __future__ import annotations

import http.server
import sys
import time

import cv2
import numpy as np

BOUNDARY = "picture"


class Pictures(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        self.end_headers()
        noise = np.random.default_rng(0)
        while True:
            picture = noise.integers(0, 256, (48, 64), dtype=np.uint8)
            jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
            head = (
                f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            )
            self.wfile.write(head.encode() + jpeg + b"\r\n")
            time.sleep(0.05)

    def log_message(self, *args: object) -> None:
        pass


if __name__ == "__main__":
    http.server.ThreadingHTTPServer.allow_reuse_address = True
    with http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Pictures) as server:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        server.serve_forever()
