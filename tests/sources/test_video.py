"""Video files and network streams. FFV1 is lossless, so its pictures are known exactly."""

from __future__ import annotations

import functools
import http.server
import socket
import struct
import threading
import time
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from fetalclip_edge.errors import (
    FrameError,
    SourceError,
    SourceNotFoundError,
    SourceTimeoutError,
)
from fetalclip_edge.sources import VideoSource


def read_on(source: VideoSource) -> tuple[list, list[SourceError]]:
    """Frames and errors, until the end or an error after which nothing more comes."""
    frames, errors = [], []
    while True:
        try:
            frame = source.read()
        except SourceError as error:
            errors.append(error)
            if not isinstance(error, FrameError):
                return frames, errors
        else:
            if frame is None:
                return frames, errors
            frames.append(frame)


def test_color_video_gives_the_pictures_and_times_that_were_encoded(
    tmp_path, make_video, moving_pictures
):
    pictures = moving_pictures(12)
    with VideoSource(make_video(tmp_path / "a.mkv", pictures)) as source:
        frames = list(source)
        assert source.frame_rate == 25
        assert not source.live
    assert [frame.pts_s for frame in frames] == pytest.approx([i / 25 for i in range(12)])
    for frame, picture in zip(frames, pictures, strict=True):
        assert frame.color == "rgb"
        assert np.array_equal(frame.image, picture)


def test_grey_video_gives_grey_pictures(tmp_path, make_video, moving_pictures):
    pictures = [picture[:, :, 0].copy() for picture in moving_pictures(5)]
    path = make_video(tmp_path / "a.mkv", pictures, pixel_format="gray")
    with VideoSource(path) as source:
        frames = list(source)
    for frame, picture in zip(frames, pictures, strict=True):
        assert frame.color == "gray"
        assert np.array_equal(frame.image, picture)


def test_compressed_video_agrees_with_opencv(tmp_path, make_video, moving_pictures):
    path = make_video(tmp_path / "a.mp4", moving_pictures(9), "libx264", "yuv420p")
    capture = cv2.VideoCapture(str(path))
    with VideoSource(path) as source:
        frames = list(source)
        assert source.frame_count == 9
    for frame in frames:
        ok, expected = capture.read()
        assert ok
        difference = frame.image[:, :, ::-1].astype(int) - expected
        assert np.abs(difference).mean() < 1
    capture.release()
    assert len(frames) == 9


def test_limited_range_grey_is_spread_to_full_range():
    from fetalclip_edge.sources.video import _to_array

    frame = av.VideoFrame.from_ndarray(np.array([[0, 16, 126, 235, 255]], np.uint8), format="gray")
    frame.color_range = 1
    assert _to_array(frame).tolist() == [[0, 0, 128, 255, 255]]
    frame.color_range = 2
    assert _to_array(frame).tolist() == [[0, 16, 126, 235, 255]]


def test_a_colon_in_a_name_is_no_protocol(tmp_path, make_video, moving_pictures, monkeypatch):
    make_video(tmp_path / "pipe:0.mkv", moving_pictures(2))
    monkeypatch.chdir(tmp_path)
    with VideoSource("pipe:0.mkv") as source:
        assert len(list(source)) == 2
        assert source.name == "pipe:0.mkv"


def test_rotation_metadata_is_applied(tmp_path, make_video, moving_pictures):
    path = make_video(tmp_path / "a.mp4", moving_pictures(3), "libx264", "yuv420p")
    with VideoSource(path) as source:
        upright = source.read().image
    data = bytearray(path.read_bytes())
    # The display matrix of the track header (ISO 14496-12, 8.3.2), version 0: a quarter clockwise.
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    with VideoSource(path) as source:
        turned = source.read().image
    assert turned.flags.c_contiguous
    assert np.array_equal(turned, cv2.rotate(upright, cv2.ROTATE_90_CLOCKWISE))


def disc(height: int, width: int, aspect: float) -> np.ndarray:
    """A circle of 36 lines across, as it is stored in pixels of that aspect."""
    y, x = np.mgrid[:height, :width]
    inside = np.hypot(aspect * (x - width / 2 + 0.5), y - height / 2 + 0.5) <= 18
    return (inside * 200).astype(np.uint8)


