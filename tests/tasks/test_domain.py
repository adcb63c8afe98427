"""Pictures that are no fetal ultrasound get no answer."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from safetensors.numpy import load, save
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_sample_images
from sklearn.metrics import roc_auc_score

import fetalclip_edge as fe
from calibration.domain import Domain, DomainModel, distance_threshold, fit_domain
from fetalclip_edge import Model, StreamState
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BundleError
from fetalclip_edge.results import Frame
from fetalclip_edge.sources.opening import open_source
from fetalclip_edge.tasks.domain import DomainCheck


@pytest.fixture(scope="module")
def model() -> Model:
    return fe.load()


@pytest.fixture(scope="module")
def cine() -> Path:
    """A cine of an adult heart, 120 frames of real ultrasound."""
    spec = find_spec("pydicom_data") or find_spec("data_store")
    assert spec is not None
    [found] = Path(next(iter(spec.submodule_search_locations or []))).rglob(
        "color3d_jpeg_baseline.dcm"
    )
    return found


def domain_of(seed: int) -> tuple[DomainModel, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    kinds = ["a"] * 60 + ["b"] * 40
    offsets = {"a": np.zeros(6), "b": np.full(6, 4.0)}
    mixing = rng.normal(size=(6, 6))
    embeddings = np.stack([offsets[kind] + mixing @ rng.normal(size=6) for kind in kinds])
    return fit_domain(embeddings.astype(np.float32), kinds), embeddings, kinds


def test_distance_is_that_of_scikit_learn_to_the_nearest_kind() -> None:
    # Given embeddings of two kinds with one covariance
    domain, embeddings, kinds = domain_of(seed=0)
    means = {k: embeddings[[kind == k for kind in kinds]].mean(axis=0) for k in "ab"}
    residuals = embeddings - np.stack([means[kind] for kind in kinds])
    reference = LedoitWolf(assume_centered=True).fit(residuals)
    probes = np.random.default_rng(1).normal(2, 3, size=(20, 6)).astype(np.float32)
    # When distances are taken
    distances = domain.distances(probes)
    # Then scikit-learn's squared Mahalanobis distance to the nearer mean agrees
    expected = np.sqrt(np.minimum(*(reference.mahalanobis(probes - means[kind]) for kind in "ab")))
    np.testing.assert_allclose(distances, expected, rtol=1e-4)


def test_whitening_survives_the_file_as_it_was() -> None:
    # safetensors writes memory as it lies: an array in Fortran order came back transposed.
    domain, _, _ = domain_of(seed=2)
    stored = load(save({"means": domain.means, "whitening": domain.whitening}))
    np.testing.assert_array_equal(stored["whitening"], domain.whitening)
    assert not np.allclose(domain.whitening, domain.whitening.T)


def test_threshold_takes_in_the_wanted_share() -> None:
    distances = np.arange(1, 101, dtype=np.float32)
    assert distance_threshold(distances, 0.95) == 96
    with pytest.raises(ValueError, match="acceptance"):
        distance_threshold(distances, 1.5)
    with pytest.raises(ValueError, match="empty"):
        distance_threshold(distances[:0], 0.95)


def test_device_agrees_with_the_workshop(model: Model) -> None:
    # Given the shipped tensors, read by both
    tensors = model.bundle.tensors("domain.safetensors")
    device = DomainCheck(model.bundle)
    assert set(device.sizes) == {"embedding", "domain_features"}
    workshop = Domain(
        {n: DomainModel(tensors[f"{n}.means"], tensors[f"{n}.whitening"]) for n in device.sizes}
    )
    rng = np.random.default_rng(0)
    outputs = {
        name: rng.normal(scale=size**-0.5, size=(8, size)).astype(np.float32)
        for name, size in device.sizes.items()
    }
    # Then their distances are the same
    found = [device.distance({n: rows[i : i + 1] for n, rows in outputs.items()}) for i in range(8)]
    limit = model.bundle.thresholds["domain_distance"]
    np.testing.assert_allclose(found, workshop.distances(outputs) / limit, rtol=1e-3)


TENSORS = {
    "embedding.means": np.zeros((2, 4), np.float32),
    "embedding.whitening": np.eye(4, dtype=np.float32),
    "domain_features.means": np.array([[0, 0, 0], [5, 0, 0]], np.float32),
    "domain_features.whitening": 2 * np.eye(3, dtype=np.float32),
}


class Tensors:
    """As much of a bundle as the check reads."""

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        self.thresholds = {"domain_distance": 9.0}
        self._tensors = tensors

    def tensors(self, file: str) -> dict[str, np.ndarray]:
        assert file == "domain.safetensors"
        return self._tensors


def test_distances_of_all_outputs_add_up() -> None:
    check = DomainCheck(cast(ModelBundle, Tensors(TENSORS)))
    near = {
        "embedding": np.array([[3, 4, 0, 0]], np.float32),
        "domain_features": np.array([[5, 0, 2]], np.float32),
    }
    assert check.distance(near) == (5 + 2 * 2) / 9
    assert check.objection(check.distance(near)) is None
    far = {**near, "domain_features": np.array([[5, 0, 2.5]], np.float32)}
    assert check.objection(check.distance(far)) == (
        "unlike the fetal ultrasound the model knows (1.11 times as far as accepted)"
    )


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({}, "must hold 'embedding.means'"),
        ({"means": np.zeros((2, 4), np.float32)}, "must hold 'embedding.means'"),
        ({**TENSORS, "embedding.means": np.zeros((0, 4), np.float32)}, "rows and columns"),
        ({**TENSORS, "embedding.means": np.zeros(4, np.float32)}, "rows and columns"),
        (
            {k: v for k, v in TENSORS.items() if k != "domain_features.whitening"},
            r"'domain_features.whitening' of shape \(3, 3\)",
        ),
        (
            {**TENSORS, "embedding.whitening": np.eye(3, dtype=np.float32)},
            r"'embedding.whitening' of shape \(4, 4\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tensors: dict[str, np.ndarray], told: str) -> None:
    with pytest.raises(BundleError, match=told):
        DomainCheck(cast(ModelBundle, Tensors(tensors)))


@pytest.mark.parametrize("index", [0, 1])
def test_photographs_get_no_answer(model: Model, index: int) -> None:
    # Given twenty pieces of a photograph
    photograph = load_sample_images().images[index]
    pieces = [
        photograph[top : top + 200, left : left + 200]
        for top in range(0, 227, 75)
        for left in range(0, 440, 100)
    ]
    # When they are analysed
    results = [model.analyze(piece) for piece in pieces]
    # Then the model abstains, and says why
    assert {result.state for result in results} == {StreamState.OUT_OF_DOMAIN}
    assert {result.plane.label for result in results} == {"other"}
    assert all(result.reason for result in results)


def test_noise_gets_no_answer(model: Model) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (480, 640), dtype=np.uint8)
    assert model.analyze(noise).state == StreamState.OUT_OF_DOMAIN


def test_an_adult_heart_gets_no_answer(model: Model, cine: Path) -> None:
    with fe.stream(cine, model=model) as live:
        states = [result.state for result in live]
    assert len(states) == 120
    assert sum(state == StreamState.LIVE for state in states) <= 2


@pytest.mark.data
def test_fetal_planes_are_told_from_other_pictures(
    model: Model, cine: Path, data_root: Path
) -> None:
    # Given every fourth test image of the four planes, and pictures of anything else
    with (data_root / "planes" / "labels.csv").open(newline="") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["split"] == "test" and row["plane"] not in ("Maternal cervix", "Other")
        ][::4]
    check = DomainCheck(model.bundle)

    def distance(frame: Frame) -> float:
        inputs = model.preprocessor(frame.image, color=frame.color, region=frame.region)
        return check.distance(model.backend.encode(inputs))

    with open_source([data_root / "planes" / row["file"] for row in rows]) as pictures:
        fetal = [distance(frame) for frame in pictures]
    with open_source(cine) as frames:
        others = [distance(frame) for frame in frames]
    # Then the distance tells them apart
    truth = [0] * len(fetal) + [1] * len(others)
    assert roc_auc_score(truth, fetal + others) >= 0.97
    # And most fetal frames are answered
    assert np.mean(np.array(fetal) <= 1) >= 0.85
