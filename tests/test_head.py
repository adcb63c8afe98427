"""Heads through the model: a backend that gives a map beside the shipped encoder's outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fetalclip_edge as fe
from fetalclip_edge.backends import load_backend
from fetalclip_edge.backends.base import Backend
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BundleError
from fetalclip_edge.model import Model
from fetalclip_edge.results import Region, Result

Pixels = NDArray[np.uint8]
Edit = Callable[[Callable[[dict[str, Any]], object]], Path]
SPEC = {
    "edge_px": 0.0,
    "rim_px": 0.0,
    "error_relative": 0.02,
    "least_coverage": 0.6,
    "most_residual": 0.04,
    "least_axis_ratio": 0.6,
    "most_axis_ratio": 0.98,
    "most_border": 0.25,
}


class Mapped(Backend):
    """The shipped encoder, and a map of a head whose diameters are 40 and 30 of 56 pixels."""

    name = "onnxruntime"

    def __init__(self, inner: Backend) -> None:
        self.inner, self.precision = inner, inner.precision
        self.version, self.device = inner.version, inner.device
        outputs = {**inner.signature.outputs, "head_logits": (1, 56, 56)}
        self.signature = replace(inner.signature, outputs=outputs)
        y, x = np.mgrid[:56, :56] + 0.5
        distance = np.hypot((x - 28) / 20, (y - 28) / 15)
        self.logits = (15 * (1 - distance)).astype(np.float32)

    def encode(
        self, inputs: NDArray[Any], out: Mapping[str, NDArray[np.float32]] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        outputs = self.inner.encode(inputs, out)
        return {**outputs, "head_logits": np.repeat(self.logits[None, None], len(inputs), axis=0)}


def mapped(folder: Path, chart: str = "who") -> Model:
    bundle = ModelBundle.load(folder)
    return Model(bundle, Mapped(load_backend(bundle, "onnxruntime", 1, None)), chart)


@pytest.fixture
def model(edited_bundle: Edit) -> Model:
    """It knows every picture, so that what is brain hangs on the scores alone."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["head"] = SPEC
        manifest["thresholds"]["domain_distance"] = 1e9

    return mapped(edited_bundle(change))


@pytest.fixture(scope="module")
def head(clip_images: list[Pixels]) -> Pixels:
    """The clip ends on a simulated head at rest."""
    return clip_images[280]


def test_a_brain_is_measured(model: Model, head: Pixels) -> None:
    result = model.analyze(head, pixel_size_mm=0.1)
    assert result.plane.label == "brain"
    assert result.head is not None
    # 4 a E(1 - (b/a)^2) of half axes 20 and 15 is 110.5 pixels of the map, by SciPy.
    side = max(head.shape) / 56 * 0.1
    assert result.head.head_circumference_mm == pytest.approx(110.5 * side, rel=5e-3)
    assert result.head.biparietal_diameter_mm == pytest.approx(30 * side, rel=5e-3)
    assert result.to_dict()["head_circumference_mm"] == result.head.head_circumference_mm
    assert result.gestational_age is not None
    assert result.gestational_age.method == "head circumference, WHO 2017"


def test_without_a_pixel_size_there_is_no_age(model: Model, head: Pixels) -> None:
    result = model.analyze(head)
    assert result.head is not None
    assert result.head.head_circumference_px is not None
    assert result.to_dict()["head_circumference_mm"] is None
    assert result.gestational_age is None


def test_the_json_has_the_measures_when_details_are_asked_for(model: Model, head: Pixels) -> None:
    result = model.analyze(head, pixel_size_mm=0.1)
    assert "head" not in result.to_dict()
    told = result.to_dict(details=True)["head"]
    assert told["reason"] is None
    assert told["outline"]["major"] == pytest.approx(40 * max(head.shape) / 56, rel=5e-3)
    assert set(told["outline"]) == {"x", "y", "major", "minor", "angle_deg"}


def test_a_region_moves_the_outline(model: Model, head: Pixels) -> None:
    framed = np.zeros((head.shape[0] + 60, head.shape[1] + 40), np.uint8)
    framed[60:, 40:] = head
    region = Region(40, 60, head.shape[1], head.shape[0])
    plain, moved = model.analyze(head), model.analyze(framed, region=region)
    assert plain.head is not None
    assert plain.head.outline is not None
    assert moved.head is not None
    assert moved.head.outline is not None
    assert moved.head.outline.x == pytest.approx(plain.head.outline.x + 40)
    assert moved.head.outline.y == pytest.approx(plain.head.outline.y + 60)


def test_what_is_no_brain_is_not_measured(model: Model, head: Pixels) -> None:
    def other(result: Result) -> bool:
        return result.plane.label != "brain"

    pictures = [np.zeros((300, 400), np.uint8), np.full((300, 400), 90, np.uint8)]
    results = [model.analyze(picture, pixel_size_mm=0.1) for picture in pictures]
    assert all(map(other, results))
    assert [result.head for result in results] == [None, None]
    assert [result.gestational_age for result in results] == [None, None]


def test_the_chart_is_chosen_when_loading(edited_bundle: Edit, head: Pixels) -> None:
    folder = edited_bundle(lambda manifest: manifest.update(head=SPEC))
    age = mapped(folder, "hadlock").analyze(head, pixel_size_mm=0.1).gestational_age
    assert age is None or age.method == "head circumference, Hadlock 1984"
    with pytest.raises(ValueError, match="chart must be one of who, intergrowth, hadlock"):
        fe.load(folder, chart="whoo")


def test_a_manifest_that_describes_a_head_needs_a_map(edited_bundle: Edit) -> None:
    bundle = ModelBundle.load(edited_bundle(lambda manifest: manifest.update(head=SPEC)))
    backend = Mapped(load_backend(bundle, "onnxruntime", 1, None))
    del backend.signature.outputs["head_logits"]
    with pytest.raises(BundleError, match="no map head_logits"):
        Model(bundle, backend)


def test_a_bundle_without_a_map_measures_nothing(edited_bundle: Edit, head: Pixels) -> None:
    folder = edited_bundle(lambda manifest: manifest.pop("head", None))
    assert fe.load(folder, "onnxruntime").analyze(head, pixel_size_mm=0.1).head is None


def test_a_wrong_head_in_a_manifest_is_refused(edited_bundle: Edit) -> None:
    folder = edited_bundle(lambda manifest: manifest.update(head={**SPEC, "most_border": 3}))
    with pytest.raises(BundleError, match=r"head\.most_border must be 0 to 1"):
        fe.load(folder, "onnxruntime")
