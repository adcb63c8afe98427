"""From what a user gives to the kind of source, and to names without secrets."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fetalclip_edge.errors import (
    InvalidImageError,
    InvalidImageTypeError,
    SourceError,
    SourceNotFoundError,
)
from fetalclip_edge.sources import (
    ArraySource,
    CameraSource,
    CsiSource,
    DicomSource,
    GStreamerSource,
    ImageSource,
    IterableSource,
    OpenIGTLinkSource,
    ReaderSource,
    VideoSource,
    open_source,
)
from fetalclip_edge.sources._names import hide_credentials, pipeline_name

GREY = np.zeros((4, 5), np.uint8)


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("frame10.png", "frame2.png", "frame1.png"):
        Image.fromarray(GREY).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "kind", "name"),
    [
        (0, CameraSource, "/dev/video0"),
        ("0", CameraSource, "/dev/video0"),
        (np.int64(2), CameraSource, "/dev/video2"),
        ("/dev/video3", CameraSource, "/dev/video3"),
        (Path("/dev/video3"), CameraSource, "/dev/video3"),
        ("v4l2:///dev/video1", CameraSource, "/dev/video1"),
        ("v4l2://dev/video1", CameraSource, "/dev/video1"),
        ("v4l2://1", CameraSource, "/dev/video1"),
        ("videotestsrc ! videoconvert ! appsink", GStreamerSource, "videotestsrc ! videoconvert"),
        ("gst-launch-1.0 videotestsrc ! appsink", GStreamerSource, "videotestsrc ! appsink"),
        ("csi://1", CsiSource, "csi://1"),
        ("igtl://scanner:18945/Image", OpenIGTLinkSource, "igtl://scanner:18945/Image"),
        ("rtsp://u:p@cam/live", VideoSource, "rtsp://***@cam/live"),
        ("https://cam/a.mp4?key=1", VideoSource, "https://cam/a.mp4?key=***"),
        (GREY, ArraySource, "array"),
        ((GREY for _ in range(2)), IterableSource, "iterable"),
        ([GREY, GREY], IterableSource, "iterable"),
        ([], IterableSource, "iterable"),
    ],
)
def test_what_is_given_tells_the_kind(source, kind, name):
    opened = open_source(source)
    assert type(opened) is kind
    assert opened.name.startswith(name)


def test_a_source_is_returned_as_it_is():
    source = ArraySource(GREY)
    assert open_source(source) is source


@pytest.mark.parametrize(("source", "live"), [(0, True), ("rtsp://cam/x", True), (GREY, False)])
def test_live_sources_say_so(source, live):
    assert open_source(source).live is live


def test_objects_with_read_are_readers_of_rgb_and_captures_of_opencv_of_bgr(
    tmp_path, make_video, moving_pictures
):
    class Driver:
        def read(self):
            return np.zeros((4, 5, 3), np.uint8)

    with open_source(Driver()) as source:
        assert isinstance(source, ReaderSource)
        assert source.read().color == "rgb"
    pictures = moving_pictures(2)
    capture = cv2.VideoCapture(str(make_video(tmp_path / "a.mkv", pictures)))
    with open_source(capture) as source:
        frames = list(source)
    assert capture.isOpened()
    capture.release()
    assert [frame.color for frame in frames] == ["bgr", "bgr"]
    assert np.abs(frames[1].image[:, :, ::-1].astype(int) - pictures[1]).max() <= 1


def test_a_folder_gives_its_images_in_natural_order(folder):
    with open_source(folder) as source:
        names = [Path(frame.source).name for frame in source]
    assert source.name == str(folder)
    assert names == ["frame1.png", "frame2.png", "frame10.png"]


def test_a_pattern_gives_its_matches_in_natural_order(folder):
    with open_source(f"{folder}/frame1*.png") as source:
        assert [Path(frame.source).name for frame in source] == ["frame1.png", "frame10.png"]


def test_a_list_of_paths_keeps_its_order(folder):
    with open_source([str(folder / "frame10.png"), folder / "frame2.png"]) as source:
        assert [Path(frame.source).name for frame in source] == ["frame10.png", "frame2.png"]


@pytest.mark.parametrize("name", ["a[1].png", "what?.png", "a ! b.png", "100%.png", "0x.png"])
def test_a_file_whose_name_looks_like_something_else_is_a_file(tmp_path, name):
    Image.fromarray(GREY).save(tmp_path / name)
    with open_source(str(tmp_path / name)) as source:
        assert isinstance(source, ImageSource)
        assert np.array_equal(source.read().image, GREY)


def test_content_tells_files_without_a_suffix(tmp_path, dicom_file):
    Image.fromarray(GREY).save(tmp_path / "picture", format="PNG")
    (tmp_path / "IM_0001").write_bytes(dicom_file("OBXXXX1A.dcm").read_bytes())
    (tmp_path / "wrong.png").write_bytes(dicom_file("OBXXXX1A.dcm").read_bytes())
    assert type(open_source(tmp_path / "picture")) is ImageSource
    assert type(open_source(tmp_path / "IM_0001")) is DicomSource
    assert type(open_source(tmp_path / "wrong.png")) is DicomSource


def test_a_file_url_is_a_path(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a picture.png")
    assert type(open_source((tmp_path / "a picture.png").as_uri())) is ImageSource


def test_videos_and_dicom_go_by_suffix(tmp_path):
    for name, kind in (("a.MP4", VideoSource), ("a.mjpeg", VideoSource), ("a.dcm", DicomSource)):
        (tmp_path / name).write_bytes(b"\xff\xd8\xff")
        assert type(open_source(tmp_path / name)) is kind


@pytest.mark.parametrize("missing", ["none.png", "none.mp4", "none/", "none*.png", "~none/x.png"])
def test_a_missing_path_is_not_found_before_anything_opens(tmp_path, missing):
    with pytest.raises(SourceNotFoundError, match="none"):
        open_source(f"{tmp_path}/{missing}")


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("", SourceError, "names nothing"),
        ("ftp2://host/x", SourceError, "ftp2 is no kind of source"),
        ("igtl2://u:pw@host/x", SourceError, r"igtl2://\*\*\*@host/x"),
        ("csi://u:pw@0", SourceError, r"csi://\*\*\*@0: a CSI camera has a number"),
        (-1, SourceError, "no camera -1"),
        (True, InvalidImageTypeError, "bool"),
        (None, InvalidImageTypeError, "NoneType"),
        (1.5, InvalidImageTypeError, "float"),
        (b"bytes", InvalidImageTypeError, "bytes"),
        ({"a": 1}, InvalidImageTypeError, "dict"),
        (object(), InvalidImageTypeError, "object"),
        (GREY.astype(np.float32), InvalidImageTypeError, "float32"),
        (np.zeros((4, 5, 4), np.uint8), InvalidImageError, r"\(4, 5, 4\)"),
    ],
)
def test_what_is_no_source_is_named_in_the_error(source, error, words):
    with pytest.raises(error, match=words):
        open_source(source)


@pytest.mark.parametrize("text", ["x" * 5000, "a\0b", "~nobody-of-this-name/a.png"])
def test_text_that_no_path_can_be_is_not_found(text):
    with pytest.raises(SourceNotFoundError, match="no such file"):
        open_source(text)


def test_a_pipeline_may_be_longer_than_a_path():
    pipeline = "v4l2src ! " + "videoconvert ! " * 400 + "appsink"
    assert isinstance(open_source(pipeline), GStreamerSource)


@pytest.mark.parametrize("source", ["", "ftp2://host/x", None, 1.5])
def test_errors_list_what_is_accepted(source):
    with pytest.raises(
        (SourceError, InvalidImageTypeError), match="a camera .* a GStreamer .* a uint8 array"
    ):
        open_source(source)


def test_an_open_file_is_refused_with_the_advice_to_give_its_path(folder):
    with (
        (folder / "frame1.png").open("rb") as file,
        pytest.raises(InvalidImageTypeError, match="give the path"),
    ):
        open_source(file)


def test_files_of_unknown_kinds_are_refused(tmp_path):
    # FFmpeg would show a text file as a video of its letters.
    (tmp_path / "notes.txt").write_text("hello\n" * 100)
    with pytest.raises(SourceError, match="no DICOM file, no image .* and no video"):
        open_source(tmp_path / "notes.txt")


def test_a_pattern_that_matches_other_files_than_images_is_refused(folder):
    (folder / "frame3.mp4").touch()
    with pytest.raises(SourceError, match=r"frame3\.mp4 is none"):
        open_source(f"{folder}/frame*")


# Names


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("rtsp://cam:554/live", "rtsp://cam:554/live"),
        ("rtsp://admin:secret@cam:554/live", "rtsp://***@cam:554/live"),
        ("rtsp://admin@cam/live", "rtsp://***@cam/live"),
        ("http://cam/v?token=abc&channel=2", "http://cam/v?token=***&channel=***"),
        ("http://cam/v?abcdef", "http://cam/v?***"),
        ("http://cam/v#abcdef", "http://cam/v"),
        ("rtsp://a:p@ss/w@cam/live", "rtsp://***@cam/live"),
        ("rtsp://a:p?ss@cam/live", "rtsp://***"),
        (
            "rtsp://cam/user=admin_password=secret_channel=1.sdp",
            "rtsp://cam/user=admin_password=***",
        ),
        ("no url at all", "no url at all"),
    ],
)
def test_secrets_in_urls_are_hidden(url, name):
    assert hide_credentials(url) == name


@given(
    password=st.text(min_size=1).map(lambda text: f"Sec{text}Ret"),
    token=st.text(alphabet=st.characters(exclude_characters="&#@")).map(
        lambda text: f"Tok{text}En"
    ),
)
def test_no_password_and_no_token_survives(password, token):
    name = hide_credentials(f"rtsp://user:{password}@camera/live?token={token}")
    assert name.startswith("rtsp://***")
    assert not any(part in name for part in ("user", "Sec", "Ret", "Tok", "En"))


@given(password=st.text(alphabet=st.characters(exclude_characters="'")))
def test_no_property_of_a_pipeline_survives(password):
    pipeline = f"rtspsrc user-pw='Sec{password}Ret' ! video/x-raw,format=BGR ! appsink drop=true"
    assert pipeline_name(pipeline) == "rtspsrc ! video/x-raw ! appsink"


@pytest.mark.parametrize(
    "value",
    [
        "p!secret",
        "!secret!x",
        r'"p\" ! secret ! x"',
        r"'p\' ! secret ! x'",
        r"p\ !\ secret",
        '"p"!secret',
    ],
)
def test_no_exclamation_mark_in_a_property_is_taken_for_a_link(value):
    pipeline = f"rtspsrc user-pw={value} ! decodebin ! appsink"
    assert pipeline_name(pipeline) == "rtspsrc ! decodebin ! appsink"


def test_a_quote_that_nothing_ends_hides_the_rest():
    assert pipeline_name("rtspsrc user-pw='p ! secret ! appsink") == "rtspsrc"


def test_links_without_spaces_are_hidden():
    assert pipeline_name("v4l2src!jpegdec ! appsink") == "*** ! appsink"
