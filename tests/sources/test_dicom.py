"""DICOM files: real ones of pydicom and pydicom-data, and small ones made for one point each."""

from __future__ import annotations

import io
import logging
import tracemalloc

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import (
    apply_color_lut,
    apply_modality_lut,
    apply_voi_lut,
    convert_color_space,
    pixel_array,
)

from fetalclip_edge.errors import FrameError, SourceError, SourceNotFoundError
from fetalclip_edge.results import Region
from fetalclip_edge.sources import DicomSource

RANDOM = np.random.default_rng(5)
GREY = RANDOM.integers(0, 256, (3, 6, 8), np.uint8)
COLOR = RANDOM.integers(0, 256, (3, 6, 8, 3), np.uint8)


def frames_of(path):
    with DicomSource(path) as source:
        return list(source)


def opened(path) -> DicomSource:
    """The source, opened and closed again: it keeps what the header said."""
    with DicomSource(path) as source:
        return source


# Real recordings


def test_a_real_cine_has_its_frames_times_region_and_scale(dicom_file):
    with DicomSource(dicom_file("color3d_jpeg_baseline.dcm")) as source:
        first, second = source.read(), source.read()
        assert source.frame_count == 120
        assert source.frame_rate == pytest.approx(1000 / 33.333)
        assert source.notices == ()
    assert first.image.shape == (480, 640, 3)
    assert first.color == "rgb"
    assert first.region == Region(84, 31, 512, 384)
    assert first.pixel_size_mm == pytest.approx(0.5104970559477806)
    assert (first.pts_s, second.pts_s) == (0.0, pytest.approx(0.033333))


def test_a_real_cine_is_decoded_as_pillow_decodes_its_jpegs(dicom_file):
    path = dicom_file("color3d_jpeg_baseline.dcm")
    jpegs = generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=120)
    with DicomSource(path) as source:
        for _ in range(20):
            expected = np.asarray(Image.open(io.BytesIO(next(jpegs))).convert("RGB")).astype(int)
            # Both decode with libjpeg; they may round the color conversion differently.
            assert np.abs(source.read().image - expected).max() <= 2


def test_frames_are_decoded_one_by_one(dicom_file):
    tracemalloc.start()
    with DicomSource(dicom_file("color3d_jpeg_baseline.dcm")) as source:
        for _ in range(10):
            source.read()
        peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6 < 120 * 480 * 640 * 3


def test_given_a_stale_region_then_it_is_refused_and_said_and_logged(dicom_file, caplog):
    path = dicom_file("examples_ybr_color.dcm")
    with caplog.at_level(logging.WARNING, "fetalclip_edge"), DicomSource(path) as source:
        frames = list(source)
    assert len(frames) == 30
    assert {(frame.region, frame.pixel_size_mm) for frame in frames} == {(None, None)}
    (notice,) = source.notices
    assert "(84, 31) to (595, 414) is outside the image of 320x240 pixels" in notice
    assert notice in caplog.text


def test_two_equal_regions_give_the_first(dicom_file):
    (frame,) = frames_of(dicom_file("gdcm-US-ALOKA-16.dcm"))
    assert frame.region == Region(32, 24, 304, 392)
    assert frame.pixel_size_mm == pytest.approx(0.3826530650258064)
    assert frame.pts_s is None


def test_a_region_given_by_the_corner_after_its_last_pixel_is_kept(dicom_file):
    (frame,) = frames_of(dicom_file("OBXXXX1A.dcm"))
    assert frame.image.shape == (600, 800, 3)
    assert frame.region == Region(120, 60, 680, 459)
    assert frame.pixel_size_mm is not None


@pytest.mark.parametrize(
    "name",
    [
        "examples_ybr_color.dcm",  # JPEG baseline, YBR_FULL_422
        "SC_rgb_jpeg_gdcm.dcm",  # JPEG lossless
        "US1_J2KI.dcm",  # JPEG 2000, YBR_ICT
        "JPEGLSNearLossless_08.dcm",
        "SC_rgb_rle_2frame.dcm",
        "color-pl.dcm",  # planar configuration 1
        "color-px.dcm",
        "ExplVR_BigEnd.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
        "SC_ybr_full_uncompressed.dcm",
        "SC_rgb_small_odd.dcm",
    ],
)
def test_pixels_are_those_that_pydicom_reads(dicom_file, name):
    path = dicom_file(name)
    for index, frame in enumerate(frames_of(path)):
        assert frame.image.dtype == np.uint8
        assert np.array_equal(frame.image, pixel_array(path, index=index))


