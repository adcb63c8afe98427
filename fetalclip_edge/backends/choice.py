"""Which backend runs a bundle, and why the others do not."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from fetalclip_edge.backends.base import Backend
from fetalclip_edge.backends.tuned import Memory, installed_version, recall
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BackendError, BackendUnavailableError

__all__ = ["Choice", "choose"]

_log = logging.getLogger("fetalclip_edge")

_MISSING = "not installed"

Registry = Mapping[str, type[Backend]]


@dataclass(frozen=True, slots=True)
class Choice:
    """A backend that was taken.

    Attributes:
        backend: its name.
        precision: of the graph that it runs.
        reason: why it was taken.
        passed_over: "BACKEND" or "BACKEND PRECISION" -> why it was not, for those that were to be
            preferred or were tuned.
    """

    backend: str
    precision: str
    reason: str
    passed_over: dict[str, str] = field(default_factory=dict)


def choose(
    registry: Registry, bundle: ModelBundle, threads: int, precision: str | None
) -> tuple[Backend, Choice]:
    """Load the graph that "auto" stands for: the fastest as tuned, or the first in the registry.

    Never silently: what was passed over is logged, as a warning where it should have worked.

    Args:
        registry: name -> backend, the preferred first.
        bundle: what to run.
        threads: CPU threads for one frame.
        precision: of the graph, or None for the best.

    Raises:
        BackendUnavailableError: the bundle has graphs for backends that are not installed alone.
        BackendError: none of them could load its graph.
    """
    memory = recall(bundle, threads, registry)
    if memory.note is not None:
        _log.warning("auto: %s", memory.note)
    passed_over = dict(memory.dropped)
    for name in registry:
        if (why := _why_not(name, bundle, precision)) is not None:
            passed_over[name] = why
    order = _tuned_order(memory, precision, passed_over)
    tuned = bool(order)
    if not tuned:
        usual = [
            (name, precision or bundle.precision(name))
            for name in registry
            if name not in passed_over
        ]
        order = [(name, graph) for name, graph in usual if f"{name} {graph}" not in passed_over]
    failures: dict[str, BackendError] = {}
    for name, graph in order:
        try:
            backend = registry[name](bundle, threads=threads, precision=graph)
        except BackendError as error:
            failures[f"{name} {graph}"] = error
            # A runtime that cannot be used here is no fault; one that fails on the graph is.
            level = logging.INFO if isinstance(error, BackendUnavailableError) else logging.WARNING
            _log.log(level, "auto: %s %s was passed over: %s", name, graph, error)
            continue
        passed_over.pop(f"{name} {graph}", None)
        for other, why in passed_over.items():
            _log.info("auto: %s was passed over: %s", other, why)
        reason = _reason(tuned, memory, threads)
        _log.info("auto: took %s %s, %s", name, graph, reason)
        failed = {other: str(error) for other, error in failures.items()}
        return backend, Choice(name, graph, reason, passed_over | failed)
    raise _none_left(bundle, passed_over, failures)


def _tuned_order(
    memory: Memory, precision: str | None, passed_over: dict[str, str]
) -> list[tuple[str, str]]:
    fitting = [m for m in memory.ranking if precision in (None, m.precision)]
    if fitting:
        fastest = fitting[0]
        for one in fitting[1:]:
            passed_over[f"{one.backend} {one.precision}"] = (
                f"slower when tuned: {one.median_ms:.2f} ms a frame, not {fastest.median_ms:.2f} ms"
            )
    return [(one.backend, one.precision) for one in fitting]


def _why_not(name: str, bundle: ModelBundle, precision: str | None) -> str | None:
    """Why a backend is not even tried."""
    graphs = bundle.graphs.get(name)
    if not graphs:
        return "the bundle has no graph for it"
    if precision is not None and precision not in graphs:
        return f"the bundle has no {precision} graph for it"
    return _MISSING if installed_version(name) is None else None


def _reason(tuned: bool, memory: Memory, threads: int) -> str:
    if tuned:
        return f"the fastest that works of those tuned on this device with {_count(threads)}"
    untuned = f"not tuned with {_count(threads)}; see fetalclip-edge tune"
    return f"the first that works of those preferred ({memory.note or untuned})"


def _count(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def _none_left(
    bundle: ModelBundle, passed_over: Mapping[str, str], failures: Mapping[str, BackendError]
) -> BackendError:
    if len(failures) == 1:
        return next(iter(failures.values()))
    reasons = {name: str(error) for name, error in failures.items()} or passed_over
    each = "; ".join(f"{name}: {why}" for name, why in reasons.items())
    graphs = ", ".join(f"{name} ({', '.join(there)})" for name, there in bundle.graphs.items())
    message = f"bundle {bundle.name} has graphs for {graphs}, and no backend can run one: {each}"
    if not failures and _MISSING in passed_over.values():
        return BackendUnavailableError(f"{message} (docs/backends.md says what to install)")
    return BackendError(message)
