"""What the manifest and the model card say of a model's quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from calibration.confidence import expected_calibration_error
from export.fitting import Fitted
from export.graph import OUTPUT
from export.measure import Encoded, accuracy
from export.source import Source
from fetalclip_edge.results import BRAIN_PLANES, PLANES
from training.datasets import Example
from training.zero_shot import SCORED_PLANES

__all__ = ["count_withheld", "measure_confidence", "measure_precisions", "withheld_shares"]

Embeddings = NDArray[np.float32]


def measure_precisions(
    encoded: Mapping[str, Encoded], examples: Sequence[Example], release: Source
) -> dict[str, Any]:
    """Accuracy of each precision on the same images, and how near INT8 is to FP32.

    Args:
        encoded: "fp32" and, where there is one, "int8" -> outputs of the graph by name,
            `(N, length)`.
        examples: what the images show.
        release: the trained model, for its prompts.
    """
    metrics: dict[str, Any] = {
        precision: accuracy(found[OUTPUT], examples, release.embeddings)
        for precision, found in encoded.items()
    }
    if "int8" not in encoded:
        return metrics
    cosines = (encoded["fp32"][OUTPUT] * encoded["int8"][OUTPUT]).sum(axis=1)
    metrics["int8"] |= {
        "cosine_with_fp32_mean": float(cosines.mean()),
        "cosine_with_fp32_p01": float(np.quantile(cosines, 0.01)),
    }
    return metrics


def measure_confidence(
    embeddings: Embeddings, examples: Sequence[Example], release: Source, fitted: Fitted
) -> dict[str, float]:
    """Expected calibration error of both tasks.

    Args:
        embeddings: `(N, D)`, by the INT8 graph.
        examples: what the images show.
        release: the trained model, for its prompts.
        fitted: temperatures, domain and threshold.

    Raises:
        ValueError: no image is labelled for one of the tasks.
    """
    planes = np.array([example.facts.plane or "" for example in examples])
    parts = np.array([example.facts.brain_plane or "" for example in examples])

    def calibration(task: str, truth: NDArray[np.str_], labels: tuple[str, ...]) -> float:
        cosines = embeddings @ release.embeddings[task].T
        scores = softmax(cosines / fitted.temperatures[task], axis=1)
        known = np.isin(truth, SCORED_PLANES if task == "planes" else BRAIN_PLANES)
        right = np.array(labels)[scores.argmax(axis=1)] == truth
        return expected_calibration_error(scores.max(axis=1)[known].astype(float), right[known])

    return {
        "planes_expected_calibration_error": calibration("planes", planes, PLANES),
        "brain_planes_expected_calibration_error": calibration("brain_planes", parts, BRAIN_PLANES),
    }


def count_withheld(
    encoded: Encoded, examples: Sequence[Example], fitted: Fitted
) -> dict[str, dict[str, int]]:
    """Plane -> how many "images" the model abstains from, "of" how many.

    Args:
        encoded: outputs of the INT8 graph by name, `(N, length)`.
        examples: what the images show.
        fitted: domain and threshold.
    """
    planes = np.array([example.facts.plane or "" for example in examples])
    outside = fitted.domain.distances(encoded) > fitted.domain_distance
    return {
        plane: {"images": int(outside[planes == plane].sum()), "of": int(sum(planes == plane))}
        for plane in PLANES
        if plane in planes
    }


def withheld_shares(metrics: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """What was looked at -> how many "images" were withheld, "of" how many.

    Heads of HC18 are there where the test split has them.
    """
    carried = metrics.get("int8", metrics["fp32"])
    heads = {"heads of HC18": metrics["heads"]} if "heads" in metrics else {}
    return {**carried["withheld"], **heads}
