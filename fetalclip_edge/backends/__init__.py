"""Runtimes that execute a bundle's graph: one file each, one contract."""

from __future__ import annotations

from fetalclip_edge.backends.base import Backend
from fetalclip_edge.backends.onnxruntime import OnnxRuntimeBackend
from fetalclip_edge.backends.openvino import OpenVINOBackend
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BackendError

__all__ = ["BACKENDS", "MOST_THREADS", "Backend", "load_backend"]

MOST_THREADS = 256
"""More only wait for each other, and runtimes hang on some thousands."""

BACKENDS: dict[str, type[Backend]] = {
    backend.name: backend
    for backend in (
        OpenVINOBackend,
        OnnxRuntimeBackend,
    )
}
"""Name -> backend, in the order in which "auto" prefers them."""


def load_backend(
    bundle: ModelBundle, name: str = "auto", threads: int = 1, precision: str | None = None
) -> Backend:
    """Load a bundle's graph, ready for the first frame.

    Args:
        bundle: what to run.
        name: a key of `BACKENDS`, or "auto" for the first of them that the bundle has a graph for.
        threads: CPU threads for one frame, 1 to 256.
        precision: of the graph, or None for the first that the bundle has for the backend.

    Raises:
        ValueError: there is no such backend, or `threads` is out of range.
        BackendError: it could not load the graph.
        BundleError: the bundle has no such graph.
    """
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise TypeError(f"threads must be an int, not {threads!r}")
    if not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"threads must be 1 to {MOST_THREADS}, not {threads}")
    if name == "auto":
        fitting = [known for known in BACKENDS if known in bundle.graphs]
        if not fitting:
            raise BackendError(
                f"bundle {bundle.name} has graphs for {', '.join(bundle.graphs)}; "
                f"this version runs {', '.join(BACKENDS)}"
            )
        name = fitting[0]
    if name not in BACKENDS:
        known_names = ", ".join(["auto", *BACKENDS])
        raise ValueError(f"there is no backend {name!r}; choose one of {known_names}")
    return BACKENDS[name](bundle, threads=threads, precision=precision)
