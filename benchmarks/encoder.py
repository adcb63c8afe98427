"""How fast the encoder is in every runtime and precision: `python -m benchmarks.encoder BUNDLE`.

The bundle's graphs beside MobileFetalCLIP and FetalCLIP with random weights, in ONNX Runtime and in
open_clip's eager PyTorch: in turns, on as many threads each, batches of 1 and 8.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.contenders import (
    PUBLISHED_MODELS,
    Contender,
    embedding_alone,
    from_bundle,
    published,
)
from benchmarks.timing import Timings, interleave, machine, table

__all__ = ["compare", "in_a_child", "markdown", "measure"]

_SLOW_MS = 300.0
"""What takes longer for one batch runs in fewer rounds."""

_CHILD = """
import json, sys, time
begin = time.perf_counter()
from benchmarks.contenders import Contender
one, threads = Contender(**json.loads(sys.argv[1])), int(sys.argv[2])
encode = one.load(threads)
encode(one.frames(1))
ready = time.perf_counter() - begin
peak = [line for line in open("/proc/self/status") if "VmHWM" in line][0].split()[1]
print(json.dumps({"load_ms": 1000 * ready, "peak_memory_mb": int(peak) / 1024}))
"""


def in_a_child(one: Contender, threads: int) -> dict[str, float]:
    """Milliseconds until the first answer, imports included, and peak memory (Linux), in MB.

    Raises:
        RuntimeError: the process failed.
    """
    words = [sys.executable, "-c", _CHILD, json.dumps(one.to_dict()), str(threads)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise RuntimeError(f"{one.name} fails in a process of its own: {last}")
    found: dict[str, float] = json.loads(done.stdout.strip().rpartition("\n")[2])
    return found


def measure(
    contenders: Sequence[Contender],
    threads: int,
    rounds: int,
    slow_rounds: int,
    console: Console,
    batches: Sequence[int] = (1, 8),
) -> list[dict[str, Any]]:
    """Time all of them.

    Args:
        contenders: what to time.
        threads: of the CPU, for each.
        rounds: how often each runs.
        slow_rounds: how often those run that take longer than 300 ms, and all others with them.
        console: for progress.
        batches: how many frames at once.

    Returns:
        A row a contender: its description, `size_mb`, `load_ms`, `peak_memory_mb`, and
        "batch 1" and so on with percentiles, `images_per_s`, and `times_as_fast_as`: name of
        another -> median ratio of rounds in which both ran.
    """
    rows = []
    for one in contenders:
        with console.status(f"loading {one.name} in a process of its own"):
            rows.append(
                {
                    "name": one.name,
                    **one.to_dict(),
                    "path": Path(one.path).name,
                    "size_mb": one.size_mb(),
                    **in_a_child(one, threads),
                }
            )
    encoders = {one.name: one.load(threads) for one in contenders}
    for batch in batches:
        work = {one.name: partial(encoders[one.name], one.frames(batch)) for one in contenders}
        with console.status(f"batch {batch}: {len(work)} in turns"):
            fast = {name: run for name, run in work.items() if _once(run) < _SLOW_MS}
            together = interleave(work, slow_rounds, warmup=0)
            apart = interleave(fast, rounds, warmup=3) if fast else {}
        for row in rows:
            own = apart.get(row["name"], together[row["name"]])
            row[f"batch {batch}"] = {
                **own.to_dict(),
                "rounds": len(own.milliseconds),
                "images_per_s": 1000 * batch / own.median,
                "times_as_fast_as": compare(row["name"], together, apart),
            }
    return rows


def _once(run: Any) -> float:
    """Milliseconds of the second run; in the first OpenVINO compiles for the batch."""
    run()
    begin = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - begin)


def compare(
    name: str, together: Mapping[str, Timings], apart: Mapping[str, Timings]
) -> dict[str, float]:
    """How many times as fast one is as each other, from the most rounds that both ran in."""
    found = {}
    for other in together:
        same = apart if name in apart and other in apart else together
        if other != name:
            found[other] = same[other].ratio_to(same[name])
    return found


def markdown(rows: Sequence[Mapping[str, Any]], batch: int = 1) -> str:
    """The rows as a Markdown table."""
    eager = next((row["name"] for row in rows if row["path"] == "fetalclip"), None)
    lines: list[list[object]] = []
    for row in rows:
        times = row[f"batch {batch}"]
        ratio = times["times_as_fast_as"].get(eager, 1.0)
        lines.append(
            [
                row["model"],
                row["runtime"],
                row["precision"],
                *(round(times[key], 2) for key in ("median_ms", "p95_ms", "p99_ms")),
                round(times["images_per_s"], 1),
                f"{ratio:.3g}x" if eager else "",
                round(row["load_ms"]),
                round(row["peak_memory_mb"]),
                round(row["size_mb"], 1),
            ]
        )
    header = ["model", "runtime", "precision", "p50 ms", "p95", "p99", "images/s"]
    header += ["FetalCLIP eager", "load ms", "memory MB", "size MB"]
    cells = [[str(cell) for cell in line] for line in lines]
    return table(header, cells)


def main(
    bundle: Annotated[
        Path,
        typer.Argument(help="bundle; export.bundle --precision int8 --precision fp32 has both"),
    ],
    out: Annotated[Path, typer.Option(help="folder for encoder.json and encoder.md")],
    graphs: Annotated[
        Path, typer.Option(help="folder of the published models' graphs, made where missing")
    ] = Path("runs/graphs"),
    models: Annotated[
        list[str] | None, typer.Option("--model", help="fetalclip or mobile-fetalclip; both")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=256, help="of the CPU")] = 1,
    batches: Annotated[
        list[int] | None, typer.Option("--batch", min=1, help="frames at once; 1 and 8")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="of the fast ones")] = 200,
    slow_rounds: Annotated[int, typer.Option(min=1, help="of those over 300 ms")] = 5,
) -> None:
    """Time a bundle's graphs beside the published models' architectures.

    Those with a map of the head also without it, as the published models give an embedding alone.
    FetalCLIP is exported first, where --graphs lacks it: some minutes and 12 GB of memory.
    """
    console = Console(stderr=True)
    names = list(PUBLISHED_MODELS) if models is None else models
    counts = batches or [1, 8]
    try:
        if unknown := [name for name in names if name not in PUBLISHED_MODELS]:
            raise ValueError(f"--model must be {' or '.join(PUBLISHED_MODELS)}, not {unknown[0]}")
        contenders, left_out = from_bundle(bundle, threads)
        contenders += embedding_alone(bundle, graphs)
        out.mkdir(parents=True, exist_ok=True)
        for name in names:
            with console.status(f"exporting {name}"):
                contenders += published(name, graphs)
        before = machine()["load_average"]
        rows = measure(contenders, threads, rounds, slow_rounds, console, counts)
    except (OSError, ValueError, RuntimeError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1 if isinstance(error, RuntimeError) else 2) from error
    packages = ["onnxruntime", "torch", "open_clip_torch", "timm"]
    packages += sorted({one.runtime for one in contenders} & {"openvino"})
    report = {
        "machine": {**machine(packages), "load_average_before": before},
        "threads": threads,
        "rows": rows,
        "left_out": left_out,
    }
    (out / "encoder.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    texts = [f"Batch {batch}\n\n{markdown(rows, batch)}\n" for batch in counts]
    (out / "encoder.md").write_text("\n".join(texts), encoding="utf-8")
    print("\n".join(texts), file=sys.stderr)
    for name, why in left_out.items():
        console.print(f"left out: {name}: {why}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
