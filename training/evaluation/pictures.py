"""Diagrams of an evaluation. None of these shows an ultrasound image."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fetalclip_edge.tasks.gestational_age import MAX_DAYS, MIN_DAYS, head_circumference_quantile
from training.evaluation.encoders import Embeddings, NotMeasurableError
from training.evaluation.gestational_age import SCORED_MM

__all__ = ["draw_ages", "draw_few_shot", "draw_map", "embedding_map", "save"]

_NEIGHBOURS = 15
_FEWEST = 10
_SEED = 42
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, without a display."""
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=120)


def embedding_map(embeddings: Embeddings) -> NDArray[np.float32]:
    """UMAP of embeddings by cosine, with a fixed seed.

    Args:
        embeddings: `(N, D)`.

    Returns:
        float32 `(N, 2)`. Distances between far groups mean nothing.

    Raises:
        NotMeasurableError: there are fewer than ten images.
    """
    if len(embeddings) < _FEWEST:
        raise NotMeasurableError(f"a map needs at least {_FEWEST} images, not {len(embeddings)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # of a part of umap that wants Tensorflow
        from umap import UMAP

    neighbours = min(_NEIGHBOURS, len(embeddings) - 1)
    mapper = UMAP(n_neighbors=neighbours, metric="cosine", random_state=_SEED, n_jobs=1)
    threads = torch.get_num_threads()
    try:
        places: NDArray[np.float32] = np.asarray(mapper.fit_transform(embeddings), np.float32)
    finally:
        # Numba gives OpenMP all cores when it is done, and PyTorch follows without being asked.
        torch.set_num_threads(threads)
    return places


def draw_map(places: NDArray[np.float32], columns: Mapping[str, Sequence[str]], path: Path) -> None:
    """Draw a map once for each way of colouring it.

    Args:
        places: `(N, 2)`.
        columns: title -> the name of each image's class; "" is drawn pale.
        path: of the PNG.
    """
    figure = Figure(figsize=(6 * len(columns), 5.5), layout="constrained")
    axes = figure.subplots(1, len(columns), squeeze=False)[0]
    for axis, (title, names) in zip(axes, columns.items(), strict=True):
        given = np.array(names)
        axis.scatter(*places[given == ""].T, s=6, c="#dddddd", linewidths=0)
        for i, name in enumerate(sorted(set(names) - {""})):
            shown = places[given == name]
            colour = _COLOURS[i % len(_COLOURS)]
            axis.scatter(*shown.T, s=12, c=colour, label=f"{name} ({len(shown)})", linewidths=0)
        axis.set(title=title, xticks=[], yticks=[])
        axis.legend(loc="best", fontsize=8)
    save(figure, path)


def draw_few_shot(
    curves: Mapping[str, Mapping[str, Any]], zero_shot: Mapping[str, float], path: Path
) -> None:
    """Draw macro-F1 by labelled images per class: the mean, the spread, zero-shot as a line.

    Args:
        curves: title -> what `few_shot_curve` gives.
        zero_shot: title -> macro-F1 without any label, where it was measured.
        path: of the PNG.
    """
    figure = Figure(figsize=(7, 5), layout="constrained")
    axis = figure.subplots()
    for i, (title, curve) in enumerate(curves.items()):
        points = curve["points"]
        axis.errorbar(
            [point["shots"] for point in points],
            [point["macro_f1_mean"] for point in points],
            [point["macro_f1_std"] for point in points],
            color=_COLOURS[i],
            marker="o",
            capsize=3,
            label=title,
        )
        if title in zero_shot:
            label = f"{title}, zero-shot"
            axis.axhline(zero_shot[title], color=_COLOURS[i], linestyle="--", label=label)
    axis.set_xscale("log", base=2)
    shots = sorted({point["shots"] for curve in curves.values() for point in curve["points"]})
    axis.set_xticks(shots, [str(number) for number in shots])
    axis.set(xlabel="labelled images per class", ylabel="macro-F1, mean and spread of draws")
    axis.legend(fontsize=8)
    save(figure, path)


def draw_ages(estimates: Sequence[tuple[int, float, bool]], path: Path) -> None:
    """Draw estimated ages by true circumference, over the WHO chart.

    Args:
        estimates: of each head the days, the true circumference in mm, and whether they agree.
        path: of the PNG.
    """
    chart = np.arange(MIN_DAYS, MAX_DAYS + 1)
    figure = Figure(figsize=(6, 5), layout="constrained")
    axis = figure.subplots()
    for quantile, style in ((0.025, "--"), (0.5, "-"), (0.975, "--")):
        mm = [head_circumference_quantile(float(day), quantile) for day in chart]
        axis.plot(mm, chart, color="black", linestyle=style, linewidth=1)
    ages, sizes = (np.array([estimate[i] for estimate in estimates]) for i in range(2))
    good = np.array([estimate[2] for estimate in estimates])
    for chosen, colour, label in ((good, _COLOURS[0], "valid"), (~good, _COLOURS[1], "not valid")):
        shown = f"{label} ({int(chosen.sum())})"
        axis.scatter(sizes[chosen], ages[chosen], s=14, c=colour, label=shown, linewidths=0)
    axis.set(xlabel="true head circumference, mm", ylabel="estimated age, days", xlim=SCORED_MM)
    axis.legend(fontsize=8)
    save(figure, path)
