from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

import fetalclip_edge as fe
from fetalclip_edge.viewer.loop import LoopedSource


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Five pictures, ten a second."""
    path = tmp_path / "five.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 24))
    for level in range(5):
        writer.write(np.full((24, 32, 3), 40 * level, np.uint8))
    writer.release()
    return path


def test_a_recording_begins_again_and_time_goes_on(recording: Path) -> None:
    with LoopedSource(str(recording)) as source:
        frames = list(itertools.islice(source, 12))
    assert [frame.index for frame in frames] == list(range(12))
    assert np.array_equal(frames[5].image, frames[0].image)
    assert not np.array_equal(frames[5].image, frames[4].image)
    times = [frame.pts_s for frame in frames]
    assert times[:5] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert times[5:] == sorted(times[5:])
    assert times[5] == pytest.approx(0.4 + 1 / 30)
    assert times[10] == pytest.approx(2 * times[5])


def test_pictures_begin_again_too(tmp_path: Path) -> None:
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((8, 8), ord(name), np.uint8))
    with LoopedSource(str(tmp_path)) as source:
        four = list(itertools.islice(source, 4))
    seen = [(frame.index, int(frame.image[0, 0])) for frame in four]
    assert seen == [(0, 97), (1, 98), (2, 97), (3, 98)]
    # By which they are shown one after the other, instead of as fast as they can be read
    assert [frame.pts_s for frame in four] == [0.0, 1.0, 2.0, 3.0]


def test_what_gives_no_frame_is_not_asked_for_ever(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    with LoopedSource(str(tmp_path)) as source:
        with pytest.raises(fe.SourceError):
            source.read()
        with pytest.raises(fe.SourceError, match="gave no frame"):
            source.read()


def test_a_live_source_is_refused() -> None:
    with pytest.raises(fe.SourceError, match="cannot be looped"):
        LoopedSource("rtsp://127.0.0.1/live")


def test_closing_ends_it(recording: Path) -> None:
    source = LoopedSource(str(recording))
    source.open()
    assert source.read() is not None
    source.close()
    assert source.read() is None
