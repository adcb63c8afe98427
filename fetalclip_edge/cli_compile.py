"""`fetalclip-edge compile`: the engine for this GPU, before the first frame wants it."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from fetalclip_edge.backends.engine import EngineBackend
from fetalclip_edge.backends.tensorrt import TensorRTBackend
from fetalclip_edge.backends.tensorrt_rtx import TensorRTRTXBackend
from fetalclip_edge.backends.tuned import installed_version
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.cli_errors import BAD_INPUT, FAILED, fail
from fetalclip_edge.cli_options import BundleOption
from fetalclip_edge.engines.bar import compiling_bar
from fetalclip_edge.errors import BackendError, BundleError

__all__ = ["compile_command"]

_COMPILING: dict[str, type[EngineBackend]] = {
    backend.name: backend for backend in (TensorRTBackend, TensorRTRTXBackend)
}


def compile_command(
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"{' or '.join(_COMPILING)}; without, the first that is installed",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="int8 or fp16, of those that the bundle has"),
    ] = None,
    bundle: BundleOption = None,
) -> None:
    """Compile the bundle's graph for this device's NVIDIA GPU, ahead of the first frame.

    The engine is kept in the user's cache folder, and is compiled anew when the bundle, the GPU,
    its driver or the runtime changes. Takes seconds to minutes; streams then start at once.

    Example: fetalclip-edge compile --backend tensorrt --precision int8
    """
    if backend is not None and backend not in _COMPILING:
        fail(f"--backend must be {' or '.join(_COMPILING)}, not {backend!r}", BAD_INPUT)
    try:
        checked = ModelBundle.load(bundle)
        chosen = _COMPILING[backend or _first_installed(checked)]
        wanted = checked.precision(chosen.name, precision)
        begin = time.monotonic()
        with compiling_bar(f"compiling {wanted} with {chosen.name}") as progress:
            found = chosen.compile(checked, wanted, progress=progress)
        if found.path is not None:
            # Loads, runs, and keeps the kernels that TensorRT-RTX makes as it does.
            chosen(checked, threads=1, precision=wanted)
    except BackendError as error:
        fail(str(error), FAILED)
    except BundleError as error:
        fail(str(error), BAD_INPUT)
    if found.path is None:
        fail("the engine was compiled and could not be kept; see the warning above", FAILED)
    took = f"compiled in {time.monotonic() - begin:.1f} s" if found.compiled else "was there"
    typer.echo(f"{chosen.name} {wanted}: {took}, {len(found.data) / 1e6:.1f} MB, {found.path}")


def _first_installed(bundle: ModelBundle) -> str:
    fitting = [name for name in _COMPILING if bundle.graphs.get(name)]
    if not fitting:
        known = ", ".join(bundle.graphs) or "none"
        raise BundleError(
            f"bundle {bundle.name} has no graph for {' or '.join(_COMPILING)}; it has: {known}"
        )
    # Where none is installed, the first says what to install.
    return next((name for name in fitting if installed_version(name) is not None), fitting[0])
