"""The region and the scale that a user gave, which hold for the pictures they were given for."""

from __future__ import annotations

import logging
from dataclasses import replace

from fetalclip_edge.results import Frame, Region

__all__ = ["Geometry"]

_log = logging.getLogger("fetalclip_edge")


class Geometry:
    """Applies a region and a pixel size to the frames of one source.

    Both are facts of one layout of the screen. When the size of a film's pictures changes, the
    layout is another: measuring by the old scale, or cutting the old region out, would give
    answers that look right and are wrong. So the scale is left out then, and a picture whose
    region nobody knows is not answered for, until the size is as it was.

    Args:
        region: as the user gave it, or None.
        pixel_size_mm: likewise.
        film: False for pictures of their own, each of any size, for all of which both hold.
    """

    def __init__(self, region: Region | None, pixel_size_mm: float | None, *, film: bool) -> None:
        self._region, self._pixel_size_mm = region, pixel_size_mm
        self._film = film
        self._first: tuple[int, int] | None = None
        self._last: tuple[int, int] | None = None
        self.changed = False

    def fit(self, frame: Frame) -> tuple[Frame, str | None]:
        """The frame with what the user gave, and why it cannot be answered for, or None.

        `changed` says afterwards whether its size is another than that of the frame before.
        """
        height, width = frame.image.shape[:2]
        size = (width, height)
        self.changed = self._film and self._last not in (None, size)
        self._last = size
        if self._first is None:
            self._first = size
        if self._film and size != self._first:
            return self._apart(frame, size, self._first)
        if self._region is not None:
            frame = replace(frame, region=self._region)
        if self._pixel_size_mm is not None:
            frame = replace(frame, pixel_size_mm=self._pixel_size_mm)
        return frame, None

    def _apart(
        self, frame: Frame, size: tuple[int, int], first: tuple[int, int]
    ) -> tuple[Frame, str | None]:
        now = "the picture is {}x{} now".format(*size)
        given = "was given for one of {}x{}".format(*first)
        if self._region is not None:
            return frame, f"{now}, and the region {given}"
        if self._pixel_size_mm is not None and self.changed:
            _log.warning("%s: %s, and the pixel size %s; it is not used", frame.source, now, given)
        return frame, None
