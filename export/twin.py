"""The twin of a model that learned from every patient: trained alike, with patients held out."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx

from calibration.frames import read_frames
from export.examples import BundleData
from export.fitting import Seen
from export.graph import export_core, with_grey_levels
from export.measure import encode, one_thread_session
from export.source import Source, load_source
from training.datasets import Example

__all__ = ["load_twin", "seen_by_twin"]


def load_twin(path: Path, model: Source) -> Source:
    """Read the twin, and see that it can speak for the model.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it has another shape or other classes, learned from other images, or held no
            more patients out than the model.
    """
    twin = load_source(path)
    if twin.config != model.config or twin.preprocess != model.preprocess:
        raise ValueError(f"{path} has another architecture than the model it shall judge")
    for task, prompts in model.prompts.items():
        if twin.prompts.get(task, {}).get("sha256") != prompts["sha256"]:
            raise ValueError(f"{path} was trained for other prompts of {task}")
    if twin.origin.data_sha256 != model.origin.data_sha256:
        raise ValueError(f"{path} was trained on other shards than the model it shall judge")
    if not twin.held_out > model.held_out:
        raise ValueError(f"{path} holds out no more patients than the model it shall judge")
    return twin


def seen_by_twin(twin: Source, data: BundleData) -> tuple[Seen, Seen]:
    """What the twin makes, in FP32, of images that it learned from and of those held out.

    Args:
        twin: from `load_twin`.
        data: told apart by the patients whom the twin held out.
    """
    with tempfile.TemporaryDirectory() as work:
        core, graph = Path(work) / "core.onnx", Path(work) / "twin.onnx"
        export_core(twin.tower, core)
        onnx.save(with_grey_levels(onnx.load(core), twin.config.mean, twin.config.std), graph)
        session = one_thread_session(graph)

    def seen(examples: Sequence[Example], title: str) -> Seen:
        spec = twin.preprocess
        pixels = read_frames(examples, spec.size, spec.interpolation)
        return Seen(examples, encode(session, pixels, title))

    labelled = [example for example in data.learned if example.facts.plane is not None]
    return seen(labelled, "training images, twin"), seen(data.held, "validation, twin")
