"""The domain model, against Mahalanobis distances by scikit-learn and SciPy, and its threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf

from calibration.domain import Domain, DomainModel, distance_threshold, fit_domain


def clouds() -> tuple[NDArray[np.float32], list[str]]:
    """Three kinds, stretched along the same directions."""
    rng = np.random.default_rng(0)
    stretch = rng.normal(size=(6, 6))
    centres = 8 * rng.normal(size=(3, 6))
    kinds = ["brain"] * 60 + ["femur"] * 30 + ["other"] * 5
    rows = np.concatenate(
        [c + rng.normal(size=(n, 6)) @ stretch for c, n in zip(centres, (60, 30, 5), strict=True)]
    )
    order = rng.permutation(len(rows))
    return rows[order].astype(np.float32), [kinds[i] for i in order]


def test_distances_are_those_to_the_nearest_kind_under_a_shared_covariance() -> None:
    rows, kinds = clouds()
    model = fit_domain(rows, kinds)
    own = {k: rows[[i for i, kind in enumerate(kinds) if kind == k]].mean(axis=0) for k in kinds}
    residuals = rows.astype(np.float64) - np.stack([own[kind] for kind in kinds])
    precision = LedoitWolf(assume_centered=True).fit(residuals).precision_
    strangers = np.random.default_rng(1).normal(size=(20, 6), scale=10).astype(np.float32)
    expected = [
        min(mahalanobis(row, mean, precision) for mean in own.values()) for row in strangers
    ]
    np.testing.assert_allclose(model.distances(strangers), expected, rtol=1e-3)


def test_whitened_residuals_have_unit_covariance_where_images_abound() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(20_000, 4)) @ rng.normal(size=(4, 4))).astype(np.float32)
    model = fit_domain(rows, ["brain"] * len(rows))
    white = (rows - model.means[0]) @ model.whitening.T
    np.testing.assert_allclose(np.cov(white.T), np.eye(4), atol=0.05)


def test_kinds_may_be_any_labels_and_each_gets_its_mean() -> None:
    rows = np.array([[0, 0], [2, 0], [10, 10], [10, 12]], np.float32)
    model = fit_domain(rows, [("brain", None), ("brain", None), ("femur", "x"), ("femur", "x")])
    assert sorted(model.means.tolist()) == [[1, 0], [10, 11]]
    assert model.means.dtype == model.whitening.dtype == np.float32
    # safetensors writes memory as it lies.
    assert model.whitening.flags.c_contiguous


def test_a_plain_model_measures_plain_distances() -> None:
    model = DomainModel(np.array([[0, 0], [10, 0]], np.float32), np.eye(2, dtype=np.float32))
    assert model.distances(np.array([[3, 4], [10, 2]], np.float32)).tolist() == [5, 2]


def test_parts_are_scaled_and_added_up() -> None:
    near = DomainModel(np.array([[0, 0]], np.float32), np.eye(2, dtype=np.float32))
    far = DomainModel(np.array([[1], [9]], np.float32), np.eye(1, dtype=np.float32))
    domain = Domain({"embedding": near.scaled(5), "domain_features": far.scaled(2)})
    outputs = {
        "embedding": np.array([[3, 4], [0, 0]], np.float32),
        "domain_features": np.array([[1], [5]], np.float32),
    }
    assert domain.distances(outputs).tolist() == [1, 2]
    tensors = domain.tensors()
    assert tensors["embedding.means"].tolist() == [[0, 0]]
    assert tensors["domain_features.whitening"].tolist() == [[0.5]]


def test_fewer_images_than_dimensions_still_give_a_model() -> None:
    rows = np.random.default_rng(0).normal(size=(10, 32)).astype(np.float32)
    model = fit_domain(rows, ["brain"] * 5 + ["femur"] * 5)
    assert np.isfinite(model.distances(rows)).all()


def test_the_threshold_is_one_of_the_distances() -> None:
    distances = np.array([5.0, 1.0, 4.0, 2.0, 3.0], np.float32)
    assert distance_threshold(distances, 0.5) == 3.0
    assert distance_threshold(distances, 0.75) == 4.0
    assert distance_threshold(distances, 0.95) == 5.0


@given(
    st.lists(st.floats(0, 100, width=32), min_size=1, max_size=80, unique=True),
    st.floats(0.01, 0.99),
)
def test_at_least_the_share_is_accepted_and_hardly_more(values: list[float], share: float) -> None:
    distances = np.array(values, np.float32)
    accepted = int((distances <= distance_threshold(distances, share)).sum())
    assert share * len(values) - 1e-6 <= accepted < share * len(values) + 2


@pytest.mark.parametrize("acceptance", [0.0, 1.0, -1.0, float("nan")])
def test_an_acceptance_that_is_no_share_is_refused(acceptance: float) -> None:
    with pytest.raises(ValueError, match="acceptance"):
        distance_threshold(np.ones(3, np.float32), acceptance)


def test_a_threshold_needs_distances() -> None:
    with pytest.raises(ValueError, match="distances must not be empty"):
        distance_threshold(np.ones(0, np.float32), 0.9)