def test_lossless_jpeg_2000_gives_the_pixels_of_the_uncompressed_file(dicom_file):
    (packed,), (plain,) = (frames_of(dicom_file(f"US1_{kind}.dcm")) for kind in ("J2KR", "UNCR"))
    assert np.array_equal(packed.image, plain.image)


@pytest.mark.parametrize("name", ["OBXXXX1A.dcm", "OBXXXX1A_rle.dcm", "gdcm-US-ALOKA-16.dcm"])
def test_a_palette_gives_the_colors_that_pydicom_gives(dicom_file, name):
    path = dicom_file(name)
    dataset = pydicom.dcmread(path)
    colors = apply_color_lut(dataset.pixel_array, dataset)
    expected = colors // 256 if colors.max() > 255 else colors
    (frame,) = frames_of(path)
    assert frame.color == "rgb"
    assert np.array_equal(frame.image, expected)


@pytest.mark.parametrize(
    "name", ["MR2_UNCR.dcm", "MR_small.dcm", "MR_small_bigendian.dcm", "examples_overlay.dcm"]
)
def test_the_first_window_is_applied(dicom_file, name):
    dataset = pydicom.dcmread(dicom_file(name))
    center, width = (
        float(np.ravel(dataset[keyword].value)[0]) for keyword in ("WindowCenter", "WindowWidth")
    )
    values = apply_modality_lut(dataset.pixel_array, dataset).astype(float)
    # PS3.3 C.11.2.1.2.1
    expected = np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1) * 255
    (frame,) = frames_of(dicom_file(name))
    assert np.abs(frame.image - expected).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("name", "top"),
    # pydicom's answer goes up to what the stored bits allow: 12 bits, 8 bits (JPEG lossless).
    [("examples_overlay.dcm", 4095), ("JPGLosslessP14SV1_1s_1f_8b.dcm", 255)],
)
def test_a_window_shows_what_pydicom_shows(dicom_file, name, top):
    dataset = pydicom.dcmread(dicom_file(name))
    expected = apply_voi_lut(dataset.pixel_array, dataset) / top * 255
    (frame,) = frames_of(dicom_file(name))
    assert np.abs(frame.image - expected).max() <= 0.5 + 1e-6


def test_monochrome1_is_inverted(dicom_file):
    path = dicom_file("RG3_UNCR.dcm")
    stored = pydicom.dcmread(path).pixel_array.astype(float)
    expected = 255 - np.clip((stored - 549.5) / 1023 + 0.5, 0, 1) * 255
    (frame,) = frames_of(path)
    assert np.abs(frame.image - expected).max() <= 0.5 + 1e-6


# Color spaces and depths


def test_grey_and_color_pictures_come_as_they_are(make_dicom):
    grey, color = frames_of(make_dicom(GREY)), frames_of(make_dicom(COLOR, "color.dcm"))
    assert np.array_equal([frame.image for frame in grey], GREY)
    assert np.array_equal([frame.image for frame in color], COLOR)
    assert (grey[0].color, color[0].color) == ("gray", "rgb")


def test_ybr_full_is_converted_to_rgb(make_dicom):
    path = make_dicom(COLOR, PhotometricInterpretation="YBR_FULL")
    expected = convert_color_space(COLOR, "YBR_FULL", "RGB")
    assert np.array_equal([frame.image for frame in frames_of(path)], expected)
    y, cb, cr = (COLOR[..., channel].astype(float) for channel in range(3))
    # PS3.3 C.7.6.3.1.2
    red = np.clip(y + 1.402 * (cr - 128), 0, 255)
    blue = np.clip(y + 1.772 * (cb - 128), 0, 255)
    assert np.abs(np.stack([frame.image for frame in frames_of(path)])[..., 0] - red).max() <= 1
    assert np.abs(np.stack([frame.image for frame in frames_of(path)])[..., 2] - blue).max() <= 1


