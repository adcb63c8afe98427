"""How well a bundle measures heads: `python -m benchmarks.biometry BUNDLE --data ../shared/data`.

Every image goes the way that `fetalclip-edge analyze --pixel-sizes` takes, and what comes out is
compared with HC18's masks and published circumferences. Needs the extra `train`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

import fetalclip_edge as fe
from fetalclip_edge.analysis import Unreadable, analyze_paths
from fetalclip_edge.results import HeadBiometry, HeadOutline, Result
from fetalclip_edge.tasks.ellipse import Ellipse, fit_ellipse, outline, region
from fetalclip_edge.tasks.gestational_age import head_circumference_quantile
from fetalclip_edge.tasks.growth import age_from_circumference
from training.evaluation.gestational_age import SCORED_MM
from training.evaluation.intervals import patient_bootstrap
from training.head_images import Head, read_heads, read_mask

__all__ = ["Measured", "age_coverage", "compare", "draw_worst", "hausdorff", "report"]

FLOORS = {"dice": 0.975, "circumference_mae_mm": 2.2, "hausdorff_mm": 1.6, "age_valid": 0.97}

_POINTS = 720
_WORST = 10
_Z = 1.959964
_DRAWS = 2000
_AGES = (15 * 7, 38 * 7)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measured:
    """What came out for one head.

    Attributes:
        head: with what people measured.
        result: of the model.
        dice: of outline and mask, 0 to 1; NaN where the head is withheld, as all others.
        hausdorff_mm: largest distance between outline and the ellipse of the mask.
        error_mm: circumference less the published one.
    """

    head: Head
    result: Result
    dice: float
    hausdorff_mm: float
    error_mm: float


def ring(shape: HeadOutline | Ellipse) -> Floats:
    """Points along an ellipse `(720, 2)`."""
    angle = np.linspace(0, 2 * math.pi, _POINTS, endpoint=False)
    turn = math.radians(shape.angle_deg)
    along, across = shape.major / 2 * np.cos(angle), shape.minor / 2 * np.sin(angle)
    points: Floats = np.stack(
        [
            shape.x + along * math.cos(turn) - across * math.sin(turn),
            shape.y + along * math.sin(turn) + across * math.cos(turn),
        ],
        axis=1,
    )
    return points


def hausdorff(first: Floats, second: Floats) -> float:
    """The largest distance from a point of either set `(N, 2)` to the nearest of the other."""
    distances = np.linalg.norm(first[:, None] - second[None], axis=2)
    return float(max(distances.min(axis=0).max(), distances.min(axis=1).max()))


def filled(shape: HeadOutline, height: int, width: int) -> NDArray[np.bool_]:
    """The pixels whose middle is within an ellipse, `(height, width)`."""
    y, x = np.mgrid[:height, :width] + 0.5
    ellipse = Ellipse(*shape)
    distance, _ = ellipse.polar(np.stack([x.ravel(), y.ravel()], axis=1))
    return (distance <= 1).reshape(height, width)


def compare(head: Head, result: Result) -> Measured:
    """Hold a result against the mask and the published circumference."""
    found = result.head
    if found is None or found.outline is None or found.head_circumference_mm is None:
        return Measured(head, result, math.nan, math.nan, math.nan)
    mask = read_mask(head.mask) > 127
    inside = filled(found.outline, *mask.shape)
    dice = 2 * (inside & mask).sum() / (inside.sum() + mask.sum())
    levels = np.where(mask, 1.0, -1.0).astype(np.float32)
    edge = outline(levels, region(levels))
    height, width = mask.shape
    whole = (np.abs(edge - (width / 2, height / 2)) < (width / 2 - 1, height / 2 - 1)).all(axis=1)
    fit = fit_ellipse(edge[whole])
    assert fit is not None  # masks are filled ellipses
    distance = hausdorff(ring(found.outline), ring(fit.ellipse)) * head.pixel_size_mm
    error = found.head_circumference_mm - head.head_circumference_mm
    return Measured(head, result, float(dice), distance, error)


def age_coverage(relative_errors: Floats, error_relative: float, chart: str) -> float:
    """Share of simulated fetuses whose age lies within the interval that is given for it.

    Nobody knows the age of HC18's fetuses. So ages are drawn evenly from 15 to 38 weeks,
    circumferences as the WHO chart has them at each, and errors of measurement from those found.

    Args:
        relative_errors: measured less published circumference, as a share of it.
        error_relative: standard deviation that the bundle claims.
        chart: growth chart of the answer.
    """
    rng = np.random.default_rng(0)
    within = answered = 0
    for days in rng.uniform(*_AGES, _DRAWS):
        z = rng.normal()
        median, edge = (
            head_circumference_quantile(days, q) for q in (0.5, 0.975 if z > 0 else 0.025)
        )
        true_mm = median + abs(z) / _Z * (edge - median)
        mm = true_mm * (1 + rng.choice(relative_errors))
        age = age_from_circumference(mm, error_relative * mm, chart)
        if age is not None:
            answered += 1
            within += age.low_days <= days <= age.high_days
    return within / answered


def report(measured: Sequence[Measured], chart: str = "who") -> dict[str, Any]:
    """Figures with 95 % intervals, examinations drawn with replacement.

    Args:
        measured: every head, at least one of which is not withheld.
        chart: growth chart of the ages in the results.

    Raises:
        ValueError: all are withheld.
    """
    kept = [m for m in measured if math.isfinite(m.error_mm)]
    if not kept:
        raise ValueError("no head was measured: does the bundle have a map of the head?")
    errors = np.array([m.error_mm for m in kept])
    published = np.array([m.head.head_circumference_mm for m in kept])
    spreads = np.array([_biometry(m).head_circumference_error_mm or math.nan for m in kept])
    ages = [_valid(m) for m in measured]
    of_measured: dict[str, Floats] = {
        "dice": np.array([m.dice for m in kept]),
        "hausdorff_mm": np.array([m.hausdorff_mm for m in kept]),
        "circumference_mae_mm": np.abs(errors),
        "circumference_bias_mm": errors,
        "circumference_interval_coverage": (np.abs(errors) <= _Z * spreads).astype(float),
    }
    figures = _means(of_measured, [m.head.group for m in kept])
    aged = [(m.head.group, ok) for m, ok in zip(measured, ages, strict=True) if ok is not None]
    figures |= _means(
        {"age_valid": np.array([ok for _, ok in aged], float)}, [group for group, _ in aged]
    )
    relative = errors / published
    return {
        "heads": len(measured),
        "withheld": len(measured) - len(kept),
        "withheld_because": _reasons(measured),
        "ages_given": len(aged),
        **figures,
        "age_interval_coverage_simulated": age_coverage(
            relative, float(np.nanmedian(spreads / published)), chart
        ),
        "floors": FLOORS,
    }


def _biometry(item: Measured) -> HeadBiometry:
    assert item.result.head is not None
    return item.result.head


def _valid(item: Measured) -> bool | None:
    """Whether the published circumference is that of 95 % of fetuses at the age that was told.

    None where no age was told, or the head is beyond the range that is scored.
    """
    age, mm = item.result.gestational_age, item.head.head_circumference_mm
    if age is None or not SCORED_MM[0] <= mm <= SCORED_MM[1]:
        return None
    low, high = (head_circumference_quantile(age.days, q) for q in (0.025, 0.975))
    return low <= mm <= high


def _means(values: Mapping[str, Floats], groups: Sequence[str]) -> dict[str, Any]:
    table = np.stack(list(values.values()))
    intervals = patient_bootstrap(lambda weights: table @ weights / weights.sum(), groups)
    return {
        name: {"value": float(row.mean()), "interval": interval}
        for name, row, interval in zip(values, table, intervals, strict=True)
    }


def _reasons(measured: Sequence[Measured]) -> dict[str, int]:
    """Why heads were withheld -> how many; figures in brackets are left out."""
    reasons: dict[str, int] = {}
    for item in measured:
        if math.isfinite(item.error_mm):
            continue
        head = item.result.head
        told = item.result.reason or f"taken for {item.result.plane.label}"
        words = told if head is None else (head.reason or "")
        key = words.partition(" (")[0]
        reasons[key] = reasons.get(key, 0) + 1
    return reasons


def draw_worst(measured: Sequence[Measured], folder: Path) -> list[Path]:
    """Draw the ten heads with the largest error: mask in green, outline in orange.

    They show patients: for looking at, never for passing on.

    Args:
        measured: all heads; withheld ones come first.
        folder: made when it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ranked = sorted(
        measured, key=lambda m: abs(m.error_mm) if math.isfinite(m.error_mm) else math.inf
    )
    drawn = []
    for place, item in enumerate(reversed(ranked[-_WORST:]), 1):
        picture = cv2.imread(str(item.head.image), cv2.IMREAD_COLOR)
        mask = read_mask(item.head.mask)
        edges, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, edges, -1, (115, 158, 0), 1)
        head = item.result.head
        if head is not None and head.outline is not None:
            points = np.round(ring(head.outline) - 0.5).astype(np.int32)
            cv2.polylines(picture, [points], True, (0, 159, 230), 1)
        told = f"{item.error_mm:+.1f} mm, Dice {item.dice:.3f}"
        if not math.isfinite(item.error_mm):
            told = item.result.reason or (head.reason if head else None) or item.result.plane.label
        cv2.putText(picture, told, (6, 18), cv2.FONT_HERSHEY_DUPLEX, 0.45, (240, 240, 240), 1)
        path = folder / f"{place:02d}_{item.head.image.stem}.png"
        if not cv2.imwrite(str(path), picture):
            raise OSError(f"{path} cannot be written")
        drawn.append(path)
    return drawn


