"""Whether the score of quality falls when a picture is spoiled, and answers with it.

    python -m benchmarks.quality BUNDLE --data ../shared/data

Test frames of the four planes are darkened, blurred, covered with haze or shadow, and moved. The
scales of the scores come from train frames, whose quantiles are told beside. Needs the extra
`train`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import track
from scipy.stats import spearmanr

import fetalclip_edge as fe
from benchmarks.spoiling import SPOILING, shifted
from fetalclip_edge.machine import describe_machine, describe_model
from fetalclip_edge.model import Model
from fetalclip_edge.motion import MotionMeter, speed_score
from fetalclip_edge.results import Frame, StreamState
from fetalclip_edge.tasks.quality import POOR, measure

__all__ = ["Spoiled", "summary"]

_PLANES = {
    "Fetal abdomen": "abdomen",
    "Fetal brain": "brain",
    "Fetal femur": "femur",
    "Fetal thorax": "thorax",
}
_QUANTILES = (0.02, 0.2, 0.5, 0.8, 0.98)
_SHIFTS = (0.0, 0.005, 0.01, 0.02, 0.04, 0.08)
"""Of the width, within the tenth of a second that lies between two frames."""
_APART_NS = 100_000_000

Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Spoiled:
    """One frame, spoiled to some degree.

    Attributes:
        how: what was done.
        step: how much, from 0 for nothing.
        frame: number of the frame.
        score: the score that should fall, 0 to 1.
        overall: of the picture, 0 to 1.
        right: whether it was answered, and rightly.
        withheld: whether it was not answered.
        distance: from what the model knows, or None for a flat picture.
    """

    how: str
    step: int
    frame: int
    score: float
    overall: float
    right: bool
    withheld: bool
    distance: float | None


def summary(spoiled: Sequence[Spoiled]) -> dict[str, Any]:
    """Mean figures of each step, and how scores and answers hang together.

    Returns:
        `steps` by what was done: score, share poor, share right and share withheld at each;
        `falls`: mean over frames of Spearman's correlation of step and score, -1 where it always
        falls; `overall`: Spearman's correlation of the overall score with being right and answered,
        and with the distance, over all spoiled frames.
    """
    kinds = list(dict.fromkeys(one.how for one in spoiled))
    steps = {how: _steps([one for one in spoiled if one.how == how]) for how in kinds}
    seen = [one for one in spoiled if one.distance is not None]
    return {
        "steps": steps,
        "falls": {how: _falls([one for one in spoiled if one.how == how]) for how in kinds},
        "overall": {
            "with_right": _spearman([one.overall for one in seen], [one.right for one in seen]),
            "with_distance": _spearman(
                [one.overall for one in seen], [one.distance or 0.0 for one in seen]
            ),
        },
    }


def _steps(spoiled: Sequence[Spoiled]) -> list[dict[str, float]]:
    told = []
    for step in sorted({one.step for one in spoiled}):
        of_step = [one for one in spoiled if one.step == step]
        told.append(
            {
                "score": float(np.mean([one.score for one in of_step])),
                "overall": float(np.mean([one.overall for one in of_step])),
                "poor": float(np.mean([one.overall < POOR for one in of_step])),
                "right": float(np.mean([one.right for one in of_step])),
                "withheld": float(np.mean([one.withheld for one in of_step])),
            }
        )
    return told


def _falls(spoiled: Sequence[Spoiled]) -> float:
    frames = sorted({one.frame for one in spoiled})
    values = []
    for frame in frames:
        own = [one for one in spoiled if one.frame == frame]
        values.append(_spearman([one.step for one in own], [one.score for one in own]))
    return float(np.mean(values))


def _spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's correlation; 0 where one of them never changes."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return 0.0
    return float(spearmanr(first, second).statistic)


def _spoil(model: Model, number: int, image: Picture, plane: str) -> list[Spoiled]:
    found = []
    for how, (score, spoil, amounts) in SPOILING.items():
        for step, amount in enumerate(amounts):
            result = model.analyze(spoil(image, amount))
            quality = result.quality
            answered = result.state == StreamState.LIVE
            found.append(
                Spoiled(
                    how=how,
                    step=step,
                    frame=number,
                    # A flat picture has no quality at all.
                    score=0.0 if quality is None else getattr(quality, score),
                    overall=0.0 if quality is None else quality.overall,
                    right=answered and result.plane.label == plane,
                    withheld=not answered,
                    distance=result.domain_distance,
                )
            )
    return found


def _speeds(image: Picture) -> list[float]:
    """Speed of a frame that is moved by each of the shifts within a tenth of a second."""
    speeds = []
    for share in _SHIFTS:
        meter = MotionMeter(live=True)
        for index, picture in enumerate((image, shifted(image, share))):
            speed = meter.update(Frame(picture, "gray", index, index * _APART_NS, ""))
        assert speed is not None
        speeds.append(speed)
    return speeds


def _read(data: Path, split: str, every: int) -> list[tuple[Picture, str]]:
    folder = data / "planes"
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["split"] == split and r["plane"] in _PLANES]
    if not rows:
        raise ValueError(f"{folder / 'labels.csv'} has no {split} image of the four planes")
    pictures = []
    for row in rows[::every]:
        image = cv2.imread(str(folder / row["file"]), cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise ValueError(f"{folder / row['file']} cannot be read")
        pictures.append((np.asarray(image, np.uint8), _PLANES[row["plane"]]))
    return pictures


def _scales(model: Model, pictures: Sequence[tuple[Picture, str]]) -> dict[str, Any]:
    """Quantiles of what is measured in frames, and speeds, from which the scores' scales come."""
    found = [
        asdict(measure(model.preprocessor(image, color="gray"), model.bundle.preprocess))
        for image, _ in pictures
    ]
    told: dict[str, Any] = {
        name: dict(
            zip(
                map(str, _QUANTILES), np.quantile([f[name] for f in found], _QUANTILES), strict=True
            )
        )
        for name in found[0]
    }
    speeds = np.median([_speeds(image) for image, _ in pictures[::10]], axis=0)
    told["speed_by_shift"] = dict(zip(map(str, _SHIFTS), speeds.tolist(), strict=True))
    return told


