"""Rounding that minds what the inputs are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from calibration.rounding import patches, round_weights


def test_errors_cancel_on_inputs_that_go_together() -> None:
    # Both inputs are always equal, so only the sum of the weights matters: 0.4 + 0.4 is one step.
    rounded = round_weights(np.array([[0.4, 0.4]]), np.ones(1), np.ones((2, 2)), 127)
    assert rounded.dtype == np.int8
    assert rounded.sum() == 1


def test_independent_inputs_are_rounded_to_the_nearest_step() -> None:
    weights = np.array([[1.4, -2.6, 0.2], [30.0, 0.6, -0.4]])
    rounded = round_weights(weights, np.array([1.0, 0.5]), np.diag([3.0, 1.0, 2.0]), 64)
    np.testing.assert_array_equal(rounded, [[1, -3, 0], [60, 1, -1]])


def test_integers_stay_within_the_limit() -> None:
    rounded = round_weights(np.array([[5.0, -9.0]]), np.array([0.1]), np.eye(2), 64)
    np.testing.assert_array_equal(rounded, [[50, -64]])


def test_the_output_is_nearer_than_by_the_nearest_step() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(150, 20)) @ rng.normal(size=(20, 2000))  # more than one block
    weights = rng.normal(size=(8, 150))
    scale = np.abs(weights).max(axis=1) / 64
    nearest = np.round(weights / scale[:, None])
    fitted = round_weights(weights, scale, np.cov(inputs), 64)
    errors = [
        ((weights - integers * scale[:, None]) @ inputs).var() for integers in (nearest, fitted)
    ]
    assert errors[1] < 0.1 * errors[0]


def test_windows_are_those_of_a_convolution() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 7, 9)).astype(np.float32)
    weights = rng.normal(size=(3, 2, 3, 5)).astype(np.float32)
    padded = torch.nn.functional.pad(torch.from_numpy(image)[None], (0, 2, 1, 0))
    expected = torch.nn.functional.conv2d(padded, torch.from_numpy(weights), stride=(2, 1))
    seen = patches(image, (3, 5), [1, 0, 0, 2], [2, 1])
    found = (weights.reshape(3, -1) @ seen).reshape(expected.shape[1:])
    np.testing.assert_allclose(found, expected[0].numpy(), atol=1e-5)


def test_a_covariance_of_rounding_errors_leaves_each_to_its_nearest_step() -> None:
    # Given inputs that are all but constant: their covariance is noise, and not positive definite
    noise = np.random.default_rng(3).normal(size=(6, 6)) * 1e-3
    covariance = noise + noise.T
    assert np.linalg.eigvalsh(covariance + 0.01 * np.eye(6) * 1e-3).min() < 0
    weights, scale = np.random.default_rng(4).normal(size=(5, 6)), np.full(5, 0.1)
    integers = round_weights(weights, scale, covariance, 127)
    assert np.abs(integers * 0.1 - weights).max() < 0.1


def test_inputs_that_are_not_finite_are_told() -> None:
    with pytest.raises(ValueError, match="not finite on the calibration frames"):
        round_weights(np.ones((1, 2)), np.ones(1), np.full((2, 2), np.nan), 127)
