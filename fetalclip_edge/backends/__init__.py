"""Runtimes that execute a bundle's graph: one file each, one contract."""

from __future__ import annotations

from fetalclip_edge.backends.base import Backend
from fetalclip_edge.backends.choice import Choice, choose
from fetalclip_edge.backends.onnxruntime import OnnxRuntimeBackend
from fetalclip_edge.backends.openvino import OpenVINOBackend
from fetalclip_edge.backends.tensorrt import TensorRTBackend
from fetalclip_edge.backends.tensorrt_rtx import TensorRTRTXBackend
from fetalclip_edge.bundle import ModelBundle

__all__ = ["BACKENDS", "MOST_THREADS", "Backend", "Choice", "load_backend", "load_with_choice"]

MOST_THREADS = 256
"""More only wait for each other, and runtimes hang on some thousands."""

BACKENDS: dict[str, type[Backend]] = {
    backend.name: backend
    for backend in (
        TensorRTBackend,
        TensorRTRTXBackend,
        OnnxRuntimeBackend,
        OpenVINOBackend,
    )
}
"""Name -> backend, in the order in which "auto" prefers them. Each is named after the module that
it imports. Of those for CPUs the one that every device has comes first: OpenVINO takes longer to
load and more memory, and whether it is faster, `fetalclip-edge tune` tells."""


def load_backend(
    bundle: ModelBundle, name: str = "auto", threads: int = 1, precision: str | None = None
) -> Backend:
    """Load a bundle's graph, ready for the first frame.

    Args:
        bundle: what to run.
        name: a key of `BACKENDS`, or "auto": the fastest of those that `fetalclip-edge tune`
            measured on this device; without such a result the first of `BACKENDS` that is
            installed, has a graph in the bundle, and works. The logger "fetalclip_edge" says why
            others were passed over.
        threads: CPU threads for one frame, 1 to 256.
        precision: of the graph, or None for the best ("auto") or the first that the bundle has for
            the backend.

    Raises:
        ValueError: there is no such backend, or `threads` is out of range.
        BackendError: it could not load the graph.
        BundleError: the bundle has no such graph.
    """
    return load_with_choice(bundle, name, threads, precision)[0]


def load_with_choice(
    bundle: ModelBundle, name: str = "auto", threads: int = 1, precision: str | None = None
) -> tuple[Backend, Choice]:
    """As `load_backend`, and say what was taken, why, and why not the others."""
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise TypeError(f"threads must be an int, not {threads!r}")
    if not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"threads must be 1 to {MOST_THREADS}, not {threads}")
    if name == "auto":
        return choose(BACKENDS, bundle, threads, precision)
    if name not in BACKENDS:
        known_names = ", ".join(["auto", *BACKENDS])
        raise ValueError(f"there is no backend {name!r}; choose one of {known_names}")
    backend = BACKENDS[name](bundle, threads=threads, precision=precision)
    return backend, Choice(name, backend.precision, "asked for")