# Of NTSC and PAL at 4:3, as ITU-R BT.601 samples them (rounded as encoders write it).
@pytest.mark.parametrize(
    ("aspect", "width"), [(Fraction(8, 9), 64), (Fraction(16, 15), 77), (Fraction(1), 72)]
)
@pytest.mark.parametrize("pixel_format", ["gray", "yuv420p"])
def test_pixels_that_are_not_square_are_made_so(tmp_path, make_video, pixel_format, aspect, width):
    pictures = [disc(48, 72, float(aspect))]
    path = make_video(tmp_path / "a.mp4", pictures, "libx264", pixel_format, aspect=aspect)
    with VideoSource(path) as source:
        image = source.read().image
    assert image.shape[:2] == (48, width)
    seen = (image if image.ndim == 2 else image[:, :, 1]) > 100
    across, down = (np.count_nonzero(seen.any(axis)) for axis in (0, 1))
    assert (across, down) == pytest.approx((36, 36), abs=1)


@pytest.mark.parametrize("aspect", [Fraction(1, 8), Fraction(8)])
def test_pixels_that_no_film_has_are_refused(tmp_path, make_video, moving_pictures, aspect):
    path = make_video(tmp_path / "a.mp4", moving_pictures(1), "libx264", "yuv420p", aspect=aspect)
    with pytest.raises(SourceError, match=r"8 times as (wide as high|high as wide)"):
        VideoSource(path).open()


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format", "options"),
    [
        ("a.mp4", "libx264", "yuv420p", {"movflags": "faststart"}),
        ("a.mkv", "ffv1", "bgr0", {}),
    ],
)
def test_a_file_cut_in_the_middle_gives_what_it_holds_and_then_an_error(
    tmp_path, make_video, moving_pictures, name, codec, pixel_format, options
):
    path = make_video(tmp_path / name, moving_pictures(60), codec, pixel_format, options)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    with VideoSource(path) as source:
        frames, errors = read_on(source)
    assert 10 < len(frames) < 60
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert "is cut off" in str(errors[-1])
    assert "its header says 2.40 s" in str(errors[-1])


@pytest.mark.parametrize("name", ["a.avi", "a.ts"])
def test_containers_without_a_declared_length_just_end(tmp_path, make_video, moving_pictures, name):
    codec = ("mjpeg", "yuvj420p") if name == "a.avi" else ("libx264", "yuv420p")
    path = make_video(tmp_path / name, moving_pictures(40), *codec)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    with VideoSource(path) as source:
        frames, errors = read_on(source)
        assert source.read() is None
    assert 10 < len(frames) < 40
    assert all(isinstance(error, FrameError) for error in errors)


@pytest.mark.parametrize("kept", [0, 0.5, 0.95])
def test_a_damaged_picture_is_a_frame_error_and_the_next_is_read(
    tmp_path, make_video, moving_pictures, kept
):
    path = make_video(tmp_path / "a.avi", moving_pictures(20), "mjpeg", "yuvj420p")
    data = bytearray(path.read_bytes())
    at = data.index(b"movi")
    for _ in range(10):
        at = data.index(b"00dc", at + 4)
    size = int.from_bytes(data[at + 4 : at + 8], "little")
    # The rest of it is gone: FFmpeg would fill it up with grey.
    here = int(size * kept)
    data[at + 8 + here : at + 8 + size] = b"\xff\xd9" * ((size - here + 1) // 2)
    path.write_bytes(data)
    with VideoSource(path) as source:
        frames, errors = read_on(source)
    assert len(frames) == 19
    assert len(errors) == 1
    assert "cannot be decoded" in str(errors[0])
    assert isinstance(errors[0], FrameError)


@pytest.mark.parametrize("name", ["a.ts", "a.mjpeg"])
def test_another_resolution_in_the_middle_is_read_on(tmp_path, make_video, moving_pictures, name):
    codec = ("mjpeg", "yuvj420p") if name == "a.mjpeg" else ("libx264", "yuv420p")
    parts = []
    for number, (height, width) in enumerate([(48, 64), (96, 128), (48, 64)]):
        pictures = moving_pictures(6, height, width)
        parts.append(make_video(tmp_path / f"{number}{name}", pictures, *codec).read_bytes())
    path = tmp_path / name
    path.write_bytes(b"".join(parts))
    with VideoSource(path) as source:
        frames, errors = read_on(source)
    assert errors == []
    shapes = [frame.image.shape[:2] for frame in frames]
    assert shapes == [(48, 64)] * 6 + [(96, 128)] * 6 + [(48, 64)] * 6
    for frame, picture in zip(frames[6:12], moving_pictures(6, 96, 128), strict=True):
        assert np.abs(frame.image.astype(int) - picture).mean() < 12


def test_a_live_stream_goes_on_after_a_damaged_picture_with_one_that_needs_none_before_it(
    tmp_path, moving_pictures
):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        options = {"g": "5", "bf": "0", "x264-params": "scenecut=0"}
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for picture in moving_pictures(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        packet = bytes(list(container.demux(video=0))[7])
    data = path.read_bytes()
    assert data.count(packet) == 1
    path.write_bytes(data.replace(packet, b"\xff" * len(packet)))
    with VideoSource(path, live=True) as source:
        frames, errors = read_on(source)
    assert [frame.index for frame in frames] == [*range(7), *range(10, 20)]
    words = ["cannot be decoded", "8 follows a damaged one", "9 follows a damaged one"]
    assert all(word in str(error) for word, error in zip(words, errors, strict=True))
    # And a recording gives what there is
    with VideoSource(path) as source:
        frames, errors = read_on(source)
    assert [frame.index for frame in frames] == [*range(7), *range(8, 20)]


@pytest.mark.parametrize("content", [b"", b"not a video at all" * 50, bytes(5000)])
def test_a_file_that_is_no_video_does_not_open(tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.mp4: does not open"):
        VideoSource(tmp_path / "a.mp4").open()


def test_a_file_cut_before_its_index_does_not_open(tmp_path, make_video, moving_pictures):
    path = make_video(tmp_path / "a.mp4", moving_pictures(30), "libx264", "yuv420p")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 20])
    with pytest.raises(SourceError, match="does not open"):
        VideoSource(path).open()


def test_a_file_with_sound_alone_is_refused(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 800), np.int16), format="s16", layout="mono"
        )
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(SourceError, match="holds no video"):
        VideoSource(path).open()


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(SourceNotFoundError, match="no such file"):
        VideoSource(tmp_path / "a.mp4").open()


