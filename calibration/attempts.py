"""INT8 graphs that are judged, and layers left in float32 until they pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from rich.console import Console

from calibration.families import Family, write_graphs
from calibration.gate import Gate, Judgement, judge
from calibration.linear_int8 import smoothed
from calibration.linear_layers import is_transformer
from calibration.sensitivity import (
    Sensitivity,
    quantised_layers,
    rank_layers,
    rank_linear_layers,
)
from calibration.settings import Settings
from calibration.static import normalised
from calibration.symmetric_int8 import METHODS, place_quantisers
from calibration.torch_ptq import TORCH_METHODS, Network
from export.measure import Encoded, encode, one_thread_session
from training.datasets import Example
from training.progress import image_progress

__all__ = ["Attempt", "Outcome", "Work", "judge_graphs", "rank", "until_it_passes"]

_RANKED_ON, _TRANSFORMERS_RANKED_ON = 32, 8
_RANGES_ON = 64

Frames = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Work:
    """What every attempt needs.

    Attributes:
        core: graph written by `export.graph.export_core`.
        normalisation: mean and deviation, in units of 0 to 1.
        frames: calibration set, uint8 `(N, 1, S, S)`.
        examples: of validation patients, all labelled with a plane.
        held: their frames, uint8 `(V, 1, S, S)`.
        fp32: what the graph in float32 makes of those.
        prompts: task -> embeddings of its classes `(classes, D)`.
        folder: for graphs.
        network: the model in PyTorch, for the methods that need it.
    """

    core: Path
    normalisation: tuple[float, float]
    frames: Frames
    examples: Sequence[Example]
    held: Frames
    fp32: Encoded
    prompts: dict[str, NDArray[np.float32]]
    folder: Path
    network: Network | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A graph, what it makes of the validation frames, and how good that is."""

    path: Path
    outputs: Encoded
    judgement: Judgement


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far it came.

    Attributes:
        attempts: family of runtimes -> the last attempt at its graph.
        in_float: family -> layers left in float32 in its graph, besides those of the settings.
        layers: all by what they cost, where that was measured.
    """

    attempts: Mapping[Family, Attempt]
    in_float: Mapping[Family, tuple[str, ...]]
    layers: Sequence[Sensitivity] = field(default=())


def judge_graphs(work: Work, paths: Mapping[Family, Path], gate: Gate) -> dict[Family, Attempt]:
    """Run graphs on the validation frames and judge them against FP32."""
    found = {}
    for family, path in paths.items():
        session = one_thread_session(path, family.on_integers)
        outputs = encode(session, work.held, f"validation, INT8 for {family.title}")
        judgement = judge(work.fp32, outputs, work.examples, work.prompts, gate)
        found[family] = Attempt(path, outputs, judgement)
    return found


def rank(work: Work, settings: Settings) -> list[Sensitivity]:
    """What each layer costs alone, the worst first.

    That is a convolution of the symmetric graph, or a transformer's linear layer in the CPU's,
    which also stands for the one that PyTorch makes of it.
    """
    mean, std = work.normalisation
    core = onnx.load(work.core)
    given = normalised(work.frames[:_RANGES_ON], mean, std)
    if is_transformer(core.graph):
        plain = smoothed(core, given)
        shown = normalised(_spread(work.held, _TRANSFORMERS_RANKED_ON), mean, std)
        with image_progress(Console(stderr=True)) as progress:
            task = progress.add_task("layers, one by one", total=len(plain.layers))
            ranked = rank_linear_layers(plain, shown, lambda: progress.advance(task))
        return [each for each in ranked if each.layer not in settings.in_float]
    placed = place_quantisers(
        core,
        given,
        255 * std,
        METHODS[0] if settings.method in TORCH_METHODS else settings.method,
        settings.in_float,
    )
    shown = normalised(_spread(work.held, _RANKED_ON), mean, std)
    with image_progress(Console(stderr=True)) as progress:
        total = len(quantised_layers(placed.model))
        task = progress.add_task("layers, one by one", total=total)
        return rank_layers(placed, shown, lambda: progress.advance(task))


def _spread(frames: Frames, count: int) -> Frames:
    """So many of them at most, from the first to the last."""
    some: Frames = frames[np.linspace(0, len(frames) - 1, min(count, len(frames))).astype(int)]
    return some


def until_it_passes(
    work: Work,
    settings: Settings,
    attempts: Mapping[Family, Attempt],
    console: Console,
    layers: Sequence[Sensitivity] = (),
) -> Outcome:
    """Leave one layer more in float32, the worst first, until the gate passes or it is enough.

    Only graphs that fail are made again.

    Args:
        work: what to work on.
        settings: how; `layers_in_float` is where it ends.
        attempts: at both graphs with nothing more in float32.
        console: for progress.
        layers: by what they cost, where that is known.
    """
    in_float: list[str] = []
    left: dict[Family, tuple[str, ...]] = dict.fromkeys(attempts, ())
    while failed := {f: a for f, a in attempts.items() if not a.judgement.passed}:
        for family, attempt in failed.items():
            failures = "; ".join(attempt.judgement.failures)
            console.print(
                f"INT8 for {family.title} fails the gate: {failures}",
                highlight=False,
                soft_wrap=True,
            )
        if len(in_float) == settings.layers_in_float:
            break
        layers = layers or rank(work, settings)
        if len(in_float) + 1 >= len(layers):
            break
        in_float.append(layers[len(in_float)].layer)
        left.update(dict.fromkeys(failed, tuple(in_float)))
        console.print(f"leaving {in_float[-1]} in float32", highlight=False, soft_wrap=True)
        paths = write_graphs(
            work.core,
            work.frames,
            work.normalisation,
            settings,
            work.folder,
            in_float,
            list(failed),
            work.network,
        )
        attempts = {**attempts, **judge_graphs(work, paths, settings.gate)}
    return Outcome(attempts, left, layers)
