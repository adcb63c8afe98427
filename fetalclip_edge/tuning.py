"""Which graph of a bundle is the fastest on this device, of those that are good enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.backends import BACKENDS, Backend, load_backend
from fetalclip_edge.backends.tuned import Measured, installed_version, remember
from fetalclip_edge.bundle import REFERENCE, ModelBundle
from fetalclip_edge.cosines import row_cosines
from fetalclip_edge.errors import BackendError, BundleError
from fetalclip_edge.preprocess import Preprocessor

__all__ = ["LEAST_COSINE", "Trial", "Tuning", "graphs_to_try", "remember_tuning", "tune"]

LEAST_COSINE = 0.99
"""Mean cosine of each output with float32's on the reference frames, below which a graph is
dropped."""

_WARM_UP = 5


@dataclass(frozen=True, slots=True)
class Trial:
    """One graph in one backend.

    Attributes:
        backend: name of the backend.
        precision: of the graph.
        version, device: as the backend says; None where it could not load.
        median_ms, p95_ms: milliseconds of one frame; None where it was dropped.
        mean_cosine: with what the model in float32 makes of the reference frames, of the output
            that is the furthest from it; None where none came.
        problem: why it was dropped; None where it was not.
    """

    backend: str
    precision: str
    version: str | None = None
    device: str | None = None
    median_ms: float | None = None
    p95_ms: float | None = None
    mean_cosine: float | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Tuning:
    """All trials of a bundle on this device.

    Attributes:
        bundle: name and version of the bundle.
        threads: CPU threads for one frame.
        rounds: how many frames each graph was timed with.
        trials: the fastest first; then those that were dropped.
    """

    bundle: str
    threads: int
    rounds: int
    trials: tuple[Trial, ...]

    @property
    def fastest(self) -> Trial:
        """The first of those that were not dropped."""
        return self.trials[0]

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            **asdict(self),
            "least_mean_cosine": LEAST_COSINE,
            "fastest": {"backend": self.fastest.backend, "precision": self.fastest.precision},
        }


def graphs_to_try(bundle: ModelBundle) -> list[tuple[str, str]]:
    """Backend and precision of the bundle's graphs whose backend is installed."""
    return [
        (name, precision)
        for name in BACKENDS
        if installed_version(name) is not None
        for precision in bundle.graphs.get(name, {})
    ]


def tune(
    bundle: ModelBundle,
    *,
    threads: int = 1,
    rounds: int = 100,
    advance: Callable[[], object] = lambda: None,
) -> Tuning:
    """Load every graph that an installed backend runs, check it, and time those that pass.

    They take turns frame by frame, so that what slows the device down for a while slows all. All
    of them are in memory at once.

    Args:
        bundle: with reference frames.
        threads: CPU threads for one frame, 1 to 256.
        rounds: frames to time with each graph, at least 1.
        advance: called after each graph is loaded and after each round, for a progress bar
            (`len(graphs_to_try(bundle)) + rounds` times).

    Raises:
        BundleError: the bundle has no reference frames, or they are not what they must be.
        BackendError: no graph is left.
        ValueError: `threads` or `rounds` is out of range.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, not {rounds}")
    reference = bundle.reference()
    if reference is None:
        raise BundleError(
            f"bundle {bundle.name} has no {REFERENCE} to judge accuracy by, and so its graphs are "
            "not compared: export it anew with python -m export.bundle, or name a --backend"
        )
    preprocessor = Preprocessor(bundle.preprocess)
    inputs = [preprocessor(frame[0]) for frame in reference.frames]
    loaded: list[tuple[Backend, float]] = []
    dropped: list[Trial] = []
    for name, precision in graphs_to_try(bundle):
        try:
            backend = load_backend(bundle, name, threads, precision)
            cosine, furthest = _least_cosine(backend, inputs, reference.outputs)
        except BackendError as error:
            dropped.append(Trial(name, precision, problem=str(error)))
        else:
            if cosine >= LEAST_COSINE:
                loaded.append((backend, cosine))
            else:
                dropped.append(_strayed(backend, cosine, furthest))
        advance()
    if not loaded:
        each = "; ".join(f"{t.backend} {t.precision}: {t.problem}" for t in dropped)
        raise BackendError(
            f"no graph of bundle {bundle.name} can be used on this device: "
            f"{each or 'no backend that it has graphs for is installed'}"
        )
    times = _take_turns([backend for backend, _ in loaded], inputs, rounds, advance)
    trials = [
        Trial(
            backend.name,
            backend.precision,
            backend.version,
            backend.device,
            median_ms=round(float(np.median(taken)), 4),
            p95_ms=round(float(np.percentile(taken, 95)), 4),
            mean_cosine=round(cosine, 6),
        )
        for (backend, cosine), taken in zip(loaded, times, strict=True)
    ]
    trials.sort(key=lambda trial: trial.median_ms or 0)
    return Tuning(f"{bundle.name} {bundle.version}", threads, rounds, (*trials, *dropped))


def remember_tuning(bundle: ModelBundle, tuning: Tuning) -> Path:
    """Write what "auto" takes from now on, and return the file.

    Raises:
        OSError: the user's cache folder cannot be written to.
    """
    ranking = [
        Measured(t.backend, t.precision, t.median_ms)
        for t in tuning.trials
        if t.median_ms is not None
    ]
    dropped = {
        f"{t.backend} {t.precision}": f"dropped when tuned: {t.problem}"
        for t in tuning.trials
        if t.problem is not None
    }
    return remember(bundle, tuning.threads, BACKENDS, ranking, dropped)


def _strayed(backend: Backend, cosine: float, output: str) -> Trial:
    return Trial(
        backend.name,
        backend.precision,
        backend.version,
        backend.device,
        mean_cosine=round(cosine, 6) if np.isfinite(cosine) else None,
        problem=f"mean cosine of {output} with float32 is {cosine:.4f}, less than {LEAST_COSINE:g}",
    )


def _least_cosine(
    backend: Backend, inputs: list[NDArray[Any]], expected: Mapping[str, NDArray[np.float32]]
) -> tuple[float, str]:
    """The mean cosine of the output that is the furthest from float32's, and its name."""
    found = [backend.encode(one) for one in inputs]
    if missing := sorted(set(expected) - set(found[0])):
        raise BackendError(f"{backend.name} gives no {', '.join(missing)}, as the model does")
    means = {}
    for name, wanted in expected.items():
        one = np.concatenate([each[name] for each in found])
        if one.shape != wanted.shape:
            raise BackendError(f"{backend.name} gives a {name} of another shape than the model")
        means[name] = float(row_cosines(one, wanted).mean())
    # What is no number is the furthest of all.
    furthest = min(means, key=lambda name: (not np.isnan(means[name]), means[name]))
    return means[furthest], furthest


def _take_turns(
    backends: list[Backend],
    inputs: list[NDArray[Any]],
    rounds: int,
    advance: Callable[[], object],
) -> list[list[float]]:
    """Milliseconds of every round, for each backend. Each round begins with another of them."""
    taken: list[list[float]] = [[] for _ in backends]
    for index in range(-_WARM_UP, rounds):
        frame = inputs[index % len(inputs)]
        for turn in range(len(backends)):
            which = (index + turn) % len(backends)
            begin = time.perf_counter_ns()
            backends[which].encode(frame)
            end = time.perf_counter_ns()
            if index >= 0:
                taken[which].append((end - begin) / 1e6)
        if index >= 0:
            advance()
    return taken
