"""What the SDK weighs on a device: `python -m benchmarks.footprint > footprint.json`.

Import time against a bare interpreter, in turns; peak memory of processes that stream the shipped
clip; size of the wheel.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

import fetalclip_edge
from benchmarks.timing import interleave, machine, print_report, table
from fetalclip_edge.demo import DEMO_CLIP

_ROUNDS = 10

_IMPORT = "import fetalclip_edge"
_LOAD = "import fetalclip_edge as fe; fe.load()"
_STREAM = f"""
import fetalclip_edge as fe
with fe.stream({str(DEMO_CLIP)!r}) as live:
    for result in live: pass
"""


def _python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def peak_memory_mb(code: str) -> float:
    """Peak resident memory of a fresh interpreter that runs `code`, in MB (Linux)."""
    # Not getrusage: its peak includes the parent's memory at the fork.
    report = "print([line for line in open('/proc/self/status') if 'VmHWM' in line][0])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], check=True, capture_output=True, text=True
    )
    _, kilobytes, _ = done.stdout.split()
    return int(kilobytes) / 1024


def wheel_size_mb(repository: Path) -> float:
    """Size of the wheel built from the checkout, in MB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, "."]
        subprocess.run(command, check=True, cwd=repository, capture_output=True)
        [wheel] = Path(folder).glob("*.whl")
        return wheel.stat().st_size / 1e6


def measure() -> dict[str, Any]:
    """All of it, as plain values."""
    starts = interleave(
        {
            "bare interpreter": lambda: _python("pass"),
            "import numpy, cv2, av, onnxruntime": lambda: _python(
                "import numpy, cv2, av, onnxruntime"
            ),
            "import fetalclip_edge": lambda: _python(_IMPORT),
            "import and load the bundle": lambda: _python(_LOAD),
        },
        _ROUNDS,
        warmup=1,
    )
    return {
        "machine": machine(["fetalclip-edge", "numpy", "opencv-python", "av", "onnxruntime"]),
        "start_ms": {name: timings.to_dict() for name, timings in starts.items()},
        "peak_memory_mb": {
            "import numpy, cv2, av, onnxruntime": peak_memory_mb(
                "import numpy, cv2, av, onnxruntime"
            ),
            "import fetalclip_edge": peak_memory_mb(_IMPORT),
            "stream the shipped clip": peak_memory_mb(_STREAM),
        },
        "wheel_mb": wheel_size_mb(Path(fetalclip_edge.__file__).parent.parent),
    }


def main() -> None:
    """Measure import time, peak memory and wheel size, in about a minute.

    Prints a table on stderr and JSON on stdout.
    """
    with Console(stderr=True).status("starting interpreters and building a wheel"):
        report = measure()
    rows: list[list[object]] = [
        [name, f"{values['median_ms']:.0f} ms"] for name, values in report["start_ms"].items()
    ]
    rows += [[name, f"{value:.0f} MB"] for name, value in report["peak_memory_mb"].items()]
    rows.append(["wheel", f"{report['wheel_mb']:.1f} MB"])
    print_report(report, table(["what", "measured"], rows))


if __name__ == "__main__":
    typer.run(main)
