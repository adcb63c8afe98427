"""Where the ultrasound lies and what its scale is: as given, or as the picture itself shows."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Literal, TypeAlias

from fetalclip_edge.model import check_region
from fetalclip_edge.results import Frame, Region
from fetalclip_edge.sectors import RegionProfile, SectorWatch

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
    region nobody knows is not answered for, until the size is as it was.

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
        self.changed = False

    def fit(self, frame: Frame) -> tuple[Frame, str | None]:
        """The frame with what is known of it, and why it cannot be answered for, or None.

        `changed` says afterwards whether its size is another than that of the frame before.
        """
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
        if self._pixel_size_mm is not None:
            if not self._film or size == self._first:
                frame = replace(frame, pixel_size_mm=self._pixel_size_mm)
            elif self.changed:
                why = _said(size, "the pixel size", self._first)
                _log.warning("%s: %s; it is not used", frame.source, why)
        return frame, None

    @staticmethod
    def _found(frame: Frame, watch: SectorWatch) -> Frame:
        if frame.region is not None:
            return frame
        shown = watch.update(frame.image)
        return frame if shown is None else replace(frame, region=shown.region, mask=shown.mask)


def _said(size: tuple[int, int], what: str, given: tuple[int, int]) -> str:
    now = "the picture is {}x{} now".format(*size)
    return f"{now}, and {what} was given for one of {given[0]}x{given[1]}"
