"""Image files, against Pillow."""

from __future__ import annotations

import contextlib
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fetalclip_edge.errors import FrameError, SourceError, SourceNotFoundError
from fetalclip_edge.sources import ImageSource, read_image
from fetalclip_edge.sources.image_headers import read_header
from fetalclip_edge.sources.images import images_in, natural_order

RANDOM = np.random.default_rng(3)
GREY = RANDOM.integers(0, 256, (37, 53), np.uint8)
COLOR = RANDOM.integers(0, 256, (37, 53, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "mode", "shape"),
    [
        ("a.png", "L", (37, 53)),
        ("a.png", "1", (37, 53)),
        ("a.png", "RGB", (37, 53, 3)),
        ("a.png", "RGBA", (37, 53, 3)),
        ("a.png", "LA", (37, 53, 3)),
        ("a.png", "P", (37, 53, 3)),
        ("a.bmp", "L", (37, 53)),
        ("a.bmp", "RGB", (37, 53, 3)),
        ("a.bmp", "P", (37, 53, 3)),
        ("a.jpg", "L", (37, 53)),
        ("a.jpg", "RGB", (37, 53, 3)),
    ],
)
def test_pixels_are_those_that_pillow_reads(tmp_path, name, mode, shape):
    path = tmp_path / name
    Image.fromarray(COLOR).convert(mode).save(path)
    image, color = read_image(path)
    assert image.shape == shape
    assert image.dtype == np.uint8
    with Image.open(path) as reference:
        if color == "gray":
            assert np.array_equal(image, np.asarray(reference.convert("L")))
        else:
            assert color == "bgr"
            assert np.array_equal(image[:, :, ::-1], np.asarray(reference.convert("RGB")))


def test_16_bit_samples_are_divided_by_257(tmp_path):
    deep = np.array([[0, 128, 129, 257], [32767, 32896, 65406, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    image, color = read_image(tmp_path / "deep.png")
    assert color == "gray"
    assert image.tolist() == [[0, 0, 1, 1], [127, 128, 254, 255]]


def test_16_bit_color_is_scaled_alike(tmp_path):
    deep = RANDOM.integers(0, 65536, (5, 7, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    image, color = read_image(tmp_path / "deep.png")
    assert color == "bgr"
    assert np.array_equal(image, np.round(deep / 257).astype(np.uint8))


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(GREY).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg")[0].shape == (53, 37)


@pytest.mark.parametrize("folder", ["ультразвук", "超音波 検査", "spaces and 'quotes'"])
def test_paths_may_hold_any_character(tmp_path, folder):
    path = tmp_path / folder / "bild ä.png"
    path.parent.mkdir()
    Image.fromarray(GREY).save(path)
    assert np.array_equal(read_image(path)[0], GREY)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.jpg", {}),
        ("a.jpg", {"progressive": True}),
        ("a.jpg", {"restart_marker_rows": 1}),
        ("a.png", {}),
        ("a.bmp", {}),
    ],
)
def test_a_file_cut_off_anywhere_is_refused(tmp_path, name, options):
    whole, cut = tmp_path / name, tmp_path / f"cut_{name}"
    Image.fromarray(COLOR).save(whole, **options)
    data = whole.read_bytes()
    read_image(whole)
    for end in range(0, len(data), 31):
        cut.write_bytes(data[:end])
        with pytest.raises(FrameError, match="cut_a"):
            read_image(cut)


def test_given_a_thumbnail_in_a_cut_jpeg_then_its_end_marker_does_not_count(tmp_path):
    Image.fromarray(GREY[:8, :8]).save(tmp_path / "small.jpg")
    thumbnail = (tmp_path / "small.jpg").read_bytes()
    path = tmp_path / "a.jpg"
    Image.fromarray(GREY).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0" + thumbnail)
    data = path.read_bytes()
    assert thumbnail in data
    read_image(path)
    path.write_bytes(data[: data.index(thumbnail) + len(thumbnail) + 900])
    with pytest.raises(FrameError, match="cut off"):
        read_image(path)


def test_a_flipped_bit_in_a_png_is_noticed(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(GREY).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(FrameError, match="checksum"):
        read_image(path)


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path):
    (tmp_path / "bomb.png").write_bytes(_png_header(60_000, 60_000))
    with pytest.raises(FrameError, match="60000x60000 pixels are more than the 64 megapixels"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"hello, world", "not a PNG, JPEG or BMP"), (b"GIF89a" + bytes(99), "not a")],
)
def test_what_is_no_picture_is_named(tmp_path, content, words):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(FrameError, match=words):
        read_image(tmp_path / "x.png")


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(SourceNotFoundError, match="no such file"):
        read_image(tmp_path / "none.png")


@settings(max_examples=300)
@given(kind=st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM"]), rest=st.binary())
def test_any_bytes_after_a_magic_number_give_a_header_or_a_value_error(kind, rest):
    header = None
    with contextlib.suppress(ValueError):
        header = read_header(kind + rest)
    assert header is None or min(header.width, header.height) > 0


def test_one_unreadable_file_among_many_is_skipped_and_keeps_its_number(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path in paths:
        Image.fromarray(GREY).save(path)
    paths[1].write_bytes(b"broken")
    paths[2].unlink()
    with ImageSource(paths) as source:
        assert source.read().index == 0
        with pytest.raises(FrameError, match=r"1\.png"):
            source.read()
        with pytest.raises(FrameError, match=r"2\.png"):
            source.read()
        last = source.read()
        assert (last.index, last.source) == (3, str(paths[3]))
        assert source.read() is None


def test_files_that_all_are_missing_do_not_open(tmp_path):
    with pytest.raises(SourceNotFoundError):
        ImageSource([tmp_path / "a.png", tmp_path / "b.png"]).open()


def test_no_files_are_an_error():
    with pytest.raises(SourceError, match="no image files"):
        ImageSource([])


def test_a_folder_is_read_in_natural_order(tmp_path):
    names = ["10.png", "2.png", "1.PNG", "a10b2.jpg", "a2b10.jpg", ".hidden.png", "notes.txt"]
    for name in names:
        (tmp_path / name).touch()
    found = [path.name for path in images_in(tmp_path)]
    assert found == ["1.PNG", "2.png", "10.png", "a2b10.jpg", "a10b2.jpg"]


def test_a_folder_without_images_is_not_found(tmp_path):
    (tmp_path / "video.mp4").touch()
    with pytest.raises(SourceNotFoundError, match=r"has no \.png"):
        images_in(tmp_path)


@given(st.lists(st.integers(0, 10**30), unique=True))
def test_natural_order_is_numeric_for_numbers(numbers):
    paths = [Path(f"scan {number}.png") for number in numbers]
    expected = [f"scan {number}.png" for number in sorted(numbers)]
    assert [path.name for path in sorted(paths, key=natural_order)] == expected


@given(st.lists(st.text(alphabet="ab019²xA", min_size=1)), st.randoms())
def test_natural_order_does_not_depend_on_the_order_before(names, random):
    paths = [Path(name) for name in names]
    shuffled = random.sample(paths, len(paths))
    assert sorted(shuffled, key=natural_order) == sorted(paths, key=natural_order)


@pytest.mark.data
def test_real_ultrasound_images_are_those_that_pillow_reads(data_root):
    paths = sorted((data_root / "native").rglob("*.[jp][pn]g"))
    assert len(paths) == 40
    for path in paths:
        image, color = read_image(path)
        with Image.open(path) as reference:
            expected = np.asarray(reference.convert("L" if color == "gray" else "RGB"))
        assert np.array_equal(image if color == "gray" else image[:, :, ::-1], expected)
