"""RTSP (RFC 2326) with H.264 in RTP (RFC 6184) over the same TCP connection, and no more of it."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Iterator

import av
from server import GARBAGE, Mood

SDP = "\r\n".join(
    [
        "v=0",
        "o=- 0 0 IN IP4 127.0.0.1",
        "s=noise",
        "c=IN IP4 127.0.0.1",
        "t=0 0",
        "m=video 0 RTP/AVP 96",
        "a=rtpmap:96 H264/90000",
        "a=fmtp:96 packetization-mode=1",
        "a=control:track0",
        "",
    ]
)
HEADERS = {
    "OPTIONS": "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n",
    "DESCRIBE": f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n",
    "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n",
}
FRAGMENT = 300
"""Bytes of payload in a packet: so few that even a small picture takes several."""


def serve(connection: socket.socket, mood: Mood) -> None:
    stream = connection.makefile("rb")
    while start := stream.read(1):
        if start == b"$":  # a report of the receiver
            stream.read(struct.unpack(">xH", stream.read(3))[0])
            continue
        request = start
        while not request.endswith(b"\r\n\r\n"):
            request += stream.readline()
        if request.startswith(b"RTSP/"):  # an answer to what was no request
            continue
        method = request.split()[0].decode()
        [number] = re.findall(r"CSeq: *(\d+)", request.decode())
        answer = f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{HEADERS.get(method, '')}\r\n"
        connection.sendall(answer.encode() + (SDP.encode() if method == "DESCRIBE" else b""))
        if method == "PLAY":
            threading.Thread(target=play, args=[connection, mood], daemon=True).start()


def play(connection: socket.socket, mood: Mood) -> None:
    sequence, shape, encoder = 0, None, None
    for index, (picture, trick) in enumerate(mood.pictures()):
        if encoder is None or shape != picture.shape:
            shape, encoder = picture.shape, new_encoder(picture.shape)
        frame = av.VideoFrame.from_ndarray(picture, format="gray").reformat(format="yuv420p")
        frame.pts = index
        packets = [payload for packet in encoder.encode(frame) for payload in split(bytes(packet))]
        try:
            for place, payload in enumerate(packets):
                last = place == len(packets) - 1
                head = struct.pack(
                    ">BBHII", 0x80, 96 | last << 7, sequence & 0xFFFF, index * 2250, 1
                )
                sequence += 1
                # Lost on their way: all after the first half.
                if trick != "truncate" or place < len(packets) // 2:
                    frame_bytes = head + payload
                    connection.sendall(struct.pack(">cBH", b"$", 0, len(frame_bytes)) + frame_bytes)
            if trick == "garbage":
                connection.sendall(GARBAGE)
        except OSError:
            return


def new_encoder(shape: tuple[int, ...]) -> av.VideoCodecContext:
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = shape
    encoder.pix_fmt = "yuv420p"
    encoder.framerate = 40
    encoder.gop_size = 10
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "threads": "1", "crf": "18"}
    return encoder


def split(units: bytes) -> Iterator[bytes]:
    """The payloads of a picture in Annex B: its units, in fragments (FU-A) where they are long."""
    for unit in re.split(rb"\0{2,3}\x01", units)[1:]:
        if len(unit) <= FRAGMENT:
            yield unit
            continue
        indicator, kind = unit[0] & 0xE0 | 28, unit[0] & 0x1F
        starts = range(1, len(unit), FRAGMENT)
        for start in starts:
            flags = (start == 1) << 7 | (start + FRAGMENT >= len(unit)) << 6
            yield bytes([indicator, flags | kind]) + unit[start : start + FRAGMENT]
