"""JPEG frames that GDCM must not see. Each edit is of a frame that OpenCV wrote."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fetalclip_edge.sources.dicom_jpeg import check_jpeg

GREY = cv2.imencode(".jpg", np.arange(96, dtype=np.uint8).reshape(8, 12))[1].tobytes()
COLOR = cv2.imencode(".jpg", np.arange(288, dtype=np.uint8).reshape(8, 12, 3))[1].tobytes()
ADOBE = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"


def test_whole_frames_pass() -> None:
    check_jpeg(GREY, 8, 12, 1, 8)
    check_jpeg(COLOR, 8, 12, 3, 8)
    check_jpeg(COLOR[:2] + ADOBE + b"\x01" + COLOR[2:], 8, 12, 3, 8)
    # Bytes of fill before a marker, and what follows the scan's header, are not its matter
    check_jpeg(GREY[:2] + b"\xff\xff" + GREY[2:-4], 8, 12, 1, 8)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "does not begin as a JPEG"),
        (GREY[:2], "cut off"),
        (GREY[:100], "cut off"),
        (GREY[:2] + b"\0\0" + GREY[2:], "damaged"),
        (GREY.replace(b"\xff\xdb", b"\xbf\xdb", 1), "damaged"),
        (GREY.replace(b"\xff\xdb", b"\xff\xd9", 1), "damaged"),
        (GREY.replace(b"\xff\xc0", b"\xff\xc9", 1), "damaged"),
        (GREY.replace(b"JFIF\0\x01", b"JFIF\0\x07", 1), "damaged"),
        (GREY[:2] + ADOBE + b"\x09" + GREY[2:], "damaged"),
        (GREY[:2] + GREY[GREY.index(b"\xff\xda") :], "damaged"),
        (COLOR, "12x8 of 3 components, and the header says 12x8 of 1"),
        (cv2.imencode(".jpg", np.zeros((8, 16), np.uint8))[1].tobytes(), "it is 16x8"),
        (GREY.replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc0\0\x0b\x0c"), "12 bits"),
    ],
)
def test_others_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_jpeg(data, 8, 12, 1, 8)
