"""Compile graphs with TensorRT-RTX, with no GPU: `python -m export.engine GRAPH... --out DIR`.

It is the nearest to a GPU that a machine without one comes: the real parser and compiler take the
graph, in the precision that is in it (FP32, FP16, INT8 as Q/DQ), or say why not. It does not prove
that another runtime takes it, such as TensorRT on a Jetson. Devices compile for themselves
(`fetalclip-edge compile`) and need none of these files.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from fetalclip_edge.backends.tensorrt_rtx import TensorRTRTXBackend
from fetalclip_edge.engines import build
from fetalclip_edge.errors import BackendError, BackendUnavailableError

__all__ = ["CAPABILITIES", "Compiled", "compile_for"]

CAPABILITIES = ("8.6", "8.9", "12.0")
"""Compute capabilities of the RTX 30, 40 and 50 series."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """An engine that was written.

    Attributes:
        path: of it.
        capabilities: that it is for.
        size: in bytes.
        seconds: that compiling took.
    """

    path: Path
    capabilities: tuple[str, ...]
    size: int
    seconds: float


def compile_for(
    graph: Path,
    capabilities: Sequence[str],
    out: Path,
    progress: build.Progress | None = None,
) -> Compiled:
    """Compile a graph into one engine for GPUs of some compute capabilities.

    Args:
        graph: ONNX, with one input whose first dimension is free.
        capabilities: such as "8.6".
        out: folder to write `NAME.engine` to.
        progress: told how far it is.

    Raises:
        BackendUnavailableError: TensorRT-RTX is not installed.
        BackendError: it cannot compile the graph; the message says why.
        ValueError: it does not know a capability.
        OSError: the graph cannot be read, or the engine not written.
    """
    trt = TensorRTRTXBackend.import_runtime()
    unknown = set(capabilities) - set(known_capabilities(trt))
    if unknown or not capabilities:
        known = ", ".join(known_capabilities(trt))
        named = ", ".join(sorted(unknown)) or "none"
        raise ValueError(f"TensorRT-RTX knows no capability {named}, only {known}")
    with graph.open("rb"):  # the parser's own words for a missing file say nothing
        pass

    def configure(config: Any) -> None:
        TensorRTRTXBackend.configure(trt, config)
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            target = getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}")
            config.set_compute_capability(target, index)

    begin = time.perf_counter()
    engine = build.compile_engine(trt, graph, str(graph), progress=progress, configure=configure)
    seconds = time.perf_counter() - begin
    path = out / f"{graph.stem}.engine"
    path.write_bytes(engine)
    return Compiled(path, tuple(capabilities), len(engine), seconds)


def known_capabilities(trt: Any) -> list[str]:
    """The compute capabilities that an installed TensorRT-RTX compiles for."""
    shorts = sorted(int(n[2:]) for n in trt.ComputeCapability.__members__ if n.startswith("SM"))
    return [f"{short // 10}.{short % 10}" for short in shorts]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    graphs: Annotated[
        list[Path],
        typer.Argument(metavar="GRAPH...", help="ONNX graphs, in the precision that is wanted"),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the engines")],
    capability: Annotated[
        list[str] | None,
        typer.Option(metavar="X.Y", help=f"May be repeated; without: {', '.join(CAPABILITIES)}"),
    ] = None,
) -> None:
    """Compile graphs ahead of time with TensorRT-RTX, for GPUs that are not here.

    Precision lies in the graph: export FP16 or INT8 Q/DQ graphs for it. The batch may be 1 to 8.

    Example: python -m export.engine encoder.onnx --capability 8.6 --capability 8.9 --out engines
    """
    console = Console(stderr=True, highlight=False)
    try:
        _demand_names_apart(graphs)
        out.mkdir(parents=True, exist_ok=True)
        targets = tuple(capability or CAPABILITIES)
        compiled = [_with_bar(graph, targets, out, console) for graph in graphs]
    except (BackendError, OSError, ValueError) as error:
        console.print(f"error: {error}", soft_wrap=True, markup=False)
        code = 1 if isinstance(error, BackendUnavailableError) else 2
        raise typer.Exit(code) from None
    table = Table("engine", "capabilities", "MB", "seconds")
    for one in compiled:
        table.add_row(
            one.path.name,
            ", ".join(one.capabilities),
            f"{one.size / 1e6:.1f}",
            f"{one.seconds:.1f}",
        )
    Console(highlight=False).print(table)


def _demand_names_apart(graphs: list[Path]) -> None:
    stems = [graph.stem for graph in graphs]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise ValueError(
            f"several graphs are called {', '.join(twice)}, and their engines would overwrite each "
            "other: compile them into folders of their own"
        )


def _with_bar(graph: Path, targets: tuple[str, ...], out: Path, console: Console) -> Compiled:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(graph.name, total=1.0)
        return compile_for(
            graph, targets, out, lambda _what, share: bar.update(task, completed=share)
        )


if __name__ == "__main__":
    app()
