"""How well the sector is found, and what that does to answers: `python -m benchmarks.sector`.

    python -m benchmarks.sector --data ../shared/data --out benchmarks/results

The rectangles in `benchmarks/sector_boxes.csv` were drawn by eye before the method was tuned.
Recognition is measured on patients whom training held out, never on the test's. Needs `train`.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from sklearn.metrics import f1_score

import fetalclip_edge as fe
from benchmarks.screens import Screen, screen_around
from benchmarks.timing import machine, table
from fetalclip_edge.results import BRAIN_PLANES, Region, Result
from fetalclip_edge.sectors import Shown
from training.head_images import Head, read_heads
from training.sources import Record, read_source

__all__ = ["Box", "Frames", "boxes", "iou", "removed", "seen_as", "summary"]

Pixels = NDArray[np.uint8]

BOXES = Path(__file__).with_name("sector_boxes.csv")
RELEASE = Path(__file__).parent.parent / "training" / "released" / "twin"
"""The student that ships has held hardly anybody out; its twin, in a bundle of its own, has."""
PLANES = ("abdomen", "brain", "femur", "thorax")
WAYS = ("whole", "mask", "crop", "crop and mask", "auto")
"""How a frame is shown to the model: as it is; blanked outside the sector; its region alone; as a
stream with `region="auto"` shows it, which blanks with a rim and cuts where much is to be cut."""

_BRIGHT = 40
"""Grey level from which a pixel outside the reference is the screen's."""

_WELL = 0.9


@dataclass(frozen=True, slots=True)
class Box:
    """The rectangle around the ultrasound of an image, as a person sees it."""

    file: str
    region: Region


def boxes(path: Path = BOXES) -> list[Box]:
    """The reference rectangles.

    Raises:
        ValueError: a row is none.
    """
    with path.open(newline="", encoding="utf-8") as file:
        try:
            return [
                Box(r["file"], Region(*(int(r[k]) for k in ("x", "y", "width", "height"))))
                for r in csv.DictReader(file)
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} must have file, x, y, width and height: {error}") from error


def iou(first: Region, second: Region) -> float:
    """Intersection over union of two rectangles."""
    wide = min(first.x + first.width, second.x + second.width) - max(first.x, second.x)
    high = min(first.y + first.height, second.y + second.height) - max(first.y, second.y)
    common = max(0, wide) * max(0, high)
    return common / (first.width * first.height + second.width * second.height - common)


def removed(image: Pixels, box: Region, sector: fe.Sector | None) -> float | None:
    """Share of the bright pixels outside the reference that the sector leaves out.

    Returns:
        0 to 1; None where there are none.
    """
    outside = image > _BRIGHT
    outside[box.y : box.y + box.height, box.x : box.x + box.width] = False
    if not outside.any():
        return None
    if sector is None:
        return 0.0
    return float((sector.mask(*image.shape)[outside] == 0).mean())


