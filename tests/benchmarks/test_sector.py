from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fetalclip_edge as fe
from benchmarks.screens import screen_around
from benchmarks.sector import Box, boxes, found, iou, removed, seen_as, summary
from fetalclip_edge.results import Frame, Region, Result

from ..live_model import LiveModel
from ..sectors.pictures import Pixels, around, tissue_in, trapezoid


def sector_of(region: Region) -> fe.Sector:
    x, y, width, height = region
    corners = ((x, y), (x + width, y), (x + width, y + height), (x, y + height))
    return fe.Sector(region, tuple((float(a), float(b)) for a, b in corners), "rectangle", 1.0)


def test_intersection_over_union() -> None:
    # Two of 10 by 10, half of each in common: 50 of 150.
    assert iou(Region(0, 0, 10, 10), Region(5, 0, 10, 10)) == pytest.approx(1 / 3)
    assert iou(Region(0, 0, 10, 10), Region(20, 0, 10, 10)) == 0
    assert iou(Region(3, 4, 5, 6), Region(3, 4, 5, 6)) == 1


def test_removed_is_of_bright_pixels_outside_the_reference() -> None:
    image = np.zeros((100, 100), np.uint8)
    image[20:60, 20:60] = 90  # the ultrasound
    image[5:9, 10:20] = 200  # 40 pixels, half of them within the sector that was found
    sector = sector_of(Region(15, 0, 60, 70))
    box = Region(20, 20, 40, 40)
    assert removed(image, box, sector) == pytest.approx(0.5)
    assert removed(image, box, None) == 0
    assert removed(image[20:60, 20:60], Region(0, 0, 40, 40), sector) is None


def test_the_references_are_rectangles_in_pictures() -> None:
    read = boxes()
    assert len(read) == 66
    assert len({box.file for box in read}) == 66
    assert all(min(box.region) >= 0 and min(box.region[2:]) > 100 for box in read)


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("file,x,y,width\na.png,1,2,3\n")
    with pytest.raises(ValueError, match="must have file, x, y, width and height"):
        boxes(path)


def test_found_sectors_are_summed_up(tmp_path: Path) -> None:
    import cv2

    picture = tissue_in(trapezoid())
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros_like(picture))
    region = around(trapezoid())
    rows = found(tmp_path, [Box("a.png", region), Box("b.png", region)])
    report = summary(rows)
    assert rows[0]["iou"] > 0.95
    assert rows[0]["kind"] == "trapezoid"
    assert rows[1]["iou"] == 0
    assert (report["images"], report["not_found"], report["failures"]) == (2, 1, ["b.png"])
    assert report["share_of_iou_at_least_0.9"] == 0.5
    with pytest.raises(ValueError, match="cannot be read"):
        found(tmp_path, [Box("c.png", region)])


def test_a_screen_keeps_the_picture_and_knows_what_it_drew() -> None:
    picture = tissue_in(trapezoid())
    screen, again, other = (screen_around(picture, seed) for seed in (3, 3, 4))
    height, width = picture.shape
    top, left = round(0.08 * height), round(0.3 * 0.35 * width)
    np.testing.assert_array_equal(screen.plain[top : top + height, left : left + width], picture)
    assert not screen.plain[:top].any()
    np.testing.assert_array_equal(screen.image[~screen.drawn], screen.plain[~screen.drawn])
    assert screen.image[screen.drawn].all()
    assert screen.drawn.mean() > 0.01
    np.testing.assert_array_equal(screen.image, again.image)
    assert (screen.image != other.image).any()


@pytest.mark.parametrize(
    ("way", "cropped", "masked"),
    [
        ("whole", False, False),
        ("mask", False, True),
        ("crop", True, False),
        ("crop and mask", True, True),
        ("auto", True, True),
    ],
)
def test_a_frame_is_shown_in_each_way(way: str, cropped: bool, masked: bool) -> None:
    asked: list[Frame] = []

    class Asked(LiveModel):
        def analyze_frame(self, frame: Frame) -> Result:
            asked.append(frame)
            return super().analyze_frame(frame)

    picture: Pixels = tissue_in(trapezoid())
    seen_as(Asked(), picture, way, 0.2)  # type: ignore[arg-type]
    assert (asked[0].region is not None, asked[0].mask is not None) == (cropped, masked)
    assert asked[0].pixel_size_mm == 0.2


def test_there_is_no_other_way() -> None:
    with pytest.raises(ValueError, match="way must be one of whole, mask, crop"):
        seen_as(LiveModel(), np.zeros((9, 9), np.uint8), "sideways")  # type: ignore[arg-type]
