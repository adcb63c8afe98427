"""OpenIGTLink, with a transform between the pictures."""

from __future__ import annotations

import socket

import numpy as np
from pyigtl import ImageMessage, TransformMessage
from server import GARBAGE, Mood


def serve(connection: socket.socket, mood: Mood) -> None:
    scale = np.diag([0.2, 0.2, 1, 1])
    for picture, trick in mood.pictures():
        message = ImageMessage(picture[None], scale, device_name="Image").pack()
        if trick == "truncate":
            message = message[: len(message) // 2]
        connection.sendall(TransformMessage(np.eye(4), device_name="Probe").pack() + message)
        if trick == "garbage":
            connection.sendall(GARBAGE)
