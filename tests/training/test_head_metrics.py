"""Figures of a head against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score

from calibration.confidence import expected_calibration_error
from training.head_metrics import measure_head, weighted_auroc


def guesses(classes: int, number: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Better than chance, of patients with three clips each; with ties."""
    rng = np.random.default_rng(classes)
    truth = rng.integers(0, classes, number)
    logits = rng.normal(0, 1, (number, classes)) + 1.2 * np.eye(classes)[truth]
    odds = np.exp(logits).round(1) + 0.1
    return odds / odds.sum(axis=1, keepdims=True), truth, np.arange(number).astype(str)


def test_of_two_classes_all_is_as_scikit_learn_has_it() -> None:
    scores, truth, patients = guesses(2)
    report = measure_head(scores, truth, patients, ["no", "yes"], 0.3)
    found = (scores[:, 1] >= 0.3).astype(int)
    (tn, fp), (fn, tp) = confusion_matrix(truth, found)
    assert report["auroc"] == pytest.approx(roc_auc_score(truth, scores[:, 1]))
    assert report["macro_f1"] == pytest.approx(f1_score(truth, found, average="macro"))
    assert report["sensitivity"] == pytest.approx(tp / (tp + fn))
    assert report["specificity"] == pytest.approx(tn / (tn + fp))
    assert report["classes"]["no"]["sensitivity"] == report["specificity"]
    right = scores.argmax(axis=1) == truth
    assert report["ece"] == pytest.approx(expected_calibration_error(scores.max(axis=1), right))
    for name in ("auroc", "macro_f1", "sensitivity", "specificity", "ece"):
        low, high = report[f"{name}_interval"]
        assert low < high
    assert report["auroc_interval"][0] < report["auroc"] < report["auroc_interval"][1]


def test_of_several_classes_each_is_told_from_the_rest() -> None:
    scores, truth, patients = guesses(4)
    report = measure_head(scores, truth, patients, list("abcd"), None)
    found = scores.argmax(axis=1)
    assert report["auroc"] == pytest.approx(roc_auc_score(truth, scores, multi_class="ovr"))
    assert report["macro_f1"] == pytest.approx(f1_score(truth, found, average="macro"))
    for index, name in enumerate("abcd"):
        (tn, fp), (fn, tp) = confusion_matrix(truth == index, found == index)
        assert report["classes"][name]["sensitivity"] == pytest.approx(tp / (tp + fn))
        assert report["classes"][name]["specificity"] == pytest.approx(tn / (tn + fp))
    assert "sensitivity" not in report


def test_clips_of_one_patient_are_drawn_together() -> None:
    scores, truth, patients = guesses(2)
    alone = measure_head(scores, truth, patients, ["no", "yes"], None)["auroc_interval"]
    # Given the same clips, each three times over in one patient
    thrice = [np.repeat(each, 3, axis=0) for each in (scores, truth, patients)]
    together = measure_head(*thrice, ["no", "yes"], None)["auroc_interval"]
    assert together == pytest.approx(alone)


def test_what_cannot_be_told_is_none() -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8]])
    report = measure_head(scores, np.zeros(2, int), np.array(["p", "p"]), ["no", "yes"], None)
    assert (report["auroc"], report["sensitivity"], report["specificity"]) == (None, None, 0.5)
    assert report["specificity_interval"] is None  # one patient says nothing of others


def test_weights_count_clips() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 9, 50).astype(float), rng.random(50) < 0.4
    weights = rng.integers(0, 4, 50).astype(float)
    expected = roc_auc_score(positive, scores, sample_weight=weights)
    assert weighted_auroc(positive, scores)(weights) == pytest.approx(expected)
    assert np.isnan(weighted_auroc(positive, scores)(positive.astype(float)))
