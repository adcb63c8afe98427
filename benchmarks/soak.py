"""A long run at a steady rate: `python -m benchmarks.soak --plot soak.png > soak.json`.

Frames of the shipped clip are streamed as from a camera. Afterwards resident memory must have
stayed flat, threads and open files must be as many as before, and the slow answers must not be much
slower than the others.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

import fetalclip_edge as fe
from benchmarks.timing import machine, print_report, table
from fetalclip_edge.bench import PacedSource
from fetalclip_edge.demo import DEMO_CLIP
from fetalclip_edge.sources import VideoSource

__all__ = ["Sample", "judge", "plot"]

MOST_GROWTH_MB = 5.0
MOST_TAIL = 2.0
_WARM_UP_S = 60.0
_CLIP_FRAMES = 30
_HUE_BLUE, _HUE_ORANGE = "#0072b2", "#d55e00"


@dataclass(frozen=True, slots=True)
class Sample:
    """The process at one moment.

    Attributes:
        at_s: seconds since the first result.
        resident_mb: memory in use, in MB.
        threads: threads of the system.
        files: open files.
    """

    at_s: float
    resident_mb: float
    threads: int
    files: int


def take_sample(at_s: float) -> Sample:
    """The process now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Sample(
        at_s,
        pages * resource.getpagesize() / 1e6,
        len(os.listdir("/proc/self/task")),  # noqa: PTH208
        len(os.listdir("/proc/self/fd")),  # noqa: PTH208
    )


def soak(frames: Iterator[fe.Result], seconds: float) -> Iterator[Sample]:
    """Take the results, and a sample every second."""
    begin = due = time.monotonic()
    for _ in frames:
        now = time.monotonic()
        if now >= due:
            due = now + 1
            yield take_sample(now - begin)
        if now - begin > seconds:
            return


def judge(samples: list[Sample], p50_ms: float, p99_ms: float) -> dict[str, Any]:
    """Whether the run was steady after its first minute, or third when it was short.

    Args:
        samples: in the order of time.
        p50_ms: the middle of capture to result.
        p99_ms: its 99th percentile.

    Returns:
        The figures, each with whether it is good enough, and `steady` for all of them.

    Raises:
        ValueError: there are no samples after the beginning.
    """
    warm = min(_WARM_UP_S, samples[-1].at_s / 3) if samples else 0.0
    later = [sample for sample in samples if sample.at_s >= warm]
    if len(later) < 2:
        raise ValueError("the run was too short to judge; give it more minutes")
    memory = [sample.resident_mb for sample in later]
    growth = max(memory) - memory[0]
    threads = {sample.threads for sample in later}
    files = {sample.files for sample in later}
    checks = {
        "memory": growth <= MOST_GROWTH_MB,
        "tail": p99_ms <= MOST_TAIL * p50_ms,
        "threads": len(threads) == 1,
        "files": len(files) == 1,
    }
    return {
        "judged_from_s": round(warm, 1),
        "memory_growth_mb": round(growth, 2),
        "p99_to_p50": round(p99_ms / p50_ms, 2),
        "threads": sorted(threads),
        "files": sorted(files),
        "checks": checks,
        "steady": all(checks.values()),
    }


def verdict(judged: dict[str, Any]) -> str:
    """One line."""
    failed = [name for name, good in judged["checks"].items() if not good]
    return (
        f"{'steady' if judged['steady'] else 'NOT STEADY: ' + ', '.join(failed)}; memory grew by "
        f"{judged['memory_growth_mb']:g} MB, p99 is {judged['p99_to_p50']:g} times p50, "
        f"threads {judged['threads']}, open files {judged['files']}"
    )


def plot(samples: list[Sample], judged: dict[str, Any], path: Path) -> None:
    """Draw resident memory over time, and the band in which it must stay."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    minutes = [sample.at_s / 60 for sample in samples]
    memory = [sample.resident_mb for sample in samples]
    begin = judged["judged_from_s"]
    first = next(sample.resident_mb for sample in samples if sample.at_s >= begin)
    axes.fill_between(
        [begin / 60, minutes[-1]], 0, first + MOST_GROWTH_MB, color=_HUE_BLUE, alpha=0.12,
        label=f"allowed: {MOST_GROWTH_MB:g} MB more than after the beginning",
    )  # fmt: skip
    axes.plot(minutes, memory, color=_HUE_ORANGE, label="resident memory")
    axes.set(xlabel="minutes", ylabel="MB", ylim=(0, 1.25 * max(memory)), title=verdict(judged))
    axes.title.set_fontsize(9)
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _pictures(size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Frames of the shipped clip, RGB, scaled."""
    with VideoSource(DEMO_CLIP) as clip:
        frames = [frame.image for frame in clip if frame.index % 10 == 0][:_CLIP_FRAMES]
    return [np.asarray(cv2.resize(each, size, interpolation=cv2.INTER_CUBIC)) for each in frames]


def main(
    minutes: Annotated[float, typer.Option(min=0.05, help="How long.")] = 30.0,
    rate: Annotated[float, typer.Option(min=1, help="Frames per second.")] = 30.0,
    size: Annotated[str, typer.Option(help="Size of the frames.")] = "1280x720",
    backend: Annotated[str, typer.Option(help="Name of the backend.")] = "auto",
    plot_to: Annotated[
        Path | None, typer.Option("--plot", help="Draw memory over time to this file.")
    ] = None,
) -> None:
    """Stream for a long time, and judge whether the last minute is as the second was.

    Prints one line of verdict on stderr and JSON on stdout. The exit code is 1 when it is not
    steady, 2 for a bad option.
    """
    try:
        width, height = (int(side) for side in size.split("x"))
        if min(width, height) < 16:
            raise ValueError
    except ValueError:
        print(f"--size must be such as 1280x720, not {size!r}", file=sys.stderr)
        raise typer.Exit(2) from None
    seconds = 60 * minutes
    pictures = _pictures((width, height))
    source = PacedSource(pictures, "rgb", rate, round(seconds * rate) + 1)
    samples: list[Sample] = []
    console = Console(stderr=True)
    with fe.stream(source, model=fe.load(backend=backend)) as live, Progress(
        console=console, disable=not console.is_terminal
    ) as progress:  # fmt: skip
        bar = progress.add_task("streaming", total=seconds)
        for sample in soak(live, seconds):
            samples.append(sample)
            progress.update(bar, completed=sample.at_s)
    stats = live.stats()
    latency = stats.latency_ms["capture_to_result"]
    try:
        judged = judge(samples, latency.p50, latency.p99)
    except ValueError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    report = {
        "machine": machine(["fetalclip-edge", "numpy", "opencv-python", "av", "onnxruntime"]),
        "minutes": minutes,
        "rate_per_s": rate,
        "size": [width, height],
        "results": stats.results,
        "dropped": stats.dropped,
        "latency_ms": {
            stage: {name: round(value, 3) for name, value in asdict(each).items()}
            for stage, each in stats.latency_ms.items()
        },
        "judged": judged,
        "samples": [[round(value, 2) for value in asdict(each).values()] for each in samples],
    }
    if plot_to is not None:
        plot(samples, judged, plot_to)
    rows = [[stage, *asdict(each).values()] for stage, each in stats.latency_ms.items()]
    text = table(["ms", "p50", "p95", "p99", "max"], rows)
    print_report(report, f"{text}\n\n{verdict(judged)}")
    raise typer.Exit(0 if judged["steady"] else 1)


if __name__ == "__main__":
    typer.run(main)
