"""How good and how fast a graph is, on real frames."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from rich.console import Console
from sklearn.metrics import f1_score

from benchmarks.timing import interleave
from export.graph import INPUT
from fetalclip_edge.results import BRAIN_PLANES, PLANES
from training.datasets import Example
from training.progress import image_progress
from training.zero_shot import SCORED_PLANES, macro_f1

__all__ = ["Encoded", "accuracy", "encode", "one_thread_session", "paired_latency"]

_BATCH, _WARM_UP = 8, 10

Encoded = Mapping[str, NDArray[np.float32]]
"""Outputs of a graph by name, `(N, length)`."""


def one_thread_session(path: Path, on_integers: bool = True) -> ort.InferenceSession:
    """A graph in ONNX Runtime on one CPU thread.

    Args:
        path: of it.
        on_integers: whether integer kernels may run what is between Q/DQ nodes; else it runs as
            it is written (see `calibration.watching.WITHOUT_INTEGER_KERNELS`), without the CPU's
            fusions, which fail on float16 (1.32).
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not on_integers:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def encode(session: ort.InferenceSession, frames: NDArray[np.uint8], title: str) -> Encoded:
    """What a graph makes of frames `(N, 1, S, S)`, with a progress bar on stderr."""
    names = [output.name for output in session.get_outputs()]
    parts = []
    with image_progress(Console(stderr=True)) as progress:
        task = progress.add_task(title, total=len(frames))
        for start in range(0, len(frames), _BATCH):
            batch = frames[start : start + _BATCH]
            parts.append(session.run(names, {INPUT: batch}))
            progress.advance(task, len(batch))
    return {n: np.concatenate(p) for n, p in zip(names, zip(*parts, strict=True), strict=True)}


def accuracy(
    embeddings: NDArray[np.float32],
    examples: Sequence[Example],
    prompts: dict[str, NDArray[np.float32]],
) -> dict[str, object]:
    """Zero-shot macro-F1 of planes and brain sub-planes, and F1 of each plane; 0 to 1."""
    planes = [PLANES[i] for i in (embeddings @ prompts["planes"].T).argmax(axis=1)]
    parts = [BRAIN_PLANES[i] for i in (embeddings @ prompts["brain_planes"].T).argmax(axis=1)]
    truth = [example.facts.plane or "" for example in examples]
    kept = [i for i, plane in enumerate(truth) if plane in SCORED_PLANES]
    each = f1_score(
        [truth[i] for i in kept],
        [planes[i] for i in kept],
        labels=list(SCORED_PLANES),
        average=None,
        zero_division=0,
    )
    return {
        "planes_macro_f1": macro_f1(truth, planes, SCORED_PLANES),
        "planes_f1": dict(zip(SCORED_PLANES, map(float, each), strict=True)),
        "brain_planes_macro_f1": macro_f1(
            [e.facts.brain_plane or "" for e in examples], parts, BRAIN_PLANES
        ),
    }


def paired_latency(
    sessions: dict[str, ort.InferenceSession], frames: NDArray[np.uint8], rounds: int
) -> dict[str, float]:
    """Median milliseconds of one frame; the graphs take turns, to see the same machine."""

    def run(session: ort.InferenceSession) -> Callable[[], object]:
        turn = itertools.cycle(frame[None] for frame in frames)
        return lambda: session.run(None, {INPUT: next(turn)})

    work = {name: run(session) for name, session in sessions.items()}
    return {name: taken.median for name, taken in interleave(work, rounds, _WARM_UP).items()}