def test_planar_pictures_are_interleaved(make_dicom):
    planes = np.ascontiguousarray(COLOR.transpose(0, 3, 1, 2))
    path = make_dicom(COLOR, PlanarConfiguration=1, PixelData=planes.tobytes())
    assert np.array_equal([frame.image for frame in frames_of(path)], COLOR)


def test_8_bit_monochrome1_is_inverted(make_dicom):
    path = make_dicom(GREY, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal([frame.image for frame in frames_of(path)], 255 - GREY)


def test_16_bit_grey_without_a_window_spreads_what_bits_stored_allows(make_dicom):
    values = np.array([[[0, 8, 2048], [4095, 4094, 1]]], np.uint16)
    (frame,) = frames_of(make_dicom(values, BitsStored=12, HighBit=11))
    assert frame.image.tolist() == [[0, 0, 128], [255, 255, 0]]


def test_signed_grey_without_a_window_starts_at_the_lowest_value(make_dicom):
    values = np.array([[[-2048, 0, 2047]]], np.int16)
    (frame,) = frames_of(make_dicom(values, BitsStored=12, HighBit=11))
    assert frame.image.tolist() == [[0, 128, 255]]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("LINEAR", [0, 0, 128, 255, 255]),
        ("LINEAR_EXACT", [0, 0, 128, 255, 255]),
        ("SIGMOID", [0, 30, 128, 225, 255]),
    ],
)
def test_windows_after_rescaling(make_dicom, function, expected):
    values = np.array([[[0, 300, 400, 500, 1000]]], np.uint16)
    (frame,) = frames_of(
        make_dicom(
            values,
            RescaleSlope="2",
            RescaleIntercept="-100",
            WindowCenter="700",
            WindowWidth="400",
            VOILUTFunction=function,
        )
    )
    assert np.abs(frame.image[0].astype(int) - expected).max() <= 1


def test_16_bit_color_keeps_its_high_bits(make_dicom):
    deep = RANDOM.integers(0, 65536, (1, 4, 5, 3)).astype(np.uint16)
    (frame,) = frames_of(make_dicom(deep))
    assert np.array_equal(frame.image, deep[0] // 256)


# Regions and scale


def test_the_largest_tissue_region_in_centimetres_counts(make_dicom, region_item):
    path = make_dicom(
        np.zeros((1, 60, 80), np.uint8),
        SequenceOfUltrasoundRegions=[
            region_item(0, 0, 9, 9, PhysicalDeltaX=0.5, PhysicalDeltaY=0.5),
            region_item(20, 10, 59, 39, PhysicalDeltaX=-0.02, PhysicalDeltaY=0.02),
            region_item(0, 0, 79, 59, RegionSpatialFormat=3),
            region_item(0, 0, 79, 59, RegionDataType=2),
        ],
    )
    (frame,) = frames_of(path)
    assert frame.region == Region(20, 10, 40, 30)
    assert frame.pixel_size_mm == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("corners", "kept"),
    [
        ((0, 0, 79, 59), Region(0, 0, 80, 60)),
        ((0, 0, 80, 60), Region(0, 0, 80, 60)),
        ((0, 0, 81, 59), None),
        ((0, 0, 79, 61), None),
        ((90, 0, 99, 59), None),
        ((50, 0, 40, 59), None),
    ],
)
def test_a_region_outside_the_image_is_refused_with_its_scale(
    make_dicom, region_item, corners, kept
):
    path = make_dicom(
        np.zeros((1, 60, 80), np.uint8),
        SequenceOfUltrasoundRegions=[region_item(0, 0, 9, 9), region_item(*corners)],
        PixelSpacing=["0.2", "0.2"],
    )
    (frame,) = frames_of(path)
    assert frame.region == kept
    assert frame.pixel_size_mm == (None if kept is None else pytest.approx(0.2))
    assert len(opened(path).notices) == (kept is None)


