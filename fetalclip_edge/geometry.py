"""Where the ultrasound lies and what its scale is: as given, or as the picture itself shows."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Literal, TypeAlias

from fetalclip_edge.model import check_region
from fetalclip_edge.results import Frame, Region
from fetalclip_edge.sectors import RegionProfile, Sector, SectorWatch, same_layout

__all__ = ["Geometry", "RegionChoice", "check_choice"]

_log = logging.getLogger("fetalclip_edge")

RegionChoice: TypeAlias = Region | RegionProfile | Literal["auto"] | None


def check_choice(region: object) -> RegionChoice:
    """A region as a user may give it: a rectangle, a profile, "auto" or None.

    Raises:
        ValueError: it is none of them, or a rectangle with no place or size in any frame.
    """
    if region is None or isinstance(region, RegionProfile):
        return region
    if isinstance(region, str):
        if region != "auto":
            raise ValueError(
                f'region must be (x, y, width, height), a profile or "auto", not {region!r}'
            )
        return "auto"
    return check_region(region)  # type: ignore[arg-type]


class Geometry:
    """Applies a region and a pixel size to the frames of one source.

    Both are facts of one layout of the screen. When the size of a film's pictures changes, the
    layout is another: measuring by the old scale, or cutting the old region out, would give
    answers that look right and are wrong. So the scale is left out then, and a picture whose
    region nobody knows is not answered for, until the size is as it was. Likewise the scale where
    "auto" finds the ultrasound elsewhere on the screen: its depth or zoom is another.

    Args:
        region: as the user gave it; "auto" finds it in pictures whose source does not say it.
        pixel_size_mm: as the user gave it, or None.
        film: False for pictures of their own, each of any size, for all of which both hold.
    """

    def __init__(self, region: RegionChoice, pixel_size_mm: float | None, *, film: bool) -> None:
        self._region, self._pixel_size_mm = region, pixel_size_mm
        self._film = film
        self._watch = SectorWatch(film=film) if region == "auto" else None
        self._mask = region.mask() if isinstance(region, RegionProfile) else None
        self._first: tuple[int, int] | None = None
        self._last: tuple[int, int] | None = None
        self._layout: Sector | None = None
        self._sector: Sector | None = None
        self._moved = False
        self._epoch = 0
        self.changed = False

    def fit(self, frame: Frame) -> tuple[Frame, str | None]:
        """The frame with what is known of it, and why it cannot be answered for, or None.

        `changed` says afterwards whether its size is another than that of the frame before, or the
        pixel size is used no longer, or again.
        """
        if frame.epoch != self._epoch:
            # Found again, the source may be another device, or show another preset.
            self._epoch = frame.epoch
            if self._watch is not None:
                self._watch = SectorWatch(film=self._film)
        height, width = frame.image.shape[:2]
        size = (width, height)
        self.changed = self._film and self._last not in (None, size)
        self._last = size
        if self._first is None:
            self._first = size
        if isinstance(self._region, RegionProfile):
            wanted = (self._region.width, self._region.height)
            if size != wanted:
                return frame, _said(size, f"the profile {self._region.name!r}", wanted)
            frame = replace(frame, region=self._region.region, mask=self._mask)
        elif self._watch is not None:
            frame = self._found(frame, self._watch)
        elif isinstance(self._region, Region):
            if self._film and size != self._first:
                return frame, _said(size, "the region", self._first)
            frame = replace(frame, region=self._region)
        if self._pixel_size_mm is not None and self._measures(frame, size, self._first):
            frame = replace(frame, pixel_size_mm=self._pixel_size_mm)
        return frame, None

    def _measures(self, frame: Frame, size: tuple[int, int], first: tuple[int, int]) -> bool:
        """Whether the pixel size holds for a frame; says so in the log when it no longer does."""
        if self._film and size != first:
            if self.changed:
                why = _said(size, "the pixel size", first)
                _log.warning("%s: %s; it is not used", frame.source, why)
            return False
        sector = None if self._watch is None else self._watch.settled
        if sector is not None and sector is not self._sector:
            self._settle(frame, sector)
        return not self._moved

    def _settle(self, frame: Frame, sector: Sector) -> None:
        """Take in where the ultrasound lies; where it lay first is what the pixel size is of."""
        self._sector = sector
        layout = self._layout or sector
        moved = not same_layout(sector, layout, *frame.image.shape[:2])
        if self._layout is None or (not moved and sector.region.height > layout.region.height):
            self._layout = sector
        if moved == self._moved:
            return
        self._moved, self.changed = moved, True
        if moved:
            _log.warning(
                "%s: the ultrasound takes %dx%d pixels of the screen now, and the pixel size was "
                "given for %dx%d; it is not used until that is so again",
                frame.source,
                *(*sector.region[2:], *layout.region[2:]),
            )

    @staticmethod
    def _found(frame: Frame, watch: SectorWatch) -> Frame:
        if frame.region is not None:
            return frame
        shown = watch.update(frame.image)
        return frame if shown is None else replace(frame, region=shown.region, mask=shown.mask)


def _said(size: tuple[int, int], what: str, given: tuple[int, int]) -> str:
    now = "the picture is {}x{} now".format(*size)
    return f"{now}, and {what} was given for one of {given[0]}x{given[1]}"
