"""Answers for files: what `fetalclip-edge analyze` does, one image after the other."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fetalclip_edge.errors import FetalCLIPEdgeError, FrameError
from fetalclip_edge.freeze import FreezeDetector
from fetalclip_edge.geometry import Geometry, RegionChoice
from fetalclip_edge.model import Model, check_pixel_size
from fetalclip_edge.results import Result
from fetalclip_edge.sources import open_source
from fetalclip_edge.sources.dicom import is_dicom
from fetalclip_edge.sources.images import IMAGE_SUFFIXES, natural_order

__all__ = ["Unreadable", "analyze_paths", "list_files", "read_pixel_sizes"]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file, or a frame of one, that gave no result, and why."""

    source: str
    error: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that the command line prints."""
        return {"source": self.source, "error": self.error}


def list_files(paths: Iterable[str]) -> list[str]:
    """The files to analyse, in order.

    A folder stands for the image and DICOM files in it, sorted naturally. One without any stands
    for itself, and `analyze_paths` says what is wrong with it.
    """
    files: list[str] = []
    for path in paths:
        inside: list[Path] = []
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
            inside = sorted(filter(_is_picture, Path(path).iterdir()), key=natural_order)
        files += map(str, inside) if inside else [path]
    return files


def _is_picture(path: Path) -> bool:
    if not path.is_file() or path.name.startswith("."):
        return False
    return path.suffix.lower() in IMAGE_SUFFIXES or is_dicom(path)


def read_pixel_sizes(path: Path) -> dict[str, float]:
    """Pixel sizes from a CSV with the columns `file` and `pixel_size_mm`.

    Returns:
        File, as written in the CSV -> millimetres per pixel.

    Raises:
        ValueError: a column is missing, a value is not a positive number, two rows contradict each
            other, or the file is no UTF-8 text.
        FileNotFoundError: there is no such file.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text; save it as CSV in UTF-8 ({error})") from None
    with io.StringIO(text, newline="") as file:
        reader = csv.DictReader(file)
        found = list(reader.fieldnames or ())
        missing = {"file", "pixel_size_mm"} - set(found)
        if missing:
            raise ValueError(
                f"{path} lacks the column {' and '.join(sorted(missing))}; its first line must "
                f"name file and pixel_size_mm, with a comma between, and names {found}"
            )
        sizes: dict[str, float] = {}
        for row in _rows(reader, path):
            try:
                size = float(row["pixel_size_mm"])
                check_pixel_size(size)
            except (TypeError, ValueError):
                raise ValueError(
                    f"{path}, line {reader.line_num}: pixel_size_mm must be a positive number, "
                    f"not {row['pixel_size_mm']!r}"
                ) from None
            if sizes.setdefault(row["file"], size) != size:
                raise ValueError(
                    f"{path}, line {reader.line_num}: pixel_size_mm of {row['file']} is {size:g}, "
                    f"and was {sizes[row['file']]:g} in a line before; leave one of them"
                )
    return sizes


def _rows(reader: csv.DictReader[str], path: Path) -> Iterator[dict[str, str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error


def analyze_paths(
    model: Model,
    files: Iterable[str],
    *,
    pixel_size_mm: float | None = None,
    pixel_sizes: Mapping[str, float] | None = None,
    region: RegionChoice = None,
) -> Iterator[Result | Unreadable]:
    """Answer for every image of every file, in order.

    An image file gives one result, a DICOM or video file one for each frame, whose `heart` is of
    the frames so far, each picture counted once: the last one's is the clip's. What cannot be read
    gives an `Unreadable` in its place, and the next file follows.

    Args:
        model: what answers.
        files: paths of image, DICOM and video files.
        pixel_size_mm: millimetres per pixel for all of them.
        pixel_sizes: millimetres per pixel by path or base name; a path not in it takes
            `pixel_size_mm`, and then what the file itself says.
        region: of the ultrasound within every picture, as for `fetalclip_edge.stream`.
    """
    for file in files:
        size = (pixel_sizes or {}).get(file, (pixel_sizes or {}).get(Path(file).name))
        yield from _analyze_file(model, file, size if size is not None else pixel_size_mm, region)


def _analyze_file(
    model: Model, file: str, pixel_size_mm: float | None, region: RegionChoice
) -> Iterator[Result | Unreadable]:
    if not os.path.exists(file):  # noqa: PTH110 - as above
        yield Unreadable(file, "there is no such file")
        return
    try:
        # A path for certain: a file called "1", as DICOM files are, is no camera.
        with open_source(os.path.join(os.curdir, file)) as source:  # noqa: PTH118
            several = source.frame_count != 1
            heart, freeze = None, FreezeDetector(live=False)
            if several and model.heart is not None:
                heart = model.heart.window(live=False, span_s=math.inf)
            geometry = Geometry(region, pixel_size_mm, film=not source.still_pictures)
            while True:
                try:
                    frame = source.read()
                except FrameError as error:
                    yield Unreadable(file, str(error))
                    continue
                if frame is None:
                    return
                frame, misfit = geometry.fit(frame)
                if misfit is not None:
                    yield Unreadable(file, misfit)
                    continue
                result = model.analyze_frame(frame)
                if heart is not None:
                    freeze.update(frame)
                    result = heart.update(result, frame, still=freeze.repeated)
                number = result.frame_index if several else None
                yield replace(result, source=file, frame_index=number)
    except FetalCLIPEdgeError as error:
        yield Unreadable(file, str(error))
