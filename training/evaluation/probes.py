"""Linear probes: what a logistic regression reads from frozen embeddings."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from training.evaluation.encoders import Embeddings, NotMeasurableError
from training.evaluation.intervals import patient_bootstrap
from training.evaluation.scores import drawn_scores, score

__all__ = ["Samples", "check_splits", "fit_probe", "measure_probe"]

_STRENGTHS = tuple(10.0**power for power in range(-5, 2))
_FALLBACK = 1e-2
_FOLDS = 5
_STEPS = 2000
_SEED = 0


@dataclass(frozen=True, slots=True)
class Samples:
    """Embeddings with their labels and patients.

    Attributes:
        features: `(N, D)`.
        labels: `(N,)`.
        groups: the patient of each, `(N,)`.
    """

    features: Embeddings
    labels: NDArray[np.str_]
    groups: NDArray[np.str_]

    def __post_init__(self) -> None:
        if not len(self.features) == len(self.labels) == len(self.groups):
            raise ValueError(
                f"features, labels and groups must be of one length, not {len(self.features)}, "
                f"{len(self.labels)} and {len(self.groups)}"
            )


def fit_probe(train: Samples) -> tuple[Pipeline, dict[str, Any]]:
    """Fit a probe, its regularisation chosen by cross-validation over patients.

    Standardised features, multinomial logistic regression with an L2 penalty, classes weighted
    alike, the inverse strength C from 1e-5 to 10 by macro-F1. Where a class has the images of
    one patient alone, no fold can hold it out, and C is 0.01.

    Returns:
        The fitted probe, and how it was chosen.
    """
    classes = np.unique(train.labels)
    patients = {str(c): len(np.unique(train.groups[train.labels == c])) for c in classes}
    folds = min(_FOLDS, *patients.values())
    if folds < 2:
        probe = _probe(_FALLBACK)
        _quietly(lambda: probe.fit(train.features, train.labels))
        return probe, {"c": _FALLBACK, "chosen": "fixed: a class has one training patient"}
    search = GridSearchCV(
        _probe(_FALLBACK),
        {"logisticregression__C": list(_STRENGTHS)},
        scoring="f1_macro",
        cv=StratifiedGroupKFold(folds, shuffle=True, random_state=_SEED),
    )
    _quietly(lambda: search.fit(train.features, train.labels, groups=train.groups))
    best = search.best_estimator_
    return best, {
        "c": float(search.best_params_["logisticregression__C"]),
        "chosen": f"{folds}-fold cross-validation over training patients, by macro-F1",
        "cross_validated_macro_f1": float(search.best_score_),
        "converged": bool((best[-1].n_iter_ < _STEPS).all()),
    }


def check_splits(train: Samples, test: Samples) -> None:
    """What must hold before anything is fitted.

    Raises:
        NotMeasurableError: there are fewer than two classes to learn, nothing to score, or the
            test holds a class that training lacks.
        ValueError: a patient is in both.
    """
    if not len(test.labels):
        raise NotMeasurableError("there are no test images to score a probe on")
    if both := set(train.groups) & set(test.groups):
        raise ValueError(f"{len(both)} patients are in both splits, the first is {min(both)}")
    if unknown := set(test.labels) - set(train.labels):
        raise NotMeasurableError(
            f"the test split has classes without training images: {', '.join(sorted(unknown))}"
        )
    if len(classes := np.unique(train.labels)) < 2:
        raise NotMeasurableError(
            f"a probe needs at least two classes among the training images, not {len(classes)}"
        )


def measure_probe(train: Samples, test: Samples) -> dict[str, Any]:
    """Fit on the training samples alone, score on the others.

    Returns:
        Macro-F1 and accuracy, for two classes also AUROC (of the second in alphabetical order),
        with 95 % intervals by patient; F1 of each class of the test, over which is averaged; the
        regularisation.

    Raises:
        NotMeasurableError, ValueError: as `check_splits`.
    """
    check_splits(train, test)
    probe, chosen = fit_probe(train)
    classes = [str(name) for name in probe.classes_]
    right = np.searchsorted(probe.classes_, test.labels)
    found = np.searchsorted(probe.classes_, probe.predict(test.features))
    scored = np.unique(right).tolist()
    drawn = drawn_scores(right, found, scored)
    once = score(right, found, scored)
    values = [once.macro_f1, once.accuracy]
    figures, names = drawn, ["macro_f1", "accuracy"]
    if len(classes) == 2:
        second = probe.predict_proba(test.features)[:, 1]
        values.append(_auroc(right == 1, second, np.ones(len(right))))
        names.append("auroc")

        def figures(weights: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.array([*drawn(weights)[:2], _auroc(right == 1, second, weights)])

    intervals = patient_bootstrap(figures, test.groups)
    report: dict[str, Any] = {
        "classes": classes,
        **_counts("train", train),
        **_counts("test", test),
    }
    for name, value, interval in zip(names, values, intervals, strict=False):
        report[name] = None if np.isnan(value) else value
        report[f"{name}_interval"] = interval
    return {
        **report,
        "f1": dict(zip([classes[i] for i in scored], map(float, once.f1), strict=True)),
        "absent": [name for i, name in enumerate(classes) if i not in scored],
        "regularisation": chosen,
    }


def _probe(strength: float) -> Pipeline:
    return make_pipeline(
        StandardScaler(),
        LogisticRegression(C=strength, class_weight="balanced", max_iter=_STEPS),
    )


def _quietly(fit: Any) -> None:
    """Run a fit; whether the chosen one converged is reported, the others do not matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit()


def _auroc(
    positive: NDArray[np.bool_], scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> float:
    """The area, or NaN where one of the classes was not drawn."""
    if not weights[positive].sum() or not weights[~positive].sum():
        return float("nan")
    return float(roc_auc_score(positive, scores, sample_weight=weights))


def _counts(name: str, samples: Samples) -> dict[str, Any]:
    return {
        f"{name}_images": len(samples.labels),
        f"{name}_patients": len(np.unique(samples.groups)),
    }
