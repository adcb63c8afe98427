"""Frames from an OpenIGTLink server, such as a scanner's research interface or PLUS."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.errors import (
    FrameError,
    SourceError,
    SourceNotFoundError,
    SourceTimeoutError,
)
from fetalclip_edge.results import ColorOrder, Frame
from fetalclip_edge.sources._handle import Handle
from fetalclip_edge.sources._names import hide_credentials
from fetalclip_edge.sources.base import Source
from fetalclip_edge.sources.images import MAX_PIXELS

__all__ = ["OpenIGTLinkSource"]

_PORT = 18944
# Version, type, device, seconds and their fraction, size of the body, checksum.
_HEADER = struct.Struct(">H12s20sIIQQ")
_HEADER_VERSIONS = (1, 2)
_PRINTABLE = re.compile(rb"[\x20-\x7e]+\Z")
_MAX_BODY = 3 * MAX_PIXELS + 65536
"""Bytes of one message. A longer one is none: the bytes are out of step."""
_LONGEST_DEVICE = 20
_SKIPPED_AT_ONCE = 65536
_PIXEL_SIZES_MM = (0.001, 10.0)
"""What an ultrasound picture may have; else the transform is of something else."""
_COLORS: dict[int, ColorOrder] = {1: "gray", 3: "rgb"}


class OpenIGTLinkSource(Source):
    """The pictures (IMAGE messages) that an OpenIGTLink server sends of its own accord.

    Frames are uint8 `(H, W)` or `(H, W, 3)` RGB. Messages of other types and devices are passed
    over. Every picture is checked against its checksum. A frame's pixel size is that of the
    message's transform; it is None when pixels are not square, over 10 mm, or exactly 1 mm, which
    is what servers send that do not know. `pts_s` counts from the first picture, by the
    server's clock.

    Args:
        address: `igtl://host:port/device`. The port is 18944 when left out; without a device the
            first one that sends a picture is taken, and kept.
        open_timeout_s: how long it may take to connect and to begin with a picture.
        read_timeout_s: how long a picture may take to come.

    Raises:
        SourceError: the address has no host, a wrong port, or a password, for which the protocol
            has no place.
    """

    live = True

    def __init__(
        self, address: str, *, open_timeout_s: float = 10.0, read_timeout_s: float = 4.0
    ) -> None:
        self.name = hide_credentials(address)
        self._address = address
        self._timeouts = (open_timeout_s, read_timeout_s)
        self._place = _parse(address, self.name)
        self._socket: socket.socket | None = None
        self._handle: Handle[_Connection] = Handle(self.name)

    def open(self) -> None:
        """Connect, and wait until the server begins to send a picture.

        Raises:
            SourceNotFoundError: nobody knows the host.
            SourceTimeoutError: no picture began in time; the message lists what came instead.
            SourceError: nobody listens there, what comes is no OpenIGTLink, or pyigtl is not
                installed.
        """
        self._handle.open(self._make)

    def read(self) -> Frame | None:
        """Wait for the next picture.

        Raises:
            FrameError: the message is damaged, or holds no picture of a kind that is read.
            SourceTimeoutError: no picture came in time.
            SourceError: the connection broke, or what comes is no OpenIGTLink.
        """
        with self._handle.borrow() as connection:
            if connection is None:
                return None
            seconds = self._timeouts[1]
            try:
                return connection.next_frame(time.monotonic() + seconds)
            except FrameError:
                raise
            except OSError as error:
                if self._handle.closed:
                    return None
                late = f"{self.name}: no picture came for {seconds:g} s"
                raise _told(error, late, f"{self.name}: broke off") from None

    def renew(self) -> OpenIGTLinkSource:
        """Another connection to the same server."""
        open_s, read_s = self._timeouts
        return OpenIGTLinkSource(self._address, open_timeout_s=open_s, read_timeout_s=read_s)

    def close(self) -> None:
        """Close the connection; a read under way in another thread ends at once."""
        connected = self._socket
        self._handle.close()
        if connected is not None:
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def _make(self) -> tuple[_Connection, Callable[[], object]]:
        messages = _messages(self.name)
        seconds = self._timeouts[0]
        deadline = time.monotonic() + seconds
        late = f"{self.name}: did not answer within {seconds:g} s"
        try:
            connected = socket.create_connection((self._place.host, self._place.port), seconds)
        except socket.gaierror:
            raise SourceNotFoundError(
                f"{self.name}: nobody knows the host {self._place.host}"
            ) from None
        except OSError as error:
            raise _told(error, late, f"{self.name}: does not open") from None
        self._socket = connected
        connection = _Connection(connected, self._place.device, self.name, messages)
        try:
            connection.wait_for_picture(deadline)
        except OSError as error:
            connected.close()
            came = ", ".join(sorted(connection.passed_over)) or "nothing"
            late = (
                f"{self.name}: no picture of {self._place.device or 'any device'} began within "
                f"{seconds:g} s; what came is {came}"
            )
            raise _told(error, late, f"{self.name}: broke off") from None
        return connection, connected.close


@dataclass(frozen=True, slots=True)
class _Place:
    host: str
    port: int
    device: str | None


@dataclass(frozen=True, slots=True)
class _Header:
    """Of one message; see the OpenIGTLink protocol, version 3."""

    version: int
    kind: str
    device: str
    time_s: float
    body_bytes: int
    checksum: int


class _Connection:
    """A connected socket, and how far its messages have been read. Deadlines are monotonic."""

    def __init__(
        self, connected: socket.socket, device: str | None, name: str, messages: Any
    ) -> None:
        self.passed_over: set[str] = set()
        self._socket, self._device, self._name = connected, device, name
        self._messages = messages
        self._begun: _Header | None = None
        self._first_s: float | None = None
        self._index = -1

    def wait_for_picture(self, deadline: float) -> _Header:
        """Pass over what is no picture of the device, until one begins."""
        while self._begun is None:
            header = self._next_header(deadline)
            if header.kind == "IMAGE" and self._device in (None, header.device):
                self._device, self._begun = header.device, header
            else:
                if len(self.passed_over) < 20:
                    self.passed_over.add(f"{header.kind} of {header.device or 'no device'}")
                for start in range(0, header.body_bytes, _SKIPPED_AT_ONCE):
                    self._receive(min(_SKIPPED_AT_ONCE, header.body_bytes - start), deadline)
        return self._begun

    def next_frame(self, deadline: float) -> Frame:
        header = self.wait_for_picture(deadline)
        body = self._receive(header.body_bytes, deadline)
        captured_ns = time.monotonic_ns()
        self._begun = None
        self._index += 1
        what = f"{self._name}: frame {self._index}"
        if self._messages.CRC64(body) != header.checksum:
            raise FrameError(f"{what} is damaged: its checksum is wrong")
        message = self._messages.ImageMessage()
        fields = {
            "header_version": header.version,
            "message_type": header.kind,
            "device_name": header.device,
            "timestamp": header.time_s,
        }
        try:
            with np.errstate(all="ignore"):
                message.unpack(fields, body)
        except Exception as error:
            raise FrameError(f"{what} cannot be decoded: {error}") from None
        image, size = _plane(message.image, message.ijk_to_world_matrix, what)
        if self._first_s is None:
            self._first_s = header.time_s
        return Frame(
            image,
            "gray" if image.ndim == 2 else "rgb",
            self._index,
            captured_ns,
            self._name,
            header.time_s - self._first_s,
            None,
            size,
        )

    def _next_header(self, deadline: float) -> _Header:
        version, kind, device, seconds, fraction, body_bytes, checksum = _HEADER.unpack(
            self._receive(_HEADER.size, deadline)
        )
        kind, device = kind.partition(b"\0")[0], device.partition(b"\0")[0]
        if version not in _HEADER_VERSIONS or not _PRINTABLE.match(kind) or body_bytes > _MAX_BODY:
            raise SourceError(f"{self._name}: what comes is no OpenIGTLink message")
        return _Header(
            version,
            kind.decode("ascii").strip(),
            "".join(
                c if c.isprintable() else "?" for c in device.decode("utf-8", "replace")
            ).strip(),
            seconds + fraction / 2**32,
            body_bytes,
            checksum,
        )

    def _receive(self, size: int, deadline: float) -> bytearray:
        buffer = bytearray(size)
        rest = memoryview(buffer)
        while rest:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            count = self._socket.recv_into(rest)
            if count == 0:
                raise SourceError(f"{self._name}: the server closed the connection")
            rest = rest[count:]
        return buffer


def _plane(
    volume: NDArray[Any], matrix: NDArray[np.float64], what: str
) -> tuple[NDArray[np.uint8], float | None]:
    """The picture in an image message, and the size of its pixels in millimetres."""
    color = _COLORS.get(1 if volume.ndim == 3 else volume.shape[3])
    # Axes k, j, i. pyigtl's own server makes i, not k, the one of length 1.
    axes = [axis for axis in range(3) if volume.shape[axis] != 1]
    if color is None or volume.dtype != np.uint8 or len(axes) != 2 or volume.size == 0:
        raise FrameError(
            f"{what} is {volume.dtype} {volume.shape} (k, j, i, components); set the server to "
            "send one plane of uint8, grey or RGB"
        )
    down, across = (float(np.linalg.norm(matrix[:3, 2 - axis])) for axis in axes)
    shape = tuple(volume.shape[axis] for axis in axes) + (() if color == "gray" else (3,))
    return volume.reshape(shape), _pixel_size(across, down)


def _pixel_size(across: float, down: float) -> float | None:
    low, high = _PIXEL_SIZES_MM
    likely = low < across < high and low < down < high
    if not likely or across == down == 1 or abs(across - down) > 0.01 * max(across, down):
        return None
    return (across + down) / 2


def _parse(address: str, name: str) -> _Place:
    if "@" in address:
        raise SourceError(
            f"{name}: OpenIGTLink knows no users and passwords; leave out what stands before the @"
        )
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or port == 0 or parts.query or parts.fragment:
        raise SourceError(f"{name}: an OpenIGTLink address is igtl://host:port/device")
    device = unquote(parts.path.strip("/")) or None
    if device is not None and len(device.encode()) > _LONGEST_DEVICE:
        raise SourceError(f"{name}: names of devices have up to {_LONGEST_DEVICE} bytes")
    return _Place(host, port or _PORT, device)


def _messages(name: str) -> Any:
    try:
        from pyigtl import messages
    except ImportError:
        raise SourceError(
            f"{name}: pyigtl is not installed; pip install 'fetalclip-edge[igtl]'"
        ) from None
    return messages


def _told(error: OSError, late: str, what: str) -> SourceError:
    """The error as one of ours: `late` when it is a timeout, and `what` went wrong if not."""
    if isinstance(error, SourceError):
        return error
    if isinstance(error, TimeoutError):
        return SourceTimeoutError(late)
    return SourceError(f"{what}: {error.strerror or type(error).__name__}")
