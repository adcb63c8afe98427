"""The sector of a film: from several frames, and kept while the layout is as it was."""

from __future__ import annotations

import numpy as np

from fetalclip_edge.results import Region
from fetalclip_edge.sectors import SectorWatch, Shown

from .pictures import HEIGHT, WIDTH, Pixels, around, iou, rectangle, tissue_in, trapezoid

MASK = trapezoid()
NARROW = rectangle()


def following(watch: SectorWatch, pictures: list[Pixels], times: int = 1) -> list[Shown | None]:
    return [watch.update(picture) for _ in range(times) for picture in pictures]


def film(mask: Pixels, count: int = 10) -> list[Pixels]:
    return [tissue_in(mask, seed) for seed in range(count)]


def test_several_frames_show_more_than_one() -> None:
    # Given a film in each of whose frames but one half is in shadow, now the left, now the right
    left, right = tissue_in(MASK, 1), tissue_in(MASK, 2)
    left[:, :400], right[:, 400:] = 0, 0
    watch = SectorWatch(film=True)
    # When it is followed
    shown = following(watch, [left, right], 6)
    # Then both halves are shown once both have been seen
    assert shown[0] is not None
    assert iou(shown[0].sector.region, around(MASK)) < 0.7
    assert shown[-1] is not None
    assert iou(shown[-1].sector.region, around(MASK)) > 0.95
    assert shown[-1].mask.shape == (HEIGHT, WIDTH)


def test_it_is_kept_and_its_mask_is_shared() -> None:
    watch = SectorWatch(film=True)
    shown = following(watch, film(MASK), 30)
    assert len({id(each) for each in shown[10:]}) == 1


def test_a_dark_or_empty_moment_changes_nothing() -> None:
    watch = SectorWatch(film=True)
    before = following(watch, film(MASK), 4)[-1]
    dark = tissue_in(MASK, 3)
    dark[300:] = 0
    after = following(watch, [dark, np.zeros_like(dark)], 60)
    assert all(each is before for each in after)


def test_a_larger_sector_is_taken_within_a_second_of_frames_after_a_look() -> None:
    watch = SectorWatch(film=True)
    following(watch, film(NARROW), 4)
    shown = following(watch, film(MASK), 6)
    assert shown[-1] is not None
    assert iou(shown[-1].sector.region, around(MASK)) > 0.95


def test_a_smaller_sector_is_taken_in_the_end() -> None:
    watch = SectorWatch(film=True)
    following(watch, film(MASK), 4)
    shown = following(watch, film(NARROW), 40)
    assert shown[10] is not None
    assert iou(shown[10].sector.region, around(MASK)) > 0.95
    assert shown[-1] is not None
    assert iou(shown[-1].sector.region, around(NARROW)) > 0.95


def test_one_strange_frame_is_not_a_new_layout() -> None:
    watch = SectorWatch(film=True)
    before = following(watch, film(NARROW), 4)[-1]
    strange = tissue_in(np.full((HEIGHT, WIDTH), 255, np.uint8))
    after = following(watch, [strange, *film(NARROW), *film(NARROW)], 8)
    assert all(each is before for each in after)


def test_another_size_of_frame_begins_anew() -> None:
    watch = SectorWatch(film=True)
    following(watch, film(MASK), 4)
    shown = watch.update(np.ascontiguousarray(tissue_in(MASK)[::2, ::2]))
    assert shown is not None
    assert shown.mask.shape == (HEIGHT // 2, WIDTH // 2)
    assert iou(Region(*(2 * value for value in shown.sector.region)), around(MASK)) > 0.95


def test_what_is_shown_has_a_rim_and_is_cut_out() -> None:
    shown = SectorWatch(film=False).update(tissue_in(MASK))
    assert shown is not None
    assert shown.region == shown.sector.region
    # A hundredth of 800 pixels, about which the mask is larger than the sector.
    beyond = (shown.mask > 0) & (shown.sector.mask(HEIGHT, WIDTH) == 0)
    assert 0.005 < beyond.mean() < 0.04
    assert (shown.mask[shown.sector.mask(HEIGHT, WIDTH) > 0] == 255).all()


def test_a_frame_that_it_fills_is_not_cut() -> None:
    picture = tissue_in(np.full((HEIGHT, WIDTH), 255, np.uint8))
    picture[:40], picture[:, 760:] = 0, 0
    shown = SectorWatch(film=False).update(picture)
    assert shown is not None
    assert shown.region is None
    assert not shown.mask[:20].any()


def test_pictures_of_their_own_have_their_own_sectors() -> None:
    watch = SectorWatch(film=False)
    pictures = [tissue_in(MASK), tissue_in(NARROW), np.zeros((HEIGHT, WIDTH), np.uint8)]
    first, second, third = following(watch, pictures)
    assert first is not None
    assert second is not None
    assert iou(first.sector.region, around(MASK)) > 0.95
    assert iou(second.sector.region, around(NARROW)) > 0.95
    assert third is None


def test_nothing_found_is_nothing_shown_until_something_is() -> None:
    watch = SectorWatch(film=True)
    black = np.zeros((HEIGHT, WIDTH), np.uint8)
    assert following(watch, [black], 20)[-1] is None
    assert following(watch, film(MASK), 6)[-1] is not None
