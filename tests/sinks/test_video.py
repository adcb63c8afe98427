"""The annotated video, read back with PyAV."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

import fetalclip_edge as fe
from fetalclip_edge.results import BrainPlaneScores, PlaneScores
from fetalclip_edge.sinks.annotate import annotate, canvas_size, caption

from ..live_model import LiveModel
from .conftest import MakeFrame, MakeResult


def read(path: Path) -> tuple[list[float], list[NDArray[np.uint8]]]:
    """Times in seconds and RGB pictures."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [float(frame.time) for frame in frames], [f.to_ndarray(format="rgb24") for f in frames]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_uneven_times_are_kept(
    name: str, tmp_path: Path, make_result: MakeResult, make_frame: MakeFrame
) -> None:
    times = [7.0, 7.04, 7.5, 7.51, 9.0]
    with fe.VideoSink(tmp_path / name) as sink:
        for index, pts_s in enumerate(times):
            sink.write(make_result(), make_frame(50 * index, pts_s=pts_s))
    found, pictures = read(tmp_path / name)
    assert found == pytest.approx([0.0, 0.04, 0.5, 0.51, 2.0], abs=0.0011)
    levels = [int(picture[120, 160].mean()) for picture in pictures]
    assert levels == pytest.approx([0, 50, 100, 150, 200], abs=4)


def test_without_times_the_capture_tells_them_and_a_jump_is_no_pause(
    tmp_path: Path, make_result: MakeResult, make_frame: MakeFrame
) -> None:
    with fe.VideoSink(tmp_path / "a.mp4") as sink:
        for captured_s, pts_s, epoch in [
            *((0.0, None, 0), (0.1, None, 0), (0.4, None, 0)),
            # A clock that jumps, stands still, or begins again with a new connection.
            *((0.5, 10.0, 0), (0.6, 99_000.0, 0), (0.7, 99_000.0, 0), (0.9, 99_001.0, 1)),
        ]:
            sink.write(
                make_result(),
                make_frame(captured_ns=round(captured_s * 1e9), pts_s=pts_s, epoch=epoch),
            )
    times, _ = read(tmp_path / "a.mp4")
    assert times == pytest.approx([0.0, 0.1, 0.4, 0.5, 0.6, 0.7, 0.9], abs=0.001)


def test_where_no_picture_came_the_video_goes_black_and_says_so(
    tmp_path: Path, make_result: MakeResult, make_frame: MakeFrame
) -> None:
    with fe.VideoSink(tmp_path / "a.mp4") as sink:
        sink.write(make_result("no_signal", reason="lost"), None)  # no size is known yet
        sink.write(make_result(), make_frame(200, captured_ns=time.monotonic_ns()))
        sink.write(make_result("no_signal", reason="lost"), None)
    _, (seen, lost) = read(tmp_path / "a.mp4")
    assert seen[:240].mean() == pytest.approx(200, abs=4)
    assert lost[:240].mean() < 4
    assert not np.array_equal(seen[240:], lost[240:])


def test_a_change_of_size_is_made_to_fit(
    tmp_path: Path, make_result: MakeResult, make_frame: MakeFrame
) -> None:
    with fe.VideoSink(tmp_path / "a.mp4") as sink:
        sink.write(make_result(), make_frame(200, (321, 241), captured_ns=0))
        sink.write(make_result(), make_frame(200, (640, 960), captured_ns=10**8))
        sink.write(make_result(), make_frame(200, (160, 120), captured_ns=2 * 10**8))
    _, pictures = read(tmp_path / "a.mp4")
    assert {picture.shape for picture in pictures} == {(242 + 46, 322, 3)}
    for picture, share in zip(pictures, (1.0, 161 * 242 / (322 * 242), 1 / 4), strict=True):
        assert (picture[:242] > 100).mean() == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("color", ["gray", "rgb", "bgr"])
def test_colours_come_out_as_they_went_in(
    color: Any, make_result: MakeResult, make_frame: MakeFrame
) -> None:
    rgb = np.zeros((240, 320, 3), dtype=np.uint8)
    rgb[..., 0], rgb[..., 2] = 250, 20
    image = {"rgb": rgb, "bgr": rgb[..., ::-1], "gray": rgb[..., 0]}[color]
    image.flags.writeable = False
    drawn = annotate(make_frame(image=image, color=color), make_result(), canvas_size(320, 240))
    expected = rgb if color != "gray" else np.full_like(rgb, 250)
    np.testing.assert_array_equal(drawn[:240], expected)


