"""Linear probes and few-shot curves on toy embeddings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from training.evaluation.encoders import NotMeasurableError
from training.evaluation.few_shot import draw_shots, few_shot_curve
from training.evaluation.probes import Samples, fit_probe, measure_probe


def toy(classes: str, each: int, seed: int, spread: float = 0.1, prefix: str = "p") -> Samples:
    """Points around one axis a class, on the unit sphere; two images a patient."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(list(classes), each)
    axes = np.eye(6)[[classes.index(name) for name in labels]]
    features = axes + rng.normal(0, spread, axes.shape)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    groups = np.array([f"{prefix}{i // 2}" for i in range(len(labels))])
    return Samples(features.astype(np.float32), labels, groups)


def test_separable_classes_are_told_apart() -> None:
    report = measure_probe(toy("abc", 20, 0), toy("abc", 10, 1, prefix="q"))
    assert report["macro_f1"] == report["accuracy"] == 1
    assert report["macro_f1_interval"][1] == 1
    assert report["f1"] == {"a": 1, "b": 1, "c": 1}
    assert report["train_images"] == 60
    assert report["test_patients"] == 15
    assert "auroc" not in report


def test_classes_that_the_test_lacks_are_not_averaged() -> None:
    train, test = toy("abc", 6, 0), toy("ab", 6, 1, prefix="q")
    report = measure_probe(train, test)
    assert report["macro_f1"] == 1
    assert report["absent"] == ["c"]
    assert report["f1"] == {"a": 1, "b": 1}
    assert few_shot_curve(train, test)["points"][-1]["macro_f1_mean"] > 0.9


def test_auroc_needs_both_classes_in_the_test() -> None:
    report = measure_probe(toy("ab", 6, 0), toy("a", 6, 1, prefix="q"))
    assert (report["auroc"], report["auroc_interval"]) == (None, None)
    assert report["accuracy"] == 1


@pytest.fixture(scope="module")
def blurred() -> tuple[Samples, Samples, dict[str, Any]]:
    """Two classes that lie over one another in part, and the probe's report."""
    train, test = toy("ab", 30, 0, 0.8), toy("ab", 30, 1, 0.8, prefix="q")
    return train, test, measure_probe(train, test)


def test_auroc_of_two_classes_is_of_the_second(
    blurred: tuple[Samples, Samples, dict[str, Any]],
) -> None:
    train, test, report = blurred
    probe, _ = fit_probe(train)
    expected = roc_auc_score(test.labels == "b", probe.decision_function(test.features))
    assert 0.6 < expected < 1
    assert report["auroc"] == pytest.approx(expected)
    low, high = report["auroc_interval"]
    assert low < report["auroc"] < high


def test_the_test_labels_choose_nothing(
    blurred: tuple[Samples, Samples, dict[str, Any]],
) -> None:
    # Given the same training images, and test labels that are all swapped
    train, test, report = blurred
    swapped = measure_probe(train, replace(test, labels=test.labels[::-1].copy()))
    # Then the same probe was chosen, and is wrong where it was right
    assert swapped["regularisation"] == report["regularisation"]
    assert swapped["accuracy"] == pytest.approx(1 - report["accuracy"])


def test_folds_keep_patients_whole() -> None:
    # Given labels that are noise, but patients whose images are all alike: only a fold that tears
    # a patient apart could predict them
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(size=(60, 40)), 4, axis=0).astype(np.float32)
    labels = np.repeat(rng.permutation(["a", "b"] * 30), 4)
    groups = np.repeat([f"p{i}" for i in range(60)], 4)
    _, chosen = fit_probe(Samples(features, labels, groups))
    assert chosen["cross_validated_macro_f1"] < 0.7


def test_one_patient_of_a_class_leaves_nothing_to_choose_by() -> None:
    train = toy("ab", 6, 0)
    alone = replace(train, groups=np.where(train.labels == "b", "only", train.groups))
    _, chosen = fit_probe(alone)
    assert chosen["c"] == 0.01
    assert "one training patient" in chosen["chosen"]


def test_a_patient_in_both_splits_is_refused() -> None:
    with pytest.raises(ValueError, match="patients are in both splits, the first is p0"):
        measure_probe(toy("ab", 6, 0), toy("ab", 6, 1))


@pytest.mark.parametrize(
    ("train", "test", "told"),
    [
        ("a", "a", "at least two classes"),
        ("ab", "abc", "classes without training images: c"),
        ("ab", "", "no test images"),
    ],
)
def test_what_no_probe_can_do(train: str, test: str, told: str) -> None:
    for measure in (measure_probe, few_shot_curve):
        with pytest.raises(NotMeasurableError, match=told):
            measure(toy(train, 6, 0), toy(test, 6, 1, prefix="q"))


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="one length, not 2, 1 and 2"):
        Samples(np.zeros((2, 3), np.float32), np.array(["a"]), np.array(["p", "q"]))


def test_shots_are_drawn_of_every_class_without_repeats() -> None:
    labels = np.array(list("abababbbbb"))
    for seed in range(20):
        rows = draw_shots(labels, 3, seed)
        assert sorted(labels[rows]) == ["a", "a", "a", "b", "b", "b"]
        assert len(set(rows.tolist())) == 6
    assert draw_shots(labels, 3, 0).tolist() != draw_shots(labels, 3, 1).tolist()
    with pytest.raises(ValueError, match="a has 3 training images, fewer than 4"):
        draw_shots(labels, 4, 0)


def test_the_curve_rises_with_shots_and_stops_where_images_run_out() -> None:
    curve = few_shot_curve(toy("abc", 20, 0, 0.5), toy("abc", 30, 1, 0.5, prefix="q"))
    assert [point["shots"] for point in curve["points"]] == [1, 2, 4, 8, 16]
    assert curve["too_few_images_for"] == [32]
    first, last = curve["points"][0], curve["points"][-1]
    assert last["macro_f1_mean"] > first["macro_f1_mean"] + 0.1
    assert last["macro_f1_std"] < first["macro_f1_std"]
    assert first["macro_f1_min"] < first["macro_f1_mean"] < first["macro_f1_max"]
