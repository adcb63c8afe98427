"""Zero-shot metrics, worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from training.evaluation.scores import drawn_scores
from training.evaluation.zero_shot import measure_recognition

LABELS = ("a", "b", "c", "d")
SCORED = ("a", "b", "c")
# Each row: the true class, and the classes from the nearest to the farthest.
ANSWERS = [
    ("a", "abcd"),
    ("a", "bacd"),
    ("b", "bacd"),
    ("c", "dabc"),
    ("c", "cabd"),
    ("c", "cbad"),
    ("d", "abcd"),
    (None, "abcd"),
]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    similarities = np.array([[-order.index(name) for name in LABELS] for _, order in ANSWERS])
    truth = [name for name, _ in ANSWERS]
    groups = [f"p{i}" for i in range(len(ANSWERS))]
    return measure_recognition(similarities / 10, LABELS, truth, groups, SCORED)


def test_images_of_unscored_classes_are_left_out(report: dict[str, Any]) -> None:
    assert report["images"] == 6
    assert report["patients"] == 6
    assert {name: c["images"] for name, c in report["classes"].items()} == {"a": 2, "b": 1, "c": 3}


def test_f1_by_hand(report: dict[str, Any]) -> None:
    # a: 1 hit, 1 missed, 0 false: 2/3. b: 1 hit, 0 missed, 1 false: 2/3. c: 2 hits, 1 missed: 4/5.
    f1 = {name: c["f1"] for name, c in report["classes"].items()}
    assert f1 == pytest.approx({"a": 2 / 3, "b": 2 / 3, "c": 4 / 5})
    assert report["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 4 / 5) / 3)
    recall = {name: c["recall"] for name, c in report["classes"].items()}
    assert recall == pytest.approx({"a": 1 / 2, "b": 1, "c": 2 / 3})


def test_accuracy_over_images_and_over_classes(report: dict[str, Any]) -> None:
    assert report["accuracy"] == pytest.approx(4 / 6)
    assert report["balanced_accuracy"] == pytest.approx((1 / 2 + 1 + 2 / 3) / 3)


def test_top_k_over_images_and_over_classes(report: dict[str, Any]) -> None:
    # The second image is right at the second place, the fourth at the last.
    assert report["top_2_accuracy"] == pytest.approx(5 / 6)
    assert report["top_3_accuracy"] == pytest.approx(5 / 6)
    assert report["balanced_top_2_accuracy"] == pytest.approx((1 + 1 + 2 / 3) / 3)


def test_an_answer_that_is_not_scored_counts_as_wrong_and_is_shown(report: dict[str, Any]) -> None:
    assert report["confusion"] == {
        "a": {"a": 1, "b": 1, "c": 0, "d": 0},
        "b": {"a": 0, "b": 1, "c": 0, "d": 0},
        "c": {"a": 0, "b": 0, "c": 2, "d": 1},
    }


def test_intervals_hold_their_figures(report: dict[str, Any]) -> None:
    for name in ("macro_f1", "accuracy"):
        low, high = report[f"{name}_interval"]
        assert 0 <= low < report[name] < high <= 1


def test_a_class_that_no_image_shows_is_not_averaged() -> None:
    # Given two images of a and b, of which b's is taken for the absent c
    scores = np.array([[3, 2, 1], [1, 2, 3]])
    report = measure_recognition(scores, list("abc"), ["a", "b"], ["1", "2"], list("abc"))
    assert report["scored"] == ["a", "b"]
    assert report["absent"] == ["c"]
    assert report["macro_f1"] == pytest.approx((1 + 0) / 2)


def test_one_patient_has_figures_but_no_intervals() -> None:
    report = measure_recognition(np.eye(2), list("ab"), ["a", "b"], ["1", "1"], list("ab"))
    assert report["macro_f1"] == 1
    assert report["macro_f1_interval"] is None
    assert report["classes"]["a"]["f1_interval"] is None


def test_drawn_figures_are_sklearns_with_sample_weights() -> None:
    rng = np.random.default_rng(0)
    right, found = rng.integers(0, 3, 50), rng.integers(0, 5, 50)
    weights = rng.integers(0, 4, 50).astype(float)
    figures = drawn_scores(right, found, [2, 0, 1])(weights)
    each = f1_score(right, found, labels=[2, 0, 1], average=None, sample_weight=weights)
    accuracy = accuracy_score(right, found, sample_weight=weights)
    assert figures == pytest.approx([each.mean(), accuracy, *each])


def test_a_class_that_was_not_drawn_has_no_f1() -> None:
    right, found = np.array([0, 1, 1]), np.array([0, 0, 1])
    figures = drawn_scores(right, found, [0, 1])(np.array([0.0, 1, 1]))
    # Of class 1 one is right and one missed
    np.testing.assert_allclose(figures, [2 / 3, 1 / 2, np.nan, 2 / 3])


def test_of_three_classes_the_third_guess_is_not_worth_a_figure() -> None:
    report = measure_recognition(
        np.eye(3), list("abc"), ["a", "b", "c"], ["1", "2", "3"], list("abc")
    )
    assert report["macro_f1"] == 1
    assert "top_2_accuracy" in report
    assert "top_3_accuracy" not in report


@pytest.mark.parametrize(
    ("labels", "truth", "told"),
    [("abx", ["a", "b", "c"], "prompts lack the classes c"), ("abc", [None] * 3, "no image")],
)
def test_what_cannot_be_scored_is_refused(labels: str, truth: list[str | None], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        measure_recognition(np.eye(3), labels, truth, ["1", "2", "3"], list("abc"))
