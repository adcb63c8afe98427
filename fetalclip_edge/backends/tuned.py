"""What `fetalclip-edge tune` measured on this device, remembered in the user's cache folder.

A memory holds for one bundle, one device and one number of threads, and only while the versions of
this package and of the installed runtimes stay what they were.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fetalclip_edge import cache
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.machine import device_name

__all__ = ["Measured", "Memory", "installed_version", "recall", "remember"]

_LAYOUT = 1
_CUDA = "cuda-bindings"
"""What both TensorRTs need besides: without it they were dropped, and with it they may be first."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A graph that passed the accuracy gate.

    Attributes:
        backend: name of the backend.
        precision: of the graph.
        median_ms: milliseconds of one frame.
    """

    backend: str
    precision: str
    median_ms: float


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered of a bundle on this device.

    Attributes:
        ranking: graphs that passed, the fastest first; empty where nothing holds.
        dropped: "BACKEND PRECISION" -> why it was dropped.
        note: why nothing holds; None where it does, or nothing was measured.
    """

    ranking: tuple[Measured, ...] = ()
    dropped: Mapping[str, str] = field(default_factory=dict)
    note: str | None = None


def installed_version(name: str) -> str | None:
    """Version of the runtime that a backend is named after, without importing it.

    Returns:
        None where it is not installed, "unknown" where it does not say.
    """
    if name not in sys.modules and find_spec(name) is None:
        return None
    if name in sys.modules and sys.modules[name] is None:  # kept from being imported
        return None
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        # Such as onnxruntime-gpu, which brings the module onnxruntime. This reads a lot of files.
        distributions = metadata.packages_distributions().get(name)
        return metadata.version(distributions[0]) if distributions else "unknown"


def remember(
    bundle: ModelBundle,
    threads: int,
    backends: Iterable[str],
    ranking: Iterable[Measured],
    dropped: Mapping[str, str],
) -> Path:
    """Write what was measured, in place of what was remembered before.

    Args:
        bundle: what was measured.
        threads: CPU threads for one frame.
        backends: names of all backends that could have been measured.
        ranking: graphs that passed, the fastest first.
        dropped: "BACKEND PRECISION" -> why it was dropped.

    Returns:
        The file.

    Raises:
        OSError: the cache folder cannot be written to.
    """
    path = _path(bundle, threads)
    entry = {
        "layout": _LAYOUT,
        "bundle_sha256": bundle.sha256,
        "device": device_name(),
        "threads": threads,
        "versions": _versions(backends),
        "ranking": [asdict(measured) for measured in ranking],
        "dropped": dict(dropped),
    }
    cache.write_private(path, (json.dumps(entry, indent=2) + "\n").encode())
    return path


def recall(bundle: ModelBundle, threads: int, backends: Iterable[str]) -> Memory:
    """What is remembered of a bundle, if it still holds. Never raises: it is only a cache.

    Args:
        bundle: what is to run.
        threads: CPU threads for one frame.
        backends: names of all backends that there are now.
    """
    try:
        path = _path(bundle, threads)
        entry = json.loads(path.read_bytes())
    except FileNotFoundError:
        return Memory()
    except (OSError, ValueError, RecursionError) as error:
        return Memory(note=f"what was tuned cannot be read ({error}): run fetalclip-edge tune")
    try:
        same = (entry["layout"], entry["bundle_sha256"], entry["device"], entry["threads"]) == (
            *(_LAYOUT, bundle.sha256),
            *(device_name(), threads),
        )
        memory = Memory(
            tuple(_measured(item) for item in entry["ranking"]),
            {str(name): str(why) for name, why in entry["dropped"].items()},
        )
        then = {str(name): version for name, version in entry["versions"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return Memory(note=f"{path} is damaged ({error!r}): run fetalclip-edge tune")
    if not same:
        return Memory(note=f"{path} is of something else: run fetalclip-edge tune")
    for name, version in _versions(backends).items():
        if then.get(name) != version:
            was, now = then.get(name) or "not installed", version or "not installed"
            return Memory(
                note=f"{name} was {was} when tuned and is {now} now: run fetalclip-edge tune"
            )
    known = all(m.precision in bundle.graphs.get(m.backend, {}) for m in memory.ranking)
    if not (memory.ranking and known):
        return Memory(note=f"{path} names graphs that are not there: run fetalclip-edge tune")
    return memory


def _measured(item: dict[str, Any]) -> Measured:
    return Measured(str(item["backend"]), str(item["precision"]), float(item["median_ms"]))


def _versions(backends: Iterable[str]) -> dict[str, str | None]:
    runtimes = {name: installed_version(name) for name in backends}
    return {
        "fetalclip-edge": metadata.version("fetalclip-edge"),
        _CUDA: _version(_CUDA),
        **runtimes,
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _path(bundle: ModelBundle, threads: int) -> Path:
    key = json.dumps([bundle.sha256, device_name(), threads])
    return cache.cache_folder() / f"tuned-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
