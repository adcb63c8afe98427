"""Cameras and GStreamer pipelines: a fake capture for behaviour, real OpenCV for errors."""

from __future__ import annotations

import gc
import os
import threading

import cv2
import numpy as np
import pytest

from fetalclip_edge.errors import (
    FrameError,
    SourceError,
    SourceNotFoundError,
    SourceTimeoutError,
)
from fetalclip_edge.sources import CameraSource, CsiSource, GStreamerSource

GREY = np.arange(20, dtype=np.uint8).reshape(4, 5)
COLOR = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)


class FakeCapture:
    """A `cv2.VideoCapture` that gives `pictures` and then fails to grab."""

    def __init__(self, *pictures, opens=True, rate=30.0):
        self.pictures = list(pictures)
        self.opens, self.rate = opens, rate
        self.released = 0
        self.was_set = {}

    def isOpened(self):  # noqa: N802
        return self.opens

    def grab(self):
        return bool(self.pictures)

    def retrieve(self):
        picture = self.pictures.pop(0)
        return picture is not None, picture

    def get(self, prop):
        return self.rate if prop == cv2.CAP_PROP_FPS else 0.0

    def set(self, prop, value):
        self.was_set[prop] = value
        return True

    def release(self):
        self.released += 1


def camera(capture: FakeCapture) -> CameraSource:
    return CameraSource(0, make_capture=lambda device: capture)


def test_color_grey_and_single_channel_pictures_are_told_apart():
    with camera(FakeCapture(COLOR, GREY, GREY[:, :, None])) as source:
        frames = [source.read() for _ in range(3)]
    assert [frame.color for frame in frames] == ["bgr", "gray", "gray"]
    assert np.array_equal(frames[2].image, GREY)


def test_pictures_of_a_camera_may_change_their_size():
    with camera(FakeCapture(COLOR, np.zeros((8, 10, 3), np.uint8), GREY)) as source:
        assert [source.read().image.shape for _ in range(3)] == [(4, 5, 3), (8, 10, 3), (4, 5)]


def test_a_camera_is_live_and_states_its_rate_and_asks_for_one_buffer():
    capture = FakeCapture(COLOR)
    with camera(capture) as source:
        assert source.live
        assert source.frame_rate == 30.0
    assert capture.was_set[cv2.CAP_PROP_BUFFERSIZE] == 1


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_that_is_not_known_is_none(rate):
    with camera(FakeCapture(COLOR, rate=rate)) as source:
        assert source.frame_rate is None


def test_a_camera_that_stops_is_a_source_error_that_says_after_how_many_frames():
    with camera(FakeCapture(COLOR, COLOR)) as source:
        source.read()
        source.read()
        with pytest.raises(SourceError, match="no frame came after 2; the device was unplugged"):
            source.read()


@pytest.mark.parametrize(
    ("bad", "words"),
    [(None, "frame 1 could not be decoded"), (COLOR.astype(np.uint16), "frame 1 is uint16")],
)
def test_a_picture_that_cannot_be_used_is_a_frame_error_and_the_next_is_read(bad, words):
    with camera(FakeCapture(COLOR, bad, COLOR)) as source:
        source.read()
        with pytest.raises(FrameError, match=words):
            source.read()
        assert source.read().index == 2


def test_a_camera_that_does_not_open_is_released_and_says_what_may_be_wrong():
    capture = FakeCapture(opens=False)
    with pytest.raises(SourceError, match="another program may be using it"):
        camera(capture).open()
    assert capture.released == 1


def test_closing_releases_the_device_once():
    capture = FakeCapture(COLOR)
    source = camera(capture)
    source.open()
    source.close()
    source.close()
    assert capture.released == 1


def test_closing_while_a_grab_blocks_ends_the_source_and_then_releases():
    grabbing, unblock = threading.Event(), threading.Event()

    class Blocking(FakeCapture):
        def grab(self):
            grabbing.set()
            assert unblock.wait(10)
            assert self.released == 0
            return False

    capture, read = Blocking(), []
    source = camera(capture)
    source.open()
    thread = threading.Thread(target=lambda: read.append(source.read()))
    thread.start()
    assert grabbing.wait(10)
    source.close()
    unblock.set()
    thread.join(10)
    assert read == [None]
    assert capture.released == 1


@pytest.mark.parametrize("device", [87, "/dev/video87"])
def test_a_camera_that_is_not_there_is_not_found(device):
    with pytest.raises(SourceNotFoundError, match="/dev/video87: there is no such camera"):
        CameraSource(device).open()


def test_a_device_that_is_no_camera_does_not_open(tmp_path):
    fake = tmp_path / "video0"
    fake.touch()
    with pytest.raises(SourceError, match="does not open"):
        CameraSource(str(fake)).open()


def test_a_camera_without_permission_says_which_group_to_join(monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SourceError, match="usermod -aG video"):
        CameraSource("/dev/null").open()


class Hanging(FakeCapture):
    """Opens, or not even that, and then hangs until it is told to go on."""

    def __init__(self, *pictures):
        super().__init__(*pictures)
        self.go_on = threading.Event()

    def grab(self):
        assert self.go_on.wait(10)
        return super().grab()


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "fetalclip" in thread.name]