def _page(figures: Mapping[str, Any]) -> str:
    lines = [
        "# Quality of spoiled pictures",
        "",
        f"{figures['frames']} test frames of the four planes, each spoiled in every way. Falls: "
        "mean over frames of Spearman's correlation of step and score. Written by "
        "`python -m benchmarks.quality`.",
        "",
        "| | falls | score, step by step | poor, % | right and answered, % |",
        "|---|---|---|---|---|",
    ]
    for how, steps in figures["steps"].items():
        scores = " ".join(f"{step['score']:.2f}" for step in steps)
        poor = " ".join(f"{100 * step['poor']:.0f}" for step in steps)
        right = " ".join(f"{100 * step['right']:.0f}" for step in steps)
        lines.append(f"| {how} | {figures['falls'][how]:.2f} | {scores} | {poor} | {right} |")
    moved = " ".join(f"{score:.2f}" for score in figures["moved"]["score"])
    lines.append(f"| moved | {figures['moved']['falls']:.2f} | {moved} | | |")
    overall = figures["overall"]
    lines += [
        "",
        "Over all of them, Spearman's correlation of the overall score with being right and "
        f"answered is {overall['with_right']:.2f}, with the distance "
        f"{overall['with_distance']:.2f}.",
    ]
    return "\n".join(lines) + "\n"


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="folder of the bundle")],
    data: Annotated[Path, typer.Option(help="folder with planes/labels.csv")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="for quality.json and .md")] = Path(
        "benchmarks/results"
    ),
    every: Annotated[int, typer.Option(min=1, metavar="N", help="take every Nth test frame")] = 4,
    backend: Annotated[str, typer.Option(help="as for fetalclip-edge")] = "onnxruntime",
) -> None:
    """Spoil test frames, and see what becomes of the scores of quality and of the answers."""
    console = Console(stderr=True)
    try:
        model = fe.load(bundle, backend)
        test = _read(data, "test", every)
        spoiled: list[Spoiled] = []
        for number, (image, plane) in enumerate(track(test, "spoiling", console=console)):
            spoiled += _spoil(model, number, image, plane)
        moved = [[speed_score(speed) for speed in _speeds(image)] for image, _ in test]
        steps = range(len(_SHIFTS))
        figures = {
            "frames": len(test),
            **summary(spoiled),
            "moved": {
                "shift_of_width": list(_SHIFTS),
                "score": np.mean(moved, axis=0).tolist(),
                "falls": float(np.mean([_spearman(list(steps), scores) for scores in moved])),
            },
            "train_frames": _scales(model, _read(data, "train", 1)),
            **describe_model(model),
            "machine": describe_machine(),
        }
        out.mkdir(parents=True, exist_ok=True)
        (out / "quality.json").write_text(json.dumps(figures, indent=2) + "\n")
        (out / "quality.md").write_text(_page(figures))
    except (OSError, ValueError, RuntimeError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1 if isinstance(error, RuntimeError) else 2) from error
    Console().print(Markdown(_page(figures)))


if __name__ == "__main__":
    typer.run(main)
