"""Streams of a camera that hangs, of files that are cut off, and of DICOM with wrong lengths."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fetalclip_edge as fe
from fetalclip_edge.errors import SourceError
from fetalclip_edge.results import Result, StreamState
from fetalclip_edge.sources import CameraSource

from .fuzz import inputs
from .live_model import LiveModel
from .sources.test_camera import COLOR, Hanging

WAIT = 60.0


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    yield
    assert len(os.listdir("/proc/self/fd")) == files  # noqa: PTH208
    assert not [each.name for each in threading.enumerate() if "fetalclip-edge" in each.name]


def read_on(source: object) -> tuple[list[Result], SourceError | None]:
    """All results, and what ended them."""
    results = []
    try:
        with fe.stream(source, model=LiveModel()) as live:  # type: ignore[arg-type]
            for result in live:
                results.append(result)  # noqa: PERF402
    except SourceError as error:
        return results, error
    return results, None


def test_a_camera_that_never_delivers_is_stale_then_lost_and_live_when_it_does() -> None:
    capture = Hanging(*[COLOR] * 10_000)
    source = CameraSource(0, make_capture=lambda device: capture, read_timeout_s=0.3)
    told: list[str] = []
    with fe.stream(
        source,
        model=LiveModel(),  # type: ignore[arg-type]
        max_staleness=0.1,
        reconnect=fe.Backoff(0.02, 0.04),
        on_state=lambda change: told.append(str(change.result.state)),
    ) as live:
        deadline = time.monotonic() + WAIT
        for result in live:
            if result.state == StreamState.NO_SIGNAL:
                assert "no picture came" in str(result.reason)
                assert result.source == "/dev/video0"
                assert result.embedding.size == 0
                # One thread waits for the driver, however often the camera is tried
                assert sum("driver" in each.name for each in threading.enumerate()) == 1
                capture.go_on.set()
            if result.state == StreamState.LIVE:
                break
            assert time.monotonic() < deadline
    assert told == ["stale", "no_signal", "live"]
    assert result.epoch == 1
    # Released by the driver's thread after the hung read, and once more at the end
    assert capture.released == 2


@pytest.mark.parametrize("share", [0.3])
def test_a_video_that_is_cut_off_is_answered_as_far_as_it_goes(
    tmp_path: Path, share: float
) -> None:
    whole = Path(fe.__file__).parent / "assets" / "simulated_head.mp4"
    data = whole.read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: int(len(data) * share)])
    results, error = read_on(path)
    assert "is cut off" in str(error) or "does not open" in str(error)
    assert [result.frame_index for result in results] == list(range(len(results)))
    assert len(results) < 300


def _at(data: bytes, mark: bytes, offset: int, value: bytes) -> bytes:
    where = data.rindex(mark) + offset
    return data[:where] + value + data[where + len(value) :]


PIXELS = b"\xe0\x7f\x10\x00OB\0\0"
ITEM = b"\xfe\xff\x00\xe0"


@pytest.mark.parametrize(
    ("number", "mark", "offset", "value", "frames", "words"),
    [
        # Of the pixel data: more than the file holds, less, none, odd
        (0, PIXELS, 8, b"\xff\xff\xff\x7f", 3, None),
        (0, PIXELS, 8, b"\x80\0\0\0", 2, "ends after 2 of 3 frames"),
        (0, PIXELS, 8, b"\0\0\0\0", 0, "cut off"),
        (0, PIXELS, 8, b"\x7f\0\0\0", 1, "ends after 1 of 3 frames"),
        # Of elements: a number of rows in 3 bytes, a frame time longer than the file
        (0, b"\x28\0\x10\0US", 6, b"\x03\0", 0, "no pictures"),
        (0, b"\x18\0\x63\x10DS", 6, b"\xff\xff", 0, "damaged|lacks|no pictures"),
        # Of the last encapsulated frame: beyond the file, and too little
        (2, ITEM, 4, b"\xff\xff\xff\x7f", 2, None),
        (2, ITEM, 4, b"\x44\0\0\0", 2, "damaged|ends after 2 of 3"),
        (3, ITEM, 4, b"\xff\xff\xff\x7f", 3, None),
        (3, ITEM, 4, b"\x40\0\0\0", 2, "damaged|ends after 2 of 3"),
        # More frames than there are
        (0, b"\x28\0\x08\0IS", 8, b"99", 3, "ends after 3 of 99 frames"),
    ],
)
def test_dicom_with_wrong_lengths_is_answered_as_far_as_it_goes(
    tmp_path: Path,
    number: int,
    mark: bytes,
    offset: int,
    value: bytes,
    frames: int,
    words: str | None,
) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(_at(inputs.dicom()[number], mark, offset, value))
    results, error = read_on(path)
    assert len(results) == frames
    assert (error is None) == (words is None)
    if words is not None:
        assert re.search(words, str(error))
