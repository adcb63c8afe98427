"""OpenIGTLink: messages that pyigtl packs, over a socket."""

from __future__ import annotations

import struct
import sys
import threading
import time

import numpy as np
import pytest
from pyigtl import ImageMessage, StringMessage, TransformMessage
from pyigtl.messages import CRC64

from fetalclip_edge.errors import FrameError, SourceError, SourceTimeoutError
from fetalclip_edge.sources import OpenIGTLinkSource

from .igtl_server import DEVICE, packed, serving

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8)
COLOR = np.arange(144, dtype=np.uint8).reshape(6, 8, 3)


def scaled(across: float, down: float) -> np.ndarray:
    """A transform of pixels of that size in millimetres, turned by a quarter and moved."""
    turn = np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], float)
    matrix = turn @ np.diag([across, down, 1, 1])
    matrix[:3, 3] = 5, 6, 7
    return matrix


def test_grey_and_color_pictures_come_as_they_were_sent():
    with serving(packed(GREY), packed(COLOR)) as address, OpenIGTLinkSource(address) as source:
        frames = [source.read(), source.read()]
    assert [frame.color for frame in frames] == ["gray", "rgb"]
    assert np.array_equal(frames[0].image, GREY)
    assert np.array_equal(frames[1].image, COLOR)


@pytest.mark.parametrize(
    ("across", "down", "size"),
    [
        (0.25, 0.25, 0.25),
        (0.1, 0.1005, 0.10025),
        (0.1, 0.2, None),
        (1.0, 1.0, None),
        (0.0, 0.0, None),
        (float("nan"), 0.1, None),
        (50.0, 50.0, None),
    ],
)
def test_the_size_of_a_pixel_is_the_length_of_the_transforms_axes(across, down, size):
    message = bytearray(packed(GREY))
    # The transform lies 12 bytes into the body; see the protocol's IMAGE message.
    axes = scaled(1, 1)[:3, :2] * [across, down]
    struct.pack_into(">6f", message, 58 + 12, *axes[:, 0], *axes[:, 1])
    struct.pack_into(">Q", message, 50, CRC64(bytes(message[58:])))
    with serving(bytes(message)) as address, OpenIGTLinkSource(address) as source:
        found = source.read().pixel_size_mm
    assert found is None if size is None else found == pytest.approx(size, rel=1e-5)


def test_a_transform_that_pyigtl_packs_gives_the_size_too():
    message = packed(GREY, ijk_to_world_matrix=scaled(0.3, 0.3))
    with serving(message) as address, OpenIGTLinkSource(address) as source:
        assert source.read().pixel_size_mm == pytest.approx(0.3, rel=1e-5)


def test_pictures_that_pyigtl_sends_without_a_third_axis_are_read():
    message = ImageMessage(GREY, device_name=DEVICE).pack()
    with serving(message) as address, OpenIGTLinkSource(address) as source:
        assert np.array_equal(source.read().image, GREY)


@pytest.mark.parametrize("device", ["B", None])
def test_other_messages_and_devices_are_passed_over(device):
    pieces = [
        TransformMessage(np.eye(4), device_name="Probe").pack(),
        StringMessage("x" * 60_000, device_name="A").pack(),
        *([] if device is None else [packed(np.zeros((300, 300), np.uint8), "A")]),
        packed(GREY + 1, "B"),
        packed(GREY, "A"),
        packed(GREY + 2, "B"),
    ]
    wanted = f"/{device}" if device else ""
    with serving(*pieces) as address, OpenIGTLinkSource(address + wanted) as source:
        frames = [source.read(), source.read()]
    assert [int(frame.image[0, 0]) for frame in frames] == [1, 2]
    assert [frame.index for frame in frames] == [0, 1]


def test_metadata_of_the_second_version_is_passed_over():
    message = ImageMessage(GREY[None], device_name=DEVICE)
    message.header_version, message.metadata = 2, {"depth": "12 cm"}
    with serving(message.pack()) as address, OpenIGTLinkSource(address) as source:
        assert np.array_equal(source.read().image, GREY)