def test_the_ultrasound_alone_is_kept(
    tmp_path: Path, make_result: MakeResult, make_frame: MakeFrame
) -> None:
    # Given a screen with a bright band for the name on top, and a bright ruler at the right
    screen = np.full((300, 400), 60, dtype=np.uint8)
    screen[:40] = screen[:, 390:] = 255
    shown = np.full((300, 400), 255, dtype=np.uint8)
    shown[:, 390:] = 0
    region = fe.Region(0, 40, 400, 260)
    # When the region is said, and what is masked in it
    with fe.VideoSink(tmp_path / "a.mkv") as sink:
        sink.write(make_result(), make_frame(image=screen, region=region, mask=shown))
        sink.write(make_result(), make_frame(image=screen, region=region, captured_ns=10**8))
    # Then the name is in neither picture, and the ruler where nothing masks it
    _, (masked, cut) = read(tmp_path / "a.mkv")
    assert (masked.shape[1], masked.shape[0]) == canvas_size(400, 260)
    assert masked[:260].max() < 80
    assert cut[:260, :388].max() < 80
    assert cut[:260, 392:].min() > 235


def test_a_new_video_can_be_read_by_its_owner_alone(
    tmp_path: Path, make_result: MakeResult, make_frame: MakeFrame
) -> None:
    with fe.VideoSink(tmp_path / "a.mkv") as sink:
        sink.write(make_result(), make_frame())
    assert (tmp_path / "a.mkv").stat().st_mode & 0o777 == 0o600


def test_the_caption_says_plane_confidence_and_state_in_words(make_result: MakeResult) -> None:
    unsure = BrainPlaneScores(None, 0.0, {})
    assert caption(make_result()) == ("brain  75 %  trans-thalamic  50 %", "live")
    assert caption(make_result(brain_plane=unsure)) == ("brain  75 %", "live")
    withheld = make_result("out_of_domain", reason="unlike fetal ultrasound")
    assert caption(withheld) == ("no answer", "out of domain")


def test_no_answer_is_certain(make_result: MakeResult) -> None:
    certain = make_result(
        plane=PlaneScores("brain", 0.999, {"brain": 0.999}),
        brain_plane=BrainPlaneScores("trans-thalamic", 1.0, {"trans-thalamic": 1.0}),
    )
    assert caption(certain) == ("brain  99 %  trans-thalamic  99 %", "live")


def test_each_state_has_its_colour_and_every_frame_the_disclaimer(
    make_result: MakeResult, make_frame: MakeFrame
) -> None:
    size = canvas_size(1280, 720)
    assert size == (1280, 720 + 124)
    drawn = {
        state: annotate(make_frame(0, (1280, 720)), make_result(state, reason="x"), size)
        for state in ("live", "frozen", "out_of_domain", "no_signal", "stale")
    }
    for state, color in {
        "live": (0, 158, 115),
        "frozen": (86, 180, 233),
        "out_of_domain": (230, 159, 0),
        "no_signal": (213, 94, 0),
        "stale": (204, 121, 167),
    }.items():
        assert (drawn[state][722] == color).all()
    # The right half of the band holds the disclaimer alone, the same in all of them.
    halves = [picture[730:, 640:] for picture in drawn.values()]
    assert all(np.array_equal(halves[0], half) for half in halves)
    assert (halves[0] > 100).sum() > 500


def test_a_stream_writes_the_video_and_counts(tmp_path: Path) -> None:
    model: Any = LiveModel()
    images = np.full((6, 40, 60), 128, dtype=np.uint8)
    with fe.stream(images, model=model, sinks=[fe.VideoSink(tmp_path / "a.mkv")]) as live:
        assert len(list(live)) == 6
    stats = live.stats().sinks["video"]
    assert (stats.written, stats.lost, stats.error) == (6, 0, None)
    times, pictures = read(tmp_path / "a.mkv")
    assert len(times) == 6
    # A small frame is shown in the middle of a canvas that is wide enough for words.
    assert pictures[0].shape == (40 + 46, 320, 3)


def test_what_cannot_be_written_is_told(
    tmp_path: Path, make_result: MakeResult, make_frame: MakeFrame
) -> None:
    with pytest.raises(fe.SinkError, match="cannot be written: No such file"):
        fe.VideoSink(tmp_path / "missing" / "a.mp4")
    with pytest.raises(fe.SinkError, match=r"end its name in .mp4 or .mkv"):
        fe.VideoSink(tmp_path / "a.words")
    assert list(tmp_path.iterdir()) == []
    sink = fe.VideoSink(tmp_path / "a.mp4")
    sink.close()
    with pytest.raises(fe.SinkError, match="closed"):
        sink.write(make_result(), make_frame())


def test_a_video_without_frames_leaves_no_file(tmp_path: Path, make_result: MakeResult) -> None:
    with fe.VideoSink(tmp_path / "a.mp4") as sink:
        sink.write(make_result("stale"), None)
    assert list(tmp_path.iterdir()) == []