def test_a_camera_that_never_delivers_is_timed_out_and_released_when_it_comes_back():
    capture = Hanging(COLOR)
    source = CameraSource(0, make_capture=lambda device: capture, read_timeout_s=0.05)
    source.open()
    with pytest.raises(SourceTimeoutError, match=r"/dev/video0: no picture came for 0\.05 s"):
        source.read()
    again = source.renew()
    source.close()
    # Not opened a second time, however often it is tried, while the driver holds it
    for _ in range(3):
        with pytest.raises(SourceTimeoutError, match="driver has not come back"):
            again.open()
        again = again.renew()
    assert (capture.released, len(threads())) == (0, 1)
    capture.go_on.set()
    again._lane._thread.join(10)
    assert (capture.released, threads()) == (1, [])
    capture.pictures = [GREY]
    with again:
        assert np.array_equal(again.read().image, GREY)


def test_a_camera_that_hangs_while_it_opens_is_timed_out_and_released_later():
    capture, go_on = FakeCapture(COLOR), threading.Event()

    def make(device):
        assert go_on.wait(10)
        return capture

    source = CameraSource(0, make_capture=make, open_timeout_s=0.05)
    with pytest.raises(SourceTimeoutError, match=r"did not open within 0\.05 s"):
        source.open()
    go_on.set()
    source._lane._thread.join(10)
    assert (capture.released, threads()) == (1, [])


def test_a_camera_that_is_dropped_or_fails_to_close_leaves_no_thread(caplog):
    class Stuck(FakeCapture):
        def release(self):
            raise cv2.error("device gone")

    dropped = camera(FakeCapture(COLOR))
    dropped.open()
    lane = dropped._lane._thread
    del dropped
    gc.collect()
    lane.join(10)
    with camera(Stuck(COLOR)) as source:
        source.read()
    assert "/dev/video0 did not close" in caplog.text
    assert threads() == []


def test_a_picture_that_came_too_late_is_not_given_later():
    capture = Hanging(COLOR, GREY)
    with CameraSource(0, make_capture=lambda device: capture, read_timeout_s=0.05) as source:
        with pytest.raises(SourceTimeoutError):
            source.read()
        capture.go_on.set()
        assert np.array_equal(source.read().image, GREY)


def test_an_error_of_the_driver_while_decoding_is_a_frame_error():
    class Garbled(FakeCapture):
        def retrieve(self):
            self.pictures.pop()
            raise cv2.error("imdecode: not a JPEG")

    with camera(Garbled(COLOR)) as source, pytest.raises(FrameError, match="frame 0 could not"):
        source.read()


def test_a_csi_camera_is_a_pipeline_of_nvidias_source_into_the_newest_picture():
    given = []

    def make(pipeline):
        given.append(pipeline)
        return FakeCapture(COLOR)

    with CsiSource(1, make_capture=make) as source:
        assert source.read().color == "bgr"
        assert source.name == "csi://1"
        assert source.renew().name == "csi://1"
    assert given[0].startswith(
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM) ! nvvidconv"
    )
    assert given[0].endswith("format=BGR ! appsink drop=true max-buffers=1 sync=false")


def test_a_csi_camera_that_does_not_start_says_how_to_try_it_alone():
    with pytest.raises(SourceError, match=r"csi://0: .*sensor-id=0 ! fakesink.*nvargus-daemon"):
        CsiSource(0, make_capture=lambda pipeline: FakeCapture(opens=False)).open()


def test_a_csi_camera_without_gstreamer_says_what_to_install(monkeypatch):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "GStreamer: NO")
    with pytest.raises(SourceError, match=r"csi://0: this OpenCV .* was built without GStreamer"):
        CsiSource(0).open()


PIPELINE = "rtspsrc location=rtsp://ada:lovelace@h/s user-pw='love ! lace' ! decodebin ! appsink"


def test_a_pipeline_is_named_by_its_elements_alone():
    assert GStreamerSource(PIPELINE).name == "rtspsrc ! decodebin ! appsink"


def test_a_pipeline_is_handed_to_opencv_without_the_name_of_the_program():
    given = []

    def make(pipeline):
        given.append(pipeline)
        return FakeCapture(COLOR)

    text = "gst-launch-1.0 -v -e v4l2src ! videoconvert ! appsink drop=true"
    with GStreamerSource(text, make_capture=make) as source:
        assert source.read().color == "bgr"
    assert given == ["v4l2src ! videoconvert ! appsink drop=true"]


@pytest.mark.parametrize("pipeline", ["v4l2src ! autovideosink", "appsink ! fakesink", "v4l2src"])
def test_a_pipeline_without_appsink_at_its_end_is_refused_with_advice(pipeline):
    with pytest.raises(SourceError, match="must end in appsink"):
        GStreamerSource(pipeline)


def test_a_pipeline_that_does_not_start_is_released():
    capture = FakeCapture(opens=False)
    with pytest.raises(SourceError, match="does not start"):
        GStreamerSource("a ! appsink", make_capture=lambda pipeline: capture).open()
    assert capture.released == 1


def test_an_opencv_without_gstreamer_says_what_to_install(monkeypatch):
    text = "  Video I/O:\n    FFMPEG:   YES\n    GStreamer:                   NO\n"
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: text)
    with pytest.raises(SourceError, match=r"built without GStreamer.*python3-opencv"):
        GStreamerSource("videotestsrc ! appsink").open()