def test_times_count_from_the_first_picture_by_the_servers_clock():
    pieces = [packed(GREY, timestamp=1000.25), packed(GREY, timestamp=1000.75)]
    with serving(*pieces) as address, OpenIGTLinkSource(address) as source:
        assert [source.read().pts_s, source.read().pts_s] == [0, 0.5]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (packed(GREY)[:-1] + b"\xff", "frame 0 is damaged: its checksum is wrong"),
        (packed(GREY.astype(np.int16)), r"is int16 \(1, 6, 8\).*uint8"),
        (
            ImageMessage(np.zeros((2, 6, 8), np.uint8), device_name=DEVICE).pack(),
            r"is uint8 \(2, 6, 8\)",
        ),
        (packed(np.zeros((6, 8, 4), np.uint8)), r"\(1, 6, 8, 4\).*grey or RGB"),
    ],
)
def test_a_picture_that_is_not_read_is_a_frame_error_and_the_next_is_read(bad, words):
    with serving(bad, packed(GREY)) as address, OpenIGTLinkSource(address) as source:
        with pytest.raises(FrameError, match=words):
            source.read()
        assert source.read().index == 1


def header(version: int = 1, kind: bytes = b"IMAGE", size: int = 100) -> bytes:
    return struct.pack(">H12s20sIIQQ", version, kind, b"A", 0, 0, size, 0)


@pytest.mark.parametrize(
    "garbage",
    [b"\xa5" * 58, header(version=9), header(kind=b"\xff\xfe"), header(size=2**40)],
    ids=["noise", "version", "type", "size"],
)
def test_what_is_no_message_is_a_source_error(garbage):
    with serving(packed(GREY), garbage) as address, OpenIGTLinkSource(address) as source:
        source.read()
        with pytest.raises(SourceError, match="no OpenIGTLink message"):
            source.read()


def test_a_picture_that_was_cut_short_is_no_picture():
    whole = packed(GREY)
    with serving(whole, whole[:80]) as address, OpenIGTLinkSource(address) as source:
        source.read()
        with pytest.raises(SourceError, match="the server closed the connection"):
            source.read()


def test_a_picture_that_does_not_come_is_timed_out():
    whole = packed(GREY)
    with serving(whole, whole[:80], hold=True) as address:
        with OpenIGTLinkSource(address, read_timeout_s=0.1) as source:
            source.read()
            with pytest.raises(SourceTimeoutError, match=r"no picture came for 0\.1 s"):
                source.read()


def test_a_device_that_does_not_send_is_told_with_what_does():
    pieces = [packed(GREY, "B"), TransformMessage(np.eye(4), device_name="Probe").pack()]
    with serving(*pieces, hold=True) as address:
        with pytest.raises(
            SourceTimeoutError, match=r"no picture of A .* IMAGE of B, TRANSFORM of Probe"
        ):
            OpenIGTLinkSource(f"{address}/A", open_timeout_s=0.3).open()


def test_nobody_who_listens_is_a_source_error():
    with serving() as address:
        pass
    with pytest.raises(SourceError, match="does not open: Connection refused"):
        OpenIGTLinkSource(address).open()


def test_closing_ends_a_read_that_waits():
    with serving(packed(GREY), hold=True) as address:
        source = OpenIGTLinkSource(address, read_timeout_s=60)
        source.open()
        source.read()
        read = []
        thread = threading.Thread(target=lambda: read.append(source.read()))
        thread.start()
        time.sleep(0.05)
        source.close()
        thread.join(10)
    assert read == [None]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("igtl://ada:lovelace@h/x", r"igtl://\*\*\*@h/x: .*no users and passwords"),
        ("igtl://ada:love?lace@h/x", r"igtl://\*\*\*: "),
        ("igtl:///x", "an OpenIGTLink address is igtl://host:port/device"),
        ("igtl://h:70000/x", "an OpenIGTLink address is"),
        ("igtl://h/x?token=lovelace", r"igtl://h/x\?token=\*\*\*: an OpenIGTLink address is"),
        ("igtl://h/123456789012345678901", "up to 20 bytes"),
    ],
)
def test_an_address_that_is_none_is_refused_without_its_secrets(address, words):
    with pytest.raises(SourceError, match=words) as caught:
        OpenIGTLinkSource(address)
    assert "love" not in str(caught.value)
    assert "ada" not in str(caught.value)


def test_without_pyigtl_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyigtl", None)
    with pytest.raises(SourceError, match=r"pip install 'fetalclip-edge\[igtl\]'"):
        OpenIGTLinkSource("igtl://127.0.0.1").open()