def _measure(model: fe.Model, heads: Sequence[Head]) -> list[Measured]:
    files = [str(head.image) for head in heads]
    sizes = {str(head.image): head.pixel_size_mm for head in heads}
    answers = analyze_paths(model, files, pixel_sizes=sizes)
    console = Console(stderr=True)
    measured = []
    for head, answer in zip(heads, track(answers, "measuring", len(files), console=console)):  # noqa: B905
        if isinstance(answer, Unreadable):
            raise ValueError(f"{answer.source}: {answer.error}")
        measured.append(compare(head, answer))
    return measured


def _show(figures: Mapping[str, Any], console: Console) -> None:
    table = Table("", "measured (95 % interval)", "floor", title=f"{figures['heads']} heads")
    for name, value in figures.items():
        if not (isinstance(value, dict) and "interval" in value):
            continue
        interval = value["interval"]
        told = f"{value['value']:.3f}"
        if interval is not None:
            told += f" ({interval[0]:.3f} to {interval[1]:.3f})"
        table.add_row(name, told, str(FLOORS.get(name, "")))
    table.add_row(
        "age_interval_coverage_simulated",
        f"{figures['age_interval_coverage_simulated']:.3f}",
        "0.93 to 0.98",
    )
    table.add_row("withheld", str(figures["withheld"]), "")
    console.print(table)
    for reason, number in figures["withheld_because"].items():
        console.print(f"  {number} withheld: {reason}", highlight=False)


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="folder of the bundle")],
    data: Annotated[Path, typer.Option(help="folder of HC18, as published or the subset")],
    split: Annotated[str, typer.Option(help="train or test")] = "test",
    chart: Annotated[str, typer.Option(help="growth chart of the age")] = "who",
    backend: Annotated[str, typer.Option(help="as for fetalclip-edge")] = "onnxruntime",
    worst: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="draw the ten worst heads; they show patients"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table")] = False,
) -> None:
    """Measure the heads of a split through a bundle, and compare with what people measured."""
    try:
        heads = read_heads(data, split)
        model = fe.load(bundle, backend, chart=chart)
        measured = _measure(model, heads)
        figures = report(measured, chart)
        if worst is not None:
            draw_worst(measured, worst)
    except (OSError, ValueError, RuntimeError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1 if isinstance(error, RuntimeError) else 2) from error
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    _show(figures, Console())


if __name__ == "__main__":
    typer.run(main)