@pytest.mark.parametrize(
    ("elements", "size", "notices"),
    [
        ({"PhysicalDeltaX": 0.0200, "PhysicalDeltaY": 0.0201}, 0.2005, 0),
        ({"PhysicalDeltaX": 0.0200, "PhysicalDeltaY": 0.0204}, None, 1),
        ({"PhysicalUnitsYDirection": 4}, None, 0),
        ({"PhysicalDeltaX": 0.0}, None, 0),
        ({"PhysicalDeltaX": float("nan")}, None, 0),
    ],
)
def test_a_scale_is_believed_only_when_it_is_the_same_both_ways(
    make_dicom, region_item, elements, size, notices
):
    path = make_dicom(
        np.zeros((1, 60, 80), np.uint8),
        SequenceOfUltrasoundRegions=[region_item(10, 10, 69, 49, **elements)],
    )
    (frame,) = frames_of(path)
    assert frame.region == Region(10, 10, 60, 40)
    assert frame.pixel_size_mm == (None if size is None else pytest.approx(size))
    assert len(opened(path).notices) == notices


@pytest.mark.parametrize(
    ("elements", "size"),
    [
        ({"PixelSpacing": ["0.15", "0.15"]}, 0.15),
        ({"PixelSpacing": ["0.15", "0.30"]}, None),
        ({"PixelSpacing": ["0", "0"]}, None),
        ({"PixelSpacing": ["0.15", "0.15"], "Modality": "OT"}, None),
        ({"ImagerPixelSpacing": ["0.15", "0.15"]}, None),
        ({}, None),
    ],
)
def test_without_a_region_pixel_spacing_is_used_for_ultrasound(make_dicom, elements, size):
    (frame,) = frames_of(make_dicom(GREY[:1], **elements))
    assert frame.region is None
    assert frame.pixel_size_mm == size


# Times

VECTOR = pydicom.tag.Tag("FrameTimeVector")


@pytest.mark.parametrize(
    ("elements", "times", "rate"),
    [
        ({"FrameTime": "40"}, [0, 0.04, 0.08], 25),
        ({"FrameTimeVector": ["0", "30", "50"]}, [0, 0.03, 0.08], 25),
        ({"FrameTime": "40", "FrameTimeVector": ["0", "9", "9"]}, [0, 0.04, 0.08], 25),
        (
            {
                "FrameTime": "40",
                "FrameTimeVector": ["7", "10", "40"],
                "FrameIncrementPointer": VECTOR,
            },
            [0, 0.01, 0.05],
            40,
        ),
        ({"CineRate": "50", "RecommendedDisplayFrameRate": "10"}, [0, 0.02, 0.04], 50),
        ({"RecommendedDisplayFrameRate": "10"}, [0, 0.1, 0.2], 10),
        ({"FrameTime": "0", "CineRate": "50"}, [0, 0.02, 0.04], 50),
        ({"FrameTimeVector": ["0", "30"], "CineRate": "50"}, [0, 0.02, 0.04], 50),
        ({}, [None, None, None], None),
    ],
)
def test_times_of_frames(make_dicom, elements, times, rate):
    path = make_dicom(GREY, **elements)
    found = [frame.pts_s for frame in frames_of(path)]
    assert found == [None if time is None else pytest.approx(time) for time in times]
    assert opened(path).frame_rate == (None if rate is None else pytest.approx(rate))


def test_a_time_vector_of_another_length_is_said(make_dicom):
    (notice,) = opened(make_dicom(GREY, FrameTimeVector=["0", "30"])).notices
    assert "FrameTimeVector does not fit 3 frames" in notice


# What cannot be read


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"PhotometricInterpretation": "CMYK"}, "'CMYK' is not read"),
        ({"BitsAllocated": 32, "BitsStored": 32}, "32 of 32 bits"),
        ({"BitsStored": 12}, "12 of 8 bits"),
        ({"Rows": 60_000, "Columns": 60_000}, "more than the 64 megapixels"),
        ({"Rows": 0}, "lacks Rows"),
        ({"NumberOfFrames": -1}, "NumberOfFrames is not a positive number"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "palette is missing"),
    ],
)
def test_headers_that_make_no_picture_are_refused(make_dicom, elements, words):
    with pytest.raises(SourceError, match=words):
        DicomSource(make_dicom(GREY, **elements)).open()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("test-SR.dcm", "holds no pictures"),
        ("rtplan.dcm", "holds no pictures"),
        ("image_dfl.dcm", "gdcmconv --raw"),
        ("no_meta.dcm", "is no DICOM file"),
        ("MR_truncated.dcm", "pixel data is cut off"),
    ],
)
def test_real_files_without_a_readable_picture_say_why(dicom_file, name, words):
    with pytest.raises(SourceError, match=words):
        DicomSource(dicom_file(name)).open()