def found(data: Path, references: Sequence[Box]) -> list[dict[str, Any]]:
    """A row for each reference: how the sector that is found agrees with it."""
    rows = []
    for box in track(references, "finding", console=Console(stderr=True)):
        image = _read(data / box.file)
        sector = fe.find_sector(image)
        rows.append(
            {
                "file": box.file,
                "iou": 0.0 if sector is None else iou(sector.region, box.region),
                "kind": None if sector is None else sector.kind,
                "confidence": None if sector is None else round(sector.confidence, 3),
                "ui_removed": removed(image, box.region, sector),
            }
        )
    return rows


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the rows that `found` gives."""
    values = np.array([row["iou"] for row in rows])
    shares = [row["ui_removed"] for row in rows if row["ui_removed"] is not None]
    return {
        "images": len(rows),
        "not_found": sum(row["kind"] is None for row in rows),
        "iou_median": float(np.median(values)),
        "iou_mean": float(values.mean()),
        "iou_least": float(values.min()),
        f"share_of_iou_at_least_{_WELL}": float((values >= _WELL).mean()),
        "ui_pixels_removed": float(np.mean(shares)) if shares else None,
        "failures": [row["file"] for row in rows if row["iou"] < _WELL],
    }


def seen_as(model: fe.Model, image: Pixels, way: str, pixel_size_mm: float | None = None) -> Result:
    """The answer for an image that is shown in one of `WAYS`.

    Raises:
        ValueError: there is no such way.
    """
    if way not in WAYS:
        raise ValueError(f"way must be one of {', '.join(WAYS)}, not {way!r}")
    frame = fe.Frame(image, "gray", 0, 0, "image", pixel_size_mm=pixel_size_mm)
    sector = None if way == "whole" else fe.find_sector(image)
    if sector is None:
        return model.analyze_frame(frame)
    if way == "auto":
        shown = Shown.of(sector, *image.shape)
        return model.analyze_frame(replace(frame, region=shown.region, mask=shown.mask))
    region = sector.region if "crop" in way else None
    mask = sector.mask(*image.shape) if "mask" in way else None
    return model.analyze_frame(replace(frame, region=region, mask=mask))


@dataclass(frozen=True, slots=True)
class Frames:
    """Images with what they show.

    Attributes:
        images: grey, of any sizes.
        planes: one of `PLANES` each.
        brain_planes: the sub-plane, or None.
    """

    images: Sequence[Pixels]
    planes: Sequence[str]
    brain_planes: Sequence[str | None]


def recognition(frames: Frames, results: Sequence[Result]) -> dict[str, float]:
    """Macro-F1 of the largest scores, and the share of the frames that are withheld."""
    best = [max(r.plane.scores, key=r.plane.scores.__getitem__) for r in results]
    parts = [(truth, r) for truth, r in zip(frames.brain_planes, results, strict=True) if truth]
    named = [
        "none" if r.brain_plane is None else max(r.brain_plane.scores, key=r.brain_plane.scores.get)  # type: ignore[arg-type]
        for _, r in parts
    ]
    return {
        "planes_macro_f1": _macro(frames.planes, best, PLANES),
        "brain_planes_macro_f1": _macro([truth for truth, _ in parts], named, BRAIN_PLANES),
        "mean_score_of_the_right_plane": float(
            np.mean([r.plane.scores[p] for p, r in zip(frames.planes, results, strict=True)])
        ),
        "abstained": float(np.mean([r.state != fe.StreamState.LIVE for r in results])),
    }


def _macro(truth: Sequence[str], answers: Sequence[str], names: Sequence[str]) -> float:
    return float(f1_score(truth, answers, labels=list(names), average="macro", zero_division=0))


def by_way(model: fe.Model, frames: Frames) -> dict[str, dict[str, float]]:
    """Recognition of the same frames in each way."""
    return {way: recognition(frames, _answers(model, frames.images, way)) for way in WAYS}


def in_screens(model: fe.Model, frames: Frames) -> dict[str, dict[str, float]]:
    """The same in made-up screens, beside how near the answers stay to those for the picture alone.

    The way "plain screen" is the whole screen with nothing drawn around the picture: what its
    larger frame alone does.
    """
    screens = [screen_around(image, seed) for seed, image in enumerate(frames.images)]
    alone = _answers(model, frames.images, "whole")
    ways = {way: _answers(model, [s.image for s in screens], way) for way in WAYS}
    ways = {"plain screen": _answers(model, [s.plain for s in screens], "whole"), **ways}
    report = {}
    for way, results in ways.items():
        pairs = list(zip(alone, results, strict=True))
        report[way] = {
            **recognition(frames, results),
            "cosine_with_the_picture_alone": float(
                np.mean([a.embedding @ b.embedding for a, b in pairs])
            ),
            "another_label": float(np.mean([a.plane.label != b.plane.label for a, b in pairs])),
        }
    report["screen"] = {"ui_pixels_blanked_by_auto": blanked(screens)}
    return report


def blanked(screens: Sequence[Screen]) -> float:
    """Share of what screens have drawn that `region="auto"` blanks, 0 to 1."""
    shares = []
    for screen in screens:
        sector = fe.find_sector(screen.image)
        mask = None if sector is None else Shown.of(sector, *screen.image.shape).mask
        shares.append(0.0 if mask is None else float((mask[screen.drawn] == 0).mean()))
    return float(np.mean(shares))


def heads_by_way(model: fe.Model, heads: Sequence[Head]) -> dict[str, dict[str, float]]:
    """Error of the head circumference in each way."""
    report = {}
    for way in WAYS:
        errors = []
        for head in track(heads, f"heads, {way}", console=Console(stderr=True)):
            result = seen_as(model, _read(head.image), way, head.pixel_size_mm)
            mm = None if result.head is None else result.head.head_circumference_mm
            if mm is not None:
                errors.append(mm - head.head_circumference_mm)
        report[way] = {
            "heads": len(heads),
            "withheld": len(heads) - len(errors),
            "mean_absolute_error_mm": float(np.mean(np.abs(errors))),
            "mean_error_mm": float(np.mean(errors)),
        }
    return report


def cost(image: Pixels, rounds: int = 50) -> float:
    """Median milliseconds of `find_sector` on an image."""
    taken = []
    for _ in range(rounds):
        begin = time.perf_counter()
        fe.find_sector(image)
        taken.append(1000 * (time.perf_counter() - begin))
    return float(np.median(taken))


def _answers(model: fe.Model, images: Sequence[Pixels], way: str) -> list[Result]:
    return [
        seen_as(model, image, way) for image in track(images, way, console=Console(stderr=True))
    ]


def _read(path: Path) -> Pixels:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise ValueError(f"{path} cannot be read as an image")
    return np.asarray(image, dtype=np.uint8)


def _held_out(release: Path) -> set[str]:
    held = json.loads((release / "model.json").read_text(encoding="utf-8"))["held_out"]
    return set(held)


def held_frames(data: Path, held: set[str]) -> Frames:
    """The images of FETAL_PLANES_DB that show a plane, of patients whom training held out.

    Raises:
        ValueError: there are none.
    """
    records = [
        record
        for source in read_source(data)
        for record in source.records
        if record.group in held and record.group.startswith("planes/")
        if record.facts.plane in PLANES
    ]
    if not records:
        raise ValueError(f"{data} has no image of the patients that training held out")
    return Frames(
        [_read(record.path) for record in records],
        [str(record.facts.plane) for record in records],
        [_part(record) for record in records],
    )


def _part(record: Record) -> str | None:
    part = record.facts.brain_plane
    return part if part in BRAIN_PLANES else None


def main(
    data: Annotated[Path, typer.Option(help="folder with planes, hc18 and native")],
    out: Annotated[Path | None, typer.Option(help="folder for sector.json and .md")] = None,
    release: Annotated[Path, typer.Option(help="whose patients were held out")] = RELEASE,
    bundle: Annotated[
        Path | None, typer.Option(help="made of the release; the shipped one knows these patients")
    ] = None,
    find_only: Annotated[bool, typer.Option("--find-only", help="no recognition")] = False,
) -> None:
    """Hold found sectors against rectangles drawn by eye, and answers with them against without."""
    try:
        rows = found(data, boxes())
        report: dict[str, Any] = {
            "machine": machine(["opencv-python"]),
            "found": {kind: summary(part) for kind, part in _kinds(rows).items()},
            "rows": rows,
        }
        if not find_only:
            held = _held_out(release)
            model = fe.load(bundle, "onnxruntime")
            frames = held_frames(data, held)
            heads = [h for h in read_heads(data, "train") if h.group in held]
            report |= {
                "images": len(frames.images),
                "recognition": by_way(model, frames),
                "screens": in_screens(model, frames),
                "heads": heads_by_way(model, heads),
                "find_ms": {
                    "1920x1080": cost(_enlarged(frames.images[0], 1920, 1080)),
                    "448": cost(frames.images[0]),
                },
            }
    except (OSError, ValueError, RuntimeError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1 if isinstance(error, RuntimeError) else 2) from error
    text = _tables(report)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "sector.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        (out / "sector.md").write_text(text, encoding="utf-8")
    print(text)


def _kinds(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["file"].partition("/")[0], []).append(row)
    return kinds


def _enlarged(image: Pixels, width: int, height: int) -> Pixels:
    return np.asarray(cv2.resize(image, (width, height)), dtype=np.uint8)


def _tables(report: Mapping[str, Any]) -> str:
    parts = [_table("sectors found", report["found"], leave=("failures",))]
    parts += [
        _table(title, report[name])
        for name, title in (
            ("recognition", "patients held out of training"),
            ("screens", "the same in made-up screens"),
            ("heads", "heads of examinations held out"),
        )
        if name in report
    ]
    return "\n".join(parts)


def _table(title: str, rows: Mapping[str, Mapping[str, Any]], leave: Sequence[str] = ()) -> str:
    names = [name for name in next(iter(rows.values())) if name not in leave]
    cells = [
        [label, *(_told(row[name]) for name in names)]
        for label, row in rows.items()
        if set(names) <= set(row)
    ]
    header = ["", *(name.replace("_", " ") for name in names)]
    return f"{title}\n\n{table(header, cells)}\n"


def _told(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    typer.run(main)
