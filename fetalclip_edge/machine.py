"""Which machine, runtime and bundle a number belongs to."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fetalclip_edge.model import Model

__all__ = ["describe_machine", "describe_model", "device_name"]

_JETSON = Path("/proc/device-tree/model")
_NVIDIA = Path("/proc/driver/nvidia/gpus")


def describe_machine() -> dict[str, Any]:
    """Processor, cores, system and Python, as plain values."""
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def describe_model(model: Model) -> dict[str, Any]:
    """Bundle and backend of a model, as plain values."""
    bundle, backend = model.bundle, model.backend
    return {
        "fetalclip_edge": version("fetalclip-edge"),
        "bundle": {
            "name": bundle.name,
            "version": bundle.version,
            "sha256": bundle.sha256,
            "license": bundle.license,
        },
        "backend": {
            "name": backend.name,
            "version": backend.version,
            "precision": backend.precision,
            "device": backend.device,
        },
    }


def device_name() -> str:
    """Everything that computes here, in words: processor, cores, board and NVIDIA GPUs."""
    found = [f"{_processor()} ({os.cpu_count()} cores)"]
    for path in (_JETSON, *sorted(_NVIDIA.glob("*/information"))):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if path is _JETSON:
            found.append(text.strip("\0\n "))
        else:
            models = [line for line in text.splitlines() if line.startswith("Model:")]
            found.extend(line.partition(":")[2].strip() for line in models)
    return "; ".join(found)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
