"""Gestational age of heads that are not measured, by a bundle with a bank of known answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save

import fetalclip_edge as fe
from fetalclip_edge.errors import BundleError, BundleIntegrityError

from .test_head import SPEC, mapped

Pixels = NDArray[np.uint8]
Edit = Callable[[Callable[[dict[str, Any]], object]], Path]
Tensors = dict[str, NDArray[Any]]
ERROR = {"early": 5.0, "late": 7.0}


@pytest.fixture(scope="module")
def head(clip_images: list[Pixels]) -> Pixels:
    """The clip ends on a simulated head at rest, 640 pixels wide or so."""
    return clip_images[280]


@pytest.fixture(scope="module")
def tensors(head: Pixels) -> Tensors:
    """At half a millimetre a pixel that head is 150 days old, at one 230."""
    own = fe.load(backend="onnxruntime").embed(head)[0].astype(np.float64)
    across = np.random.default_rng(0).normal(size=own.shape)
    across -= (across @ own) * own
    across /= np.linalg.norm(across)
    days = np.arange(98, 273)

    def around(day: int) -> NDArray[np.float64]:
        angles = np.abs(days - day)[:, None] / 100
        rows: NDArray[np.float64] = np.cos(angles) * own + np.sin(angles) * across
        return rows

    return {
        "embeddings": np.stack([around(150), around(230)]).astype(np.float16),
        "pixel_sizes_mm": np.array([0.5, 1.0], np.float32),
        "days": days.astype(np.float32),
    }


@pytest.fixture
def with_bank(edited_bundle: Edit, tensors: Tensors) -> Callable[..., Path]:
    """A copy of the shipped bundle that knows every picture, with ages."""

    def make(entry: object = None, **changed: NDArray[Any] | dict[str, Any]) -> Path:
        manifest_head = changed.pop("head", None)
        data = save({**tensors, **changed})  # type: ignore[arg-type]

        def change(manifest: dict[str, Any]) -> None:
            manifest["age_bank"] = {"error_days": ERROR} if entry is None else entry
            digest = hashlib.sha256(data).hexdigest()
            manifest["files"]["age_bank.safetensors"] = {"sha256": digest, "bytes": len(data)}
            manifest["thresholds"]["domain_distance"] = 1e9
            manifest.pop("head", None)
            if manifest_head is not None:
                manifest["head"] = manifest_head

        folder = edited_bundle(change)
        (folder / "age_bank.safetensors").write_bytes(data)
        return folder

    return make


def test_a_head_that_is_not_measured_has_a_zero_shot_age(
    with_bank: Callable[..., Path], head: Pixels
) -> None:
    model = fe.load(with_bank(), "onnxruntime")
    scale = 224 / max(head.shape)  # so that a pixel of the input is so many millimetres
    for input_mm, days in ((0.5, 150), (1.0, 230)):
        result = model.analyze(head, pixel_size_mm=input_mm * scale)
        age = result.gestational_age
        assert result.plane.label == "brain"
        assert result.head is None
        assert age is not None
        assert (age.days, age.method) == (days, "zero-shot")
        assert age.low_days <= days - 5
        assert age.high_days >= days + 7
        assert result.to_dict()["gestational_age"]["method"] == "zero-shot"


def test_the_scale_is_that_of_the_region(with_bank: Callable[..., Path], head: Pixels) -> None:
    model = fe.load(with_bank(), "onnxruntime")
    framed = np.zeros((max(head.shape) * 2, max(head.shape) * 3), np.uint8)
    framed[: head.shape[0], : head.shape[1]] = head
    region = (0, 0, head.shape[1], head.shape[0])
    pixel_size_mm = 1.0 * 224 / max(head.shape)
    age = model.analyze(framed, pixel_size_mm, region=region).gestational_age
    assert age is not None
    assert age.days == 230


def test_without_a_pixel_size_that_it_knows_or_on_no_head_there_is_no_age(
    with_bank: Callable[..., Path], head: Pixels
) -> None:
    model = fe.load(with_bank(), "onnxruntime")
    assert model.analyze(head).gestational_age is None
    assert model.analyze(head, pixel_size_mm=5.0).gestational_age is None
    flat = np.zeros((300, 400), np.uint8)
    assert model.analyze(flat, pixel_size_mm=0.5 * 224 / 400).gestational_age is None


def test_a_measured_circumference_is_preferred(
    with_bank: Callable[..., Path], head: Pixels
) -> None:
    pixel_size_mm = 0.5 * 224 / max(head.shape)
    measured = mapped(with_bank(head=SPEC)).analyze(head, pixel_size_mm)
    assert measured.head is not None
    assert measured.head.head_circumference_mm is not None
    # 110.5 of 56 pixels, by SciPy, of 112 mm: an age by the chart
    assert measured.gestational_age is not None
    assert measured.gestational_age.method == "head circumference, WHO 2017"
    # A head that is cut off is not measured
    cut = mapped(with_bank(head={**SPEC, "least_coverage": 1.0, "most_residual": 0.0}))
    withheld = cut.analyze(head, pixel_size_mm)
    assert withheld.head is not None
    assert withheld.head.head_circumference_mm is None
    assert withheld.gestational_age is not None
    assert (withheld.gestational_age.days, withheld.gestational_age.method) == (150, "zero-shot")


def test_a_bank_that_does_not_fit_the_bundle_is_refused(
    with_bank: Callable[..., Path], tensors: Tensors
) -> None:
    for told, folder in (
        ("error_days must have `early` and `late`", with_bank({"error_days": {"early": 1.0}})),
        ("late must be at least 0", with_bank({"error_days": {"early": 1.0, "late": -1.0}})),
        ("must hold embeddings", with_bank(embeddings=tensors["embeddings"][..., :8])),
        ("must hold embeddings", with_bank(more=tensors["days"])),
        ("whole numbers", with_bank(days=tensors["days"] - 0.5)),
        ("must be finite float32", with_bank(days=tensors["days"].astype(np.int64))),
        ("age_bank must be dict", with_bank([1])),
    ):
        with pytest.raises(BundleError, match=told):
            fe.load(folder, "onnxruntime")


def test_a_bank_that_was_changed_is_refused(with_bank: Callable[..., Path]) -> None:
    folder = with_bank()
    data = bytearray((folder / "age_bank.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "age_bank.safetensors").write_bytes(data)
    with pytest.raises(BundleIntegrityError, match="age_bank"):
        fe.load(folder, "onnxruntime")
