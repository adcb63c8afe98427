from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax

from fetalclip_edge.tasks.zero_shot import ZeroShotClassifier

LABELS = ("femur", "brain", "other")


def unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / norms).astype(np.float32)


def test_probabilities_by_hand() -> None:
    # Cosines 1, 0 and -1 at temperature 0.5 are exp(2), exp(0) and exp(-2) before the sum.
    prompts = np.array([[1, 0], [0, 1], [-1, 0]], dtype=np.float32)
    found = ZeroShotClassifier(LABELS, prompts, 0.5)(np.array([1, 0], dtype=np.float32))
    assert found.label == "femur"
    assert found.scores == pytest.approx(
        {"femur": 0.8668133, "brain": 0.1173104, "other": 0.0158762}, abs=1e-6
    )


@given(
    vectors=arrays(np.float64, (4, 8), elements=st.floats(0.1, 1)),
    signs=arrays(np.int8, (4, 8), elements=st.sampled_from([-1, 1])),
    temperature=st.floats(0.001, 10),
)
def test_probabilities_are_the_softmax_of_cosines(
    vectors: np.ndarray, signs: np.ndarray, temperature: float
) -> None:
    vectors = unit(vectors * signs)
    found = ZeroShotClassifier(LABELS, vectors[:3], temperature)(vectors[3])
    cosines = vectors[:3] @ vectors[3]
    expected = softmax(cosines.astype(np.float64) / temperature)
    assert list(found.scores) == list(LABELS)
    np.testing.assert_allclose(list(found.scores.values()), expected, rtol=1e-4, atol=1e-12)
    assert sum(found.scores.values()) == pytest.approx(1, abs=1e-9)
    assert found.scores[found.label] == max(found.scores.values())


def test_a_tiny_temperature_overflows_nothing() -> None:
    prompts = np.array([[1, 0], [0, 1], [-1, 0]], dtype=np.float32)
    found = ZeroShotClassifier(LABELS, prompts, 1e-6)(np.array([0, 1], dtype=np.float32))
    assert found.scores == {"femur": 0, "brain": 1, "other": 0}
