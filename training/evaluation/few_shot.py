"""Few-shot curves: how much a handful of labelled images per class is worth."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from training.evaluation.probes import Samples, check_splits

__all__ = ["SHOTS", "draw_shots", "few_shot_curve"]

SHOTS = (1, 2, 4, 8, 16, 32)
"""Labelled images per class."""

_DRAWS = 10
# Unit embeddings differ by small numbers, so the penalty must be weak; with so few images there
# is nothing to choose it by.
_STRENGTH = 100.0
_STEPS = 5000


def draw_shots(labels: NDArray[np.str_], shots: int, seed: int) -> NDArray[np.int64]:
    """Rows of `shots` images of each class, drawn without replacement.

    Raises:
        ValueError: a class has fewer images.
    """
    rng = np.random.default_rng([seed, shots])
    rows = []
    for name in np.unique(labels):
        found = np.flatnonzero(labels == name)
        if len(found) < shots:
            raise ValueError(f"{name} has {len(found)} training images, fewer than {shots}")
        rows.append(rng.choice(found, shots, replace=False))
    return np.concatenate(rows)


def few_shot_curve(train: Samples, test: Samples) -> dict[str, Any]:
    """Macro-F1 on the test samples of probes fitted on 1, 2, 4, 8, 16 and 32 images per class.

    Ten draws each. Logistic regression on the embeddings as they are, with a fixed penalty
    (C = 100).

    Returns:
        For every number of shots the mean, standard deviation, lowest and highest macro-F1 over
        the classes of the test; and the numbers for which a class has too few training images.

    Raises:
        NotMeasurableError, ValueError: as `training.evaluation.probes.check_splits`.
    """
    check_splits(train, test)
    scarcest = min(int((train.labels == name).sum()) for name in np.unique(train.labels))
    classes = [str(name) for name in np.unique(test.labels)]
    points = []
    for shots in SHOTS:
        if shots > scarcest:
            break
        values = []
        for seed in range(_DRAWS):
            rows = draw_shots(train.labels, shots, seed)
            probe = LogisticRegression(C=_STRENGTH, max_iter=_STEPS)
            probe.fit(train.features[rows], train.labels[rows])
            found = probe.predict(test.features)
            score = f1_score(test.labels, found, labels=classes, average="macro", zero_division=0)
            values.append(float(score))
        points.append(
            {
                "shots": shots,
                "macro_f1_mean": float(np.mean(values)),
                "macro_f1_std": float(np.std(values, ddof=1)),
                "macro_f1_min": min(values),
                "macro_f1_max": max(values),
            }
        )
    return {
        "draws": _DRAWS,
        "classes": classes,
        "test_images": len(test.labels),
        "points": points,
        "too_few_images_for": [shots for shots in SHOTS if shots > scarcest],
    }
