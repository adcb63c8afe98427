from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

import fetalclip_edge as fe
from fetalclip_edge.demo import DEMO_CLIP
from fetalclip_edge.viewer.loop import LoopedSource


def test_a_recording_begins_again_and_time_goes_on() -> None:
    with LoopedSource(str(DEMO_CLIP)) as source:
        frames = [source.read() for _ in range(302)]
    last, first = frames[299], frames[300]
    assert last is not None
    assert first is not None
    assert frames[0] is not None
    assert (last.index, first.index) == (299, 300)
    assert np.array_equal(first.image, frames[0].image)
    assert last.pts_s == pytest.approx(299 / 30)
    assert first.pts_s == pytest.approx(300 / 30)


def test_pictures_begin_again_too(tmp_path: Path) -> None:
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((8, 8), ord(name), np.uint8))
    with LoopedSource(str(tmp_path)) as source:
        four = itertools.islice(source, 4)
        seen = [(frame.index, int(frame.image[0, 0])) for frame in four]
    assert seen == [(0, 97), (1, 98), (2, 97), (3, 98)]


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


def test_closing_ends_it() -> None:
    source = LoopedSource(str(DEMO_CLIP))
    source.open()
    assert source.read() is not None
    source.close()
    assert source.read() is None
