"""The sector of single pictures, drawn and real."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

import fetalclip_edge as fe
from fetalclip_edge.errors import InvalidImageError, InvalidImageTypeError
from fetalclip_edge.results import Region

from .pictures import (
    HEIGHT,
    WIDTH,
    Pixels,
    around,
    fan,
    iou,
    rectangle,
    speckle,
    tissue_in,
    trapezoid,
    with_screen,
)

SHAPES = [(fan, "fan"), (trapezoid, "trapezoid"), (rectangle, "rectangle")]


@pytest.mark.parametrize(("shape", "kind"), SHAPES)
def test_a_drawn_sector_is_found_within_its_screen(shape: type[fan], kind: str) -> None:
    # Given speckle in a known shape, with text, a ruler, a bar, a logo and a panel around it
    mask = shape()
    picture, drawn = with_screen(tissue_in(mask))
    # When the sector is looked for
    sector = fe.find_sector(picture)
    # Then it is the shape, and nothing of the screen is in it
    assert sector is not None
    assert sector.kind == kind
    assert iou(sector.region, around(mask)) > 0.95
    shown = sector.mask(HEIGHT, WIDTH) > 0
    assert (shown & (mask > 0)).sum() > 0.97 * (mask > 0).sum()
    assert (shown & drawn).sum() <= 0.01 * drawn.sum()
    assert sector.confidence > 0.8


@pytest.mark.parametrize("width", [320, 1920])
def test_the_size_of_the_frame_does_not_matter(width: int) -> None:
    picture, _ = with_screen(tissue_in(fan()))
    scale = width / WIDTH
    sector = fe.find_sector(cv2.resize(picture, None, fx=scale, fy=scale).astype(np.uint8))
    assert sector is not None
    assert iou(Region(*(round(value / scale) for value in sector.region)), around(fan())) > 0.95


@pytest.mark.parametrize("shape", [fan, trapezoid, rectangle])
def test_dark_tissue_and_a_shadow_do_not_end_it(shape: type[fan]) -> None:
    mask = shape()
    picture = tissue_in(mask, level=25.0)
    picture[:, 380:420] = 0  # from top to bottom
    sector = fe.find_sector(picture)
    assert sector is not None
    assert iou(sector.region, around(mask)) > 0.93


def test_fluid_from_side_to_side_does_not_end_it() -> None:
    mask = rectangle()
    picture = tissue_in(mask)
    picture[200:350] = 0
    sector = fe.find_sector(picture)
    assert sector is not None
    assert iou(sector.region, around(mask)) > 0.95


def test_a_colour_frame_is_as_good_as_a_grey_one() -> None:
    picture, _ = with_screen(tissue_in(trapezoid()))
    colour = np.dstack([picture] * 3)
    colour[540:580, 20:120] = (250, 180, 0)
    grey, coloured = fe.find_sector(picture), fe.find_sector(colour)
    assert grey is not None
    assert coloured is not None
    assert iou(grey.region, coloured.region) > 0.99


def test_a_screen_need_not_be_black() -> None:
    mask = trapezoid()
    picture = np.where(mask > 0, speckle(3, 90.0), 40).astype(np.uint8)
    sector = fe.find_sector(picture)
    assert sector is not None
    assert iou(sector.region, around(mask)) > 0.95


def test_a_picture_that_is_all_ultrasound_is_kept_whole() -> None:
    sector = fe.find_sector(speckle(1))
    assert sector is not None
    assert iou(sector.region, Region(0, 0, WIDTH, HEIGHT)) > 0.99


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((HEIGHT, WIDTH), np.uint8),
        np.full((HEIGHT, WIDTH, 3), 90, np.uint8),
        with_screen(np.zeros((HEIGHT, WIDTH), np.uint8))[0],
        np.zeros((1, 1), np.uint8),
    ],
    ids=["black", "grey", "text alone", "one pixel"],
)
def test_what_shows_no_ultrasound_has_no_sector(picture: Pixels) -> None:
    assert fe.find_sector(picture) is None


def test_the_outline_lies_in_the_region_and_is_convex() -> None:
    sector = fe.find_sector(tissue_in(fan()))
    assert sector is not None
    points = np.array(sector.outline)
    x, y, width, height = sector.region
    assert (points >= (x, y)).all()
    assert (points <= (x + width, y + height)).all()
    assert cv2.isContourConvex(points.astype(np.float32))
    assert around(sector.mask(HEIGHT, WIDTH)) == pytest.approx(sector.region, abs=2)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(InvalidImageTypeError, match="uint8"):
        fe.find_sector(np.zeros((4, 4)))  # type: ignore[arg-type]
    with pytest.raises(InvalidImageError, match=r"\(4, 4, 4\)"):
        fe.find_sector(np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(InvalidImageError, match="not empty"):
        fe.find_sector(np.zeros((0, 4), np.uint8))


@pytest.mark.data
def test_real_pictures_agree_with_rectangles_drawn_by_eye(
    data_root: Path, repository: Path
) -> None:
    table = repository / "benchmarks" / "sector_boxes.csv"
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["file"].startswith("native/")]
    agreement = []
    for row in rows:
        image = np.asarray(cv2.imread(str(data_root / row["file"]), cv2.IMREAD_GRAYSCALE), np.uint8)
        sector = fe.find_sector(image)
        x, y, width, height = (int(row[key]) for key in ("x", "y", "width", "height"))
        assert sector is not None, row["file"]
        a, b = np.zeros((2, *image.shape), bool)
        a[y : y + height, x : x + width] = True
        left, top, wide, high = sector.region
        b[top : top + high, left : left + wide] = True
        agreement.append((a & b).sum() / (a | b).sum())
    assert len(agreement) == 40
    assert np.median(agreement) > 0.95
    assert np.mean(np.array(agreement) > 0.8) > 0.9
