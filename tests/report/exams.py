"""Exams, made up: what a recorder is given, and what a report then says."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

import fetalclip_edge as fe
from fetalclip_edge.checklist import Checklist
from fetalclip_edge.report import ExamRecorder
from fetalclip_edge.results import HeadBiometry, HeadOutline

from ..moments import frame, result

SHA256 = "0123456789abcdef" * 4
SIZE = (48, 64)
"""Height and width of the made-up frames."""

FRAMES = 3
"""Of each look."""

REGION = fe.Region(8, 4, 48, 40)

MODEL = SimpleNamespace(
    chart="hadlock",
    bundle=SimpleNamespace(
        name="student",
        version="9.8.7",
        sha256=SHA256,
        intended_use="Research. Not a medical device.",
        limits=("Untried on <other> probes.", "`cervix` is not to be relied on."),
    ),
    backend=SimpleNamespace(name="onnxruntime", version="1.32.0", precision="int8", device="cpu"),
)
"""What a recorder asks a model."""


def head(mm: float = 200.0) -> HeadBiometry:
    """A head whose measures are shares of its circumference that are easy to follow."""
    return HeadBiometry(
        head_circumference_mm=mm,
        biparietal_diameter_mm=0.28 * mm,
        occipitofrontal_diameter_mm=0.35 * mm,
        head_circumference_px=2 * mm,
        cephalic_index=0.8,
        head_circumference_error_mm=0.02 * mm,
        outline=HeadOutline(32.0, 24.0, 30.0, 24.0, 90.0),
    )


def picture(index: int) -> NDArray[np.uint8]:
    return np.random.default_rng(index).integers(0, 256, SIZE, dtype=np.uint8)


def shown(index: int) -> fe.Frame:
    """A frame whose source names a patient, half a millimetre a pixel, 0.45 s after the last."""
    return frame(
        index, picture(index), captured_ns=index * 450_000_000, region=REGION, pixel_size_mm=0.5
    )


def followed(
    *circumferences: float, planes: tuple[str, ...] = ("femur",), chart: str = "hadlock"
) -> ExamRecorder:
    """An exam of looks at a head, three frames each, and a picture of each other plane by hand."""
    checklist = Checklist(hold_s=1.5)
    recorder = ExamRecorder(SimpleNamespace(**vars(MODEL) | {"chart": chart}), checklist=checklist)
    for index in range(FRAMES * len(circumferences)):
        answer = result("brain", 0.97, brain_plane="trans-thalamic")
        recorder.write(replace(answer, head=head(circumferences[index // FRAMES])), shown(index))
    for index, item in enumerate(planes, 100):
        checklist.capture(result(item, 0.9), shown(index))
    return recorder