def test_a_transfer_syntax_without_a_decoder_is_named_with_advice(make_dicom):
    path = make_dicom(GREY)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.MPEG4HP41
    dataset.PixelData = encapsulate([b"\0\0\0\1"])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path)
    with pytest.raises(SourceError, match="MPEG-4 AVC/H.264 High Profile / Level 4.1; convert"):
        DicomSource(path).open()


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(SourceNotFoundError):
        DicomSource(tmp_path / "none.dcm").open()


def test_given_fewer_frames_than_said_then_those_come_and_then_an_error(make_dicom):
    with DicomSource(make_dicom(GREY, NumberOfFrames=2_000_000_000)) as source:
        assert source.frame_count == 3
        assert "the pixel data holds 3" in source.notices[0]
        for picture in GREY:
            assert np.array_equal(source.read().image, picture)
        with pytest.raises(SourceError, match="ends after 3 of 2000000000 frames"):
            source.read()


def test_given_a_cut_file_then_the_whole_frames_come_and_then_an_error(make_dicom):
    path = make_dicom(GREY)
    path.write_bytes(path.read_bytes()[:-10])
    with DicomSource(path) as source:
        assert [source.read().index for _ in range(2)] == [0, 1]
        with pytest.raises(SourceError, match="ends after 2 of 3 frames"):
            source.read()


@pytest.fixture
def cine_with(dicom_file, tmp_path):
    """The first frames of a real JPEG cine, changed."""
    original = dicom_file("color3d_jpeg_baseline.dcm")

    def make(change=lambda jpegs: jpegs, declared=5):
        dataset = pydicom.dcmread(original)
        jpegs = list(generate_frames(dataset.PixelData, number_of_frames=120))[:5]
        dataset.PixelData = encapsulate(change(jpegs))
        dataset.NumberOfFrames = declared
        dataset.save_as(tmp_path / "cine.dcm")
        return tmp_path / "cine.dcm"

    return make


def _cut_third(jpegs):
    return [jpeg[: len(jpeg) // 2] if i == 2 else jpeg for i, jpeg in enumerate(jpegs)]


def _spoil_third(jpegs):
    return [b"\xff\xd8spoilt!" if i == 2 else jpeg for i, jpeg in enumerate(jpegs)]


@pytest.mark.parametrize("change", [_cut_third, _spoil_third])
def test_one_damaged_frame_is_a_frame_error_and_the_next_are_read(cine_with, dicom_file, change):
    whole = dicom_file("color3d_jpeg_baseline.dcm")
    with DicomSource(cine_with(change)) as source:
        source.read()
        source.read()
        with pytest.raises(FrameError, match="frame 2 cannot be decoded"):
            source.read()
        for index in (3, 4):
            frame = source.read()
            assert frame.index == index
            assert np.array_equal(frame.image, pixel_array(whole, index=index))
        assert source.read() is None


@pytest.mark.parametrize("declared", [9, 2_000_000_000])
def test_compressed_frames_that_are_not_there_are_an_error(cine_with, declared):
    with DicomSource(cine_with(declared=declared)) as source:
        for _ in range(5):
            source.read()
        with pytest.raises(SourceError, match=f"ends after 5 of {declared} frames"):
            source.read()


def test_a_cut_compressed_file_is_an_error(dicom_file, tmp_path):
    data = dicom_file("color3d_jpeg_baseline.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(data[: len(data) // 2])
    with (
        DicomSource(tmp_path / "cut.dcm") as source,
        pytest.raises(SourceError, match="damaged|ends after"),
    ):
        list(source)


def test_no_patient_data_in_names_notices_logs_and_errors(make_dicom, region_item, caplog):
    path = make_dicom(
        GREY, NumberOfFrames=9, SequenceOfUltrasoundRegions=[region_item(0, 0, 99, 99)]
    )
    with (
        caplog.at_level(logging.DEBUG),
        DicomSource(path) as source,
        pytest.raises(SourceError) as caught,
    ):
        list(source)
    told = " ".join([source.name, *source.notices, caplog.text, str(caught.value)])
    assert "outside the image" in told
    assert "secret" not in told.lower().replace(str(path).lower(), "")
