"""How late results of a live stream are: `python -m benchmarks.stream --out DIR`.

A camera of 30 and 60 frames a second, 1920x1080, on a free and on a loaded CPU, and one that is
twice as fast as this machine; read by `fetalclip_edge.stream`, by the loop that people write first,
and by supervision's frame generator, in turns.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import fetalclip_edge as fe
from benchmarks.stream_camera import LOOPS, Camera, Pixels, Segment, clip_images
from benchmarks.timing import machine, table
from fetalclip_edge.machine import describe_model

__all__ = ["Case", "cases", "loaded", "markdown", "measure", "summarise"]

_OVERLOAD = 2.0
_FRAMES_ALLOWED = 1.5


@dataclass(frozen=True, slots=True)
class Case:
    """Conditions to measure under.

    Attributes:
        name: of it.
        rate: frames per second of the camera.
        loaded: whether every core has something else to do, too.
    """

    name: str
    rate: float
    loaded: bool


def cases(work_ms: float) -> list[Case]:
    """30 and 60 a second, free and loaded, and twice as many as can be answered.

    Args:
        work_ms: that one frame takes on the free machine.
    """
    paced = [
        Case(f"{rate} per second, CPU {'loaded' if load else 'free'}", float(rate), load)
        for rate in (30, 60)
        for load in (False, True)
    ]
    rate = round(_OVERLOAD * 1000 / work_ms, 1)
    return [*paced, Case(f"{_OVERLOAD:g}x overload ({rate:g} per second), CPU free", rate, False)]


@contextmanager
def loaded(load: bool) -> Iterator[None]:
    """Keep every core busy meanwhile, one process each; or do nothing."""
    count = (os.cpu_count() or 1) if load else 0
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def measure(
    model: fe.Model,
    images: list[Pixels],
    case: Case,
    loops: Mapping[str, Callable[[fe.Model, Camera], Segment]],
    seconds: float,
    rounds: int,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, list[Segment]]:
    """Let the loops read a camera each, in turns, every round in another order.

    Returns:
        Name of a loop -> what it did in each round.
    """
    found: dict[str, list[Segment]] = {name: [] for name in loops}
    names = list(loops)
    with loaded(case.loaded):
        for index in range(rounds):
            turn = index % len(names)
            for name in names[turn:] + names[:turn]:
                found[name].append(loops[name](model, Camera(images, case.rate, seconds)))
                advance()
    return found


def summarise(segments: Sequence[Segment], rate: float) -> dict[str, Any]:
    """Numbers of one loop under one case, over all rounds; no sample is left out.

    Returns:
        `latency_ms` and `overhead_ms` (p50, p95, p99, max), `work_ms` (p50), `due`, `answered`,
        `dropped`, `behind` (frames that were due and neither answered nor dropped when the
        camera ended), `lag_growth_ms_per_s` (median over the rounds of the slope of latency), and
        `within`: the share of results no later than 1.5 frame times and their own work.
    """
    samples = [sample for segment in segments for sample in segment.samples]
    due = sum(segment.due for segment in segments)
    dropped = sum(segment.dropped for segment in segments)
    allowed_ms = _FRAMES_ALLOWED * 1000 / rate
    summary: dict[str, Any] = {
        "due": due,
        "answered": len(samples),
        "dropped": dropped,
        "behind": due - len(samples) - dropped,
    }
    if samples:
        within = [sample.latency_ms <= allowed_ms + sample.work_ms for sample in samples]
        summary |= {
            "latency_ms": _percentiles([sample.latency_ms for sample in samples]),
            "overhead_ms": _percentiles([sample.overhead_ms for sample in samples]),
            "work_ms": round(float(np.median([sample.work_ms for sample in samples])), 3),
            "lag_growth_ms_per_s": round(float(np.median([*_growths(segments, rate)])), 3),
            "within": round(float(np.mean(within)), 4),
        }
    return summary


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(values, (50, 95, 99)).tolist()
    named = {"p50": p50, "p95": p95, "p99": p99, "max": max(values)}
    return {name: round(value, 3) for name, value in named.items()}


def _growths(segments: Sequence[Segment], rate: float) -> Iterator[float]:
    """Milliseconds of latency gained per second, a round each; 0 where nothing tells."""
    for segment in segments:
        if len(segment.samples) > 1:
            latency = [sample.latency_ms for sample in segment.samples]
            times = [sample.index / rate + sample.latency_ms / 1000 for sample in segment.samples]
            yield float(np.polyfit(times, latency, 1)[0])
        else:
            yield 0.0


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = []
    for row in rows:
        latency, overhead = row.get("latency_ms"), row.get("overhead_ms")
        if latency is None or overhead is None:
            lines.append([row["case"], row["loop"], *["-"] * 9, str(row["behind"])])
            continue
        lines.append(
            [
                *(row["case"], row["loop"]),
                *(f"{latency[name]:.1f}" for name in ("p50", "p95", "p99", "max")),
                f"{row['work_ms']:.1f}",
                f"{overhead['p50']:.2f}",
                f"{row['lag_growth_ms_per_s']:.1f}",
                f"{100 * row['within']:.1f} %",
                f"{row['dropped']} of {row['due']}",
                str(row["behind"]),
            ]
        )
    header = ["camera", "loop", "latency p50 ms", "p95", "p99", "max", "work p50", "overhead p50"]
    header += ["growth ms/s", "within 1.5 frames + work", "dropped", "left behind"]
    return table(header, lines)


def main(
    out: Annotated[Path, typer.Option(help="folder for stream.json and stream.md")],
    seconds: Annotated[float, typer.Option(min=0.1, help="of camera for a loop in a round")] = 10.0,
    rounds: Annotated[int, typer.Option(min=1, help="turns of each loop under each case")] = 3,
    size: Annotated[str, typer.Option(help="pixels of a frame, WIDTHxHEIGHT")] = "1920x1080",
    bundle: Annotated[Path | None, typer.Option(help="in place of the shipped one")] = None,
    threads: Annotated[int, typer.Option(min=1, max=256, help="of the CPU for one frame")] = 1,
) -> None:
    """Time live streams of a camera in memory, and say who keeps up.

    Latency counts from when a frame was due to when the consumer has its result. Seven and a half
    minutes as it stands, and the loaded cases keep every core busy.

    Example: python -m benchmarks.stream --out benchmarks/results
    """
    console = Console(stderr=True)
    match = re.fullmatch(r"(\d{2,4})x(\d{2,4})", size)
    try:
        if match is None:
            raise ValueError(f"--size must be WIDTHxHEIGHT in pixels, not {size!r}")
        model = fe.load(bundle, threads=threads)
        out.mkdir(parents=True, exist_ok=True)
        before = machine()["load_average"]
        images = clip_images(int(match[1]), int(match[2]))
        loops, left_out = _installed()
        work_ms = _work(model, images)
        planned = cases(work_ms)
        rows = []
        with _progress(console) as progress:
            task = progress.add_task("", total=len(planned) * rounds * len(loops))
            for case in planned:
                progress.update(task, description=case.name)
                found = measure(
                    model, images, case, loops, seconds, rounds, lambda: progress.advance(task)
                )
                rows += [
                    {"case": case.name, "rate_per_s": case.rate, "loaded": case.loaded}
                    | {"loop": name, **summarise(segments, case.rate)}
                    for name, segments in found.items()
                ]
    except (OSError, ValueError, RuntimeError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1 if isinstance(error, RuntimeError) else 2) from error
    report = {
        "machine": {**machine(["onnxruntime", "opencv-python"]), "load_average_before": before},
        **describe_model(model),
        "frames": f"{size} BGR, simulated",
        "threads": threads,
        "seconds": seconds,
        "rounds": rounds,
        "work_ms": round(work_ms, 3),
        "rows": rows,
        "left_out": left_out,
    }
    (out / "stream.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (out / "stream.md").write_text(markdown(rows) + "\n", encoding="utf-8")
    print(markdown(rows), file=sys.stderr)
    for name, why in left_out.items():
        console.print(f"left out: {name}: {why}", markup=False, highlight=False, soft_wrap=True)


def _installed() -> tuple[dict[str, Callable[[fe.Model, Camera], Segment]], dict[str, str]]:
    """The loops whose libraries are here, and why not the others."""
    try:
        import supervision  # noqa: F401
    except ImportError as error:
        gone = [name for name in LOOPS if name.startswith("supervision")]
        kept = {name: loop for name, loop in LOOPS.items() if name not in gone}
        return kept, dict.fromkeys(gone, f"{error}; pip install supervision")
    return dict(LOOPS), {}


def _work(model: fe.Model, images: list[Pixels], times: int = 20) -> float:
    """Milliseconds that a frame takes when nothing else runs: the median, after as many to warm."""
    taken = []
    for index in range(2 * times):
        timing = model.analyze(images[index % len(images)], color="bgr").timing
        taken.append(timing.preprocess_ms + timing.inference_ms + timing.interpret_ms)
    return float(np.median(taken[times:]))


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


if __name__ == "__main__":
    typer.run(main)
