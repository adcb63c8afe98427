"""Motion JPEG over HTTP."""

from __future__ import annotations

import socket

import cv2
from server import GARBAGE, Mood

BOUNDARY = "picture"


def serve(connection: socket.socket, mood: Mood) -> None:
    while b"\r\n\r\n" not in connection.recv(4096):
        pass
    kind = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
    connection.sendall(f"HTTP/1.0 200 OK\r\nContent-Type: {kind}\r\n\r\n".encode())
    for picture, trick in mood.pictures():
        jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
        if trick == "truncate":
            jpeg = jpeg[: len(jpeg) // 2]
        head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
        connection.sendall(head.encode() + jpeg + b"\r\n")
        if trick == "garbage":
            connection.sendall(GARBAGE)
