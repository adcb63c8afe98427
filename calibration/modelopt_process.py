"""NVIDIA's modelopt in a process of its own: it changes ONNX Runtime's quantisation for good.

After one call of it, `quantize_static` of the same process finds no ranges any more.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.static import CORE_INPUT

__all__ = ["place_with_modelopt"]


def place_with_modelopt(
    core: Path, frames: NDArray[np.float32], apart: Sequence[str], ranges: str, out: Path
) -> None:
    """Write a float32 graph with modelopt's quantisers around its convolutions.

    Args:
        core: the graph.
        frames: calibration set, normalised, float32 `(N, 1, S, S)`.
        apart: names of nodes that stay in float32.
        ranges: "max" or "entropy".
        out: where to write.

    Raises:
        RuntimeError: modelopt is not installed, or it fails; with its own words.
    """
    if importlib.util.find_spec("modelopt") is None:
        raise RuntimeError(
            'this method needs NVIDIA\'s modelopt: pip install "fetalclip-edge[export]"'
        )
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "frames.npy", frames)
        told = {"core": str(core), "apart": list(apart), "ranges": ranges, "out": str(out)}
        (Path(folder) / "told.json").write_text(json.dumps(told), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", __name__, folder],
            cwd=Path(__file__).resolve().parent.parent,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise RuntimeError(f"modelopt cannot quantise this graph: {last}")


def _place(folder: Path) -> None:
    from modelopt.onnx.quantization import quantize

    told = json.loads((folder / "told.json").read_text(encoding="utf-8"))
    quantize(
        told["core"],
        quantize_mode="int8",
        calibration_data={CORE_INPUT: np.load(folder / "frames.npy", allow_pickle=False)},
        calibration_method=told["ranges"],
        calibration_eps=["cpu"],
        op_types_to_quantize=["Conv"],
        nodes_to_exclude=[f"{re.escape(name)}$" for name in told["apart"]],
        high_precision_dtype="fp32",
        output_path=told["out"],
        log_level="ERROR",
    )


if __name__ == "__main__":
    _place(Path(sys.argv[1]))