class _Server(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def web(tmp_path):
    """A web server on this machine for `tmp_path`; gives the address with a password in it."""
    handler = functools.partial(_Server, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://ada:lovelace@127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_url_is_live_and_gives_every_frame(tmp_path, make_video, moving_pictures, web):
    pictures = moving_pictures(8)
    make_video(tmp_path / "a.mkv", pictures)
    with VideoSource(f"{web}/a.mkv?token=xyzzy") as source:
        frames = list(source)
    assert source.live
    assert "***@127.0.0.1" in source.name
    assert all(np.array_equal(f.image, p) for f, p in zip(frames, pictures, strict=True))
    assert all(secret not in frames[0].source for secret in ("ada", "lovelace", "xyzzy"))


def test_a_url_that_the_server_does_not_know_is_not_found_and_keeps_the_secret(web):
    with pytest.raises(SourceNotFoundError) as caught:
        VideoSource(f"{web}/none.mp4?token=xyzzy").open()
    assert "404" in str(caught.value)
    assert all(secret not in str(caught.value) for secret in ("ada", "lovelace", "xyzzy"))
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_a_server_that_never_answers_is_a_timeout_that_keeps_the_secret(scheme):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"{scheme}://ada:lovelace@127.0.0.1:{server.getsockname()[1]}/live?token=xyzzy"
        with pytest.raises(SourceTimeoutError, match=r"did not open within 0\.3 s") as caught:
            VideoSource(url, open_timeout_s=0.3).open()
    assert all(secret not in str(caught.value) for secret in ("ada", "lovelace", "xyzzy"))


@pytest.fixture
def stalling(make_video, moving_pictures, tmp_path):
    """The URL of a camera that sends a few pictures and then nothing, with the line open."""
    video = make_video(tmp_path / "a.ts", moving_pictures(50), "mpeg2video", "yuv420p")
    data = video.read_bytes()
    over = threading.Event()

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n" + data)
            over.wait(20)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/live.ts"
        over.set()
        thread.join()


def test_a_stream_that_stops_coming_is_a_timeout(stalling):
    with VideoSource(stalling, read_timeout_s=0.3) as source:
        frames, errors = read_on(source)
    assert len(frames) > 10
    assert isinstance(errors[-1], SourceTimeoutError)
    assert "no picture came for 0.3 s" in str(errors[-1])


def test_closing_from_another_thread_ends_a_blocked_read(stalling):
    source = VideoSource(stalling, read_timeout_s=1.0)
    source.open()
    closer = threading.Timer(0.4, source.close)
    closer.start()
    started = time.monotonic()
    frames, errors = read_on(source)
    closer.join()
    assert frames
    assert errors == []
    assert time.monotonic() - started < 15
