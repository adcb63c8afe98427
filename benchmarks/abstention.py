"""Whether a bundle knows what it does not know.

    python -m benchmarks.abstention BUNDLE --data ../shared/data

Every picture goes the way of `fetalclip-edge analyze`. Measured are the calibration of the
confidence on test images of `planes`, and how well `domain_distance` tells fetal frames of the four
planes from real other pictures. Needs the extra `train`, scikit-image and pydicom-data.
"""

from __future__ import annotations

import csv
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import track
from sklearn.metrics import roc_auc_score

import fetalclip_edge as fe
from benchmarks.abstention_page import as_markdown
from benchmarks.strangers import gather
from calibration.confidence import expected_calibration_error
from fetalclip_edge.analysis import Unreadable, analyze_paths
from fetalclip_edge.machine import describe_machine, describe_model
from fetalclip_edge.model import Model
from fetalclip_edge.results import BRAIN_PLANES, Result, StreamState
from training.evaluation.intervals import Interval, patient_bootstrap

__all__ = ["FLOORS", "Seen", "calibration", "domain", "report"]

FLOORS = {"planes_ece": 0.03, "auroc": 0.97, "accepted": 0.95}
"""At most, at least, and an aim."""

_PLANES = {
    "Fetal abdomen": "abdomen",
    "Fetal brain": "brain",
    "Fetal femur": "femur",
    "Fetal thorax": "thorax",
}
_APART = {"Maternal cervix": "cervix", "Other": "other"}
_BINS = 15
_DRAWS = 1000

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture and what the model says of it.

    Attributes:
        kind: the plane that it shows, or what else.
        group: the patient, or the source of which other pictures may be.
        result: of the model.
        brain_plane: the sub-plane that it shows, or None.
    """

    kind: str
    group: str
    result: Result
    brain_plane: str | None = None

    @property
    def distance(self) -> float:
        """From fetal ultrasound; infinite where there is no picture."""
        found = self.result.domain_distance
        return math.inf if found is None else found

    @property
    def accepted(self) -> bool:
        """Whether it was answered."""
        return self.result.state == StreamState.LIVE


def calibration(
    confidence: Floats, correct: NDArray[np.bool_], groups: list[str]
) -> dict[str, Any]:
    """Expected calibration error over 15 equal bins, with its 95 % interval by patient.

    Args:
        confidence: `(N,)`, highest probability of each answer, 0 to 1.
        correct: `(N,)`, whether the answer was right.
        groups: the patient of each.

    Raises:
        ValueError: there are no answers, or not one truth for each.
    """
    error = expected_calibration_error(confidence, correct)
    bins = np.clip((confidence * _BINS).astype(int), 0, _BINS - 1)
    gaps = confidence - correct

    def of_draw(weights: Floats) -> Floats:
        sums = np.bincount(bins, weights * gaps, minlength=_BINS)
        return np.array([np.abs(sums).sum() / weights.sum()])

    [interval] = patient_bootstrap(of_draw, groups)
    return {
        "images": len(confidence),
        "patients": len(set(groups)),
        "accuracy": float(correct.mean()),
        "mean_confidence": float(confidence.mean()),
        "expected_calibration_error": {"value": error, "interval": interval},
        "reliability": [
            {
                "from": i / _BINS,
                "to": (i + 1) / _BINS,
                "images": int((bins == i).sum()),
                "confidence": float(confidence[bins == i].mean()),
                "accuracy": float(correct[bins == i].mean()),
            }
            for i in np.unique(bins).tolist()
        ],
    }


def domain(fetal: Sequence[Seen], strangers: Sequence[Seen]) -> dict[str, Any]:
    """How well the distance tells fetal frames from other pictures, kind by kind and all together.

    Args:
        fetal: frames that should be answered.
        strangers: pictures that should not.

    Returns:
        `accepted` of the fetal frames, `kinds` and `pooled` of the others: area under the curve of
        the distance and share withheld, each with its 95 % interval. Patients and sources are drawn
        with replacement, each with all of their pictures; of a single source there is no interval.
    """
    kinds = list(dict.fromkeys(seen.kind for seen in strangers))
    of_kind = {kind: [seen for seen in strangers if seen.kind == kind] for kind in kinds}
    planes = sorted({seen.kind for seen in fetal})
    accepted = {"all planes": list(fetal)}
    accepted |= {plane: [seen for seen in fetal if seen.kind == plane] for plane in planes}
    return {
        "accepted": {
            name: _share(some, lambda seen: seen.accepted) for name, some in accepted.items()
        },
        "kinds": {kind: _told_apart(fetal, some) for kind, some in of_kind.items()},
        "pooled": _told_apart(fetal, strangers),
    }


def _told_apart(fetal: Sequence[Seen], others: Sequence[Seen]) -> dict[str, Any]:
    distances = np.array([seen.distance for seen in (*fetal, *others)])
    # scikit-learn takes no infinity; only the order counts.
    ranks = np.unique(distances, return_inverse=True)[1]
    strange = np.arange(len(distances)) >= len(fetal)

    def area(weights: Floats) -> float:
        """The area under the curve with weights, a hundred times as fast as by scikit-learn."""
        near, far = (
            np.bincount(ranks[side], weights[side], minlength=ranks.max() + 1)
            for side in (~strange, strange)
        )
        below = near.cumsum() - near / 2
        return float(far @ below / (near.sum() * far.sum()))

    return {
        **_share(others, lambda seen: not seen.accepted, "withheld"),
        "auroc": {
            "value": float(roc_auc_score(strange, ranks)),
            "interval": _both_drawn(
                area, [seen.group for seen in fetal], [seen.group for seen in others]
            ),
        },
    }


def _both_drawn(
    statistic: Callable[[Floats], float], first: list[str], second: list[str]
) -> Interval:
    """95 % interval when groups of either side are drawn with replacement, for themselves."""
    sides = [np.unique(groups, return_inverse=True) for groups in (first, second)]
    if min(len(names) for names, _ in sides) < 2:
        return None
    rng = np.random.default_rng(0)
    values = []
    for _ in range(_DRAWS):
        drawn = [
            np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))[owner]
            for names, owner in sides
        ]
        values.append(statistic(np.concatenate(drawn).astype(np.float64)))
    return [float(value) for value in np.quantile(values, (0.025, 0.975))]


def _share(
    pictures: Sequence[Seen], counts: Callable[[Seen], bool], name: str = "share"
) -> dict[str, Any]:
    yes = np.array([counts(seen) for seen in pictures], dtype=np.float64)
    groups = [seen.group for seen in pictures]
    [interval] = patient_bootstrap(lambda w: np.array([yes @ w / w.sum()]), groups)
    return {
        "pictures": len(pictures),
        "sources": len(set(groups)),
        name: {"value": float(yes.mean()), "interval": interval},
    }


def report(planes: Sequence[Seen], strangers: Sequence[Seen]) -> dict[str, Any]:
    """All figures.

    Args:
        planes: test images of `planes`, `kind` as the SDK names planes.
        strangers: other pictures.
    """
    fetal = [seen for seen in planes if seen.kind in _PLANES.values()]
    # Of a brain that is taken for another plane no sub-plane is told.
    brains = [seen for seen in fetal if seen.result.brain_plane is not None]
    parts = [seen for seen in brains if seen.brain_plane in BRAIN_PLANES]
    apart = {name: [seen for seen in planes if seen.kind == name] for name in _APART.values()}
    return {
        "calibration": {
            "planes": _calibration_of(fetal, _best_plane),
            "brain_planes": _calibration_of(parts, _best_brain_plane),
        },
        "domain": domain(fetal, strangers),
        "apart": {
            name: _share(some, lambda seen: not seen.accepted, "withheld")
            for name, some in apart.items()
            if some
        },
        "floors": FLOORS,
    }


def _calibration_of(
    pictures: Sequence[Seen], best: Callable[[Seen], tuple[float, bool]]
) -> dict[str, Any]:
    confidence, correct = zip(*map(best, pictures), strict=True)
    return calibration(
        np.array(confidence), np.array(correct, dtype=bool), [seen.group for seen in pictures]
    )


def _best_plane(seen: Seen) -> tuple[float, bool]:
    scores = seen.result.plane.scores
    label = max(scores, key=scores.__getitem__)
    return scores[label], label == seen.kind


def _best_brain_plane(seen: Seen) -> tuple[float, bool]:
    found = seen.result.brain_plane
    assert found is not None
    label = max(found.scores, key=found.scores.__getitem__)
    return found.scores[label], label == seen.brain_plane


def _read_labels(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    rows = [row for row in rows if row["plane"] in _PLANES | _APART]
    if not {row["plane"] for row in rows} >= set(_PLANES):
        raise ValueError(f"{folder / 'labels.csv'} has no test image of some of the four planes")
    return rows


def _see_planes(model: Model, folder: Path, rows: Sequence[dict[str, str]]) -> list[Seen]:
    names = _PLANES | _APART
    found = _answers(model, [folder / row["file"] for row in rows], "fetal planes")
    return [
        Seen(names[row["plane"]], row["patient"], result, row["brain_plane"].lower() or None)
        for row, (_, result) in zip(rows, found, strict=True)
    ]


def _see_strangers(model: Model, folder: Path) -> list[Seen]:
    strangers = gather(folder)
    found = _answers(model, [stranger.path for stranger in strangers], "other pictures")
    return [Seen(strangers[i].kind, strangers[i].source, result) for i, result in found]


def _answers(model: Model, files: Sequence[Path], title: str) -> Iterator[tuple[int, Result]]:
    """Number of the file and result, of every picture in every file."""
    console = Console(stderr=True)
    for index, file in enumerate(track(files, title, console=console)):
        for answer in analyze_paths(model, [str(file)]):
            if isinstance(answer, Unreadable):
                raise ValueError(f"{answer.source}: {answer.error}")
            yield index, answer


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="folder of the bundle")],
    data: Annotated[Path, typer.Option(help="folder with planes/labels.csv")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="for abstention.json and .md")] = Path(
        "benchmarks/results"
    ),
    backend: Annotated[str, typer.Option(help="as for fetalclip-edge")] = "onnxruntime",
) -> None:
    """Measure calibration and abstention of a bundle on test images and on other pictures."""
    try:
        rows = _read_labels(data / "planes")
        model = fe.load(bundle, backend)
        planes = _see_planes(model, data / "planes", rows)
        with tempfile.TemporaryDirectory() as folder:
            strangers = _see_strangers(model, Path(folder))
        figures = {
            **report(planes, strangers),
            **describe_model(model),
            "machine": describe_machine(),
        }
        page = as_markdown(figures)
        out.mkdir(parents=True, exist_ok=True)
        (out / "abstention.json").write_text(json.dumps(figures, indent=2) + "\n")
        (out / "abstention.md").write_text(page)
    except (OSError, ValueError, RuntimeError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1 if isinstance(error, RuntimeError) else 2) from error
    Console().print(Markdown(page))


if __name__ == "__main__":
    typer.run(main)
