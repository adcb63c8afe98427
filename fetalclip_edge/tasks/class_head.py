"""Small heads on frozen embeddings: for one picture, or for the frames of a clip, pooled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BundleError

__all__ = ["POOLINGS", "Attention", "ClassHead", "decide", "read_head"]

POOLINGS = ("none", "mean", "attention")
"""How the frames of a clip become one: not at all (a head for single pictures), by their mean, or
weighted by attention."""

_NEEDED = ("file", "labels", "pooling", "temperature", "threshold", "encoder_sha256")


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """Which frames of a clip count: `v . tanh(U h + c)` of a frame's embedding `h`.

    Attributes:
        hidden: `U`, `(A, D)`.
        offset: `c`, `(A,)`.
        query: `v`, `(A,)`.
    """

    hidden: NDArray[np.float32]
    offset: NDArray[np.float32]
    query: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class ClassHead:
    """A linear classifier of embeddings, of one picture or averaged over a clip.

    With attention the weights of the average are a softmax over the clip's frames (attention-based
    multiple instance learning, Ilse et al. 2018, arXiv 1802.04712). The classifier is linear, so
    averaging what it makes of the frames is classifying their average: a stream keeps a few numbers
    of each frame and no embedding.

    Attributes:
        labels: the classes, C of them, at least two.
        pooling: one of `POOLINGS`.
        weight: `(C, D)`.
        bias: `(C,)`.
        temperature: logits are divided by it before the softmax; fitted on validation patients.
        threshold: of two classes, the probability at which the second is the answer; None for
            the class of the highest.
        attention: where `pooling` says so, or None.
    """

    labels: tuple[str, ...]
    pooling: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    temperature: float
    threshold: float | None = None
    attention: Attention | None = None

    def parts(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        """What is to be kept of frames.

        Args:
            embeddings: `(T, D)`, L2-normalised.

        Returns:
            `(T, 1 + C)`: a frame's attention, zero without any, and what it says of each class.
        """
        parts = np.zeros((len(embeddings), 1 + len(self.labels)))
        parts[:, 1:] = embeddings @ self.weight.T + self.bias
        if self.attention is not None:
            inner = np.tanh(embeddings @ self.attention.hidden.T + self.attention.offset)
            parts[:, 0] = inner @ self.attention.query
        return parts

    def pooled(self, parts: NDArray[np.float64]) -> dict[str, float]:
        """The probability of every class, summing to 1, of a clip of such frames.

        Raises:
            ValueError: there are no frames.
        """
        if not len(parts):
            raise ValueError("there are no frames to answer for")
        logits = _softmax(parts[:, 0]) @ parts[:, 1:]
        scores = _softmax(logits / self.temperature)
        return dict(zip(self.labels, scores.tolist(), strict=True))

    def scores(self, embeddings: NDArray[np.float32]) -> dict[str, float]:
        """The same of the embeddings `(T, D)` of a clip, or of one picture `(1, D)`."""
        return self.pooled(self.parts(embeddings))


def decide(scores: Mapping[str, float], threshold: float | None) -> str:
    """The class that is the answer: by the highest score, or by the threshold of the second."""
    labels = list(scores)
    if threshold is not None:
        return labels[int(scores[labels[1]] >= threshold)]
    return max(labels, key=scores.__getitem__)


def read_head(bundle: ModelBundle, task: str) -> ClassHead:
    """The head that a bundle has for a task.

    Args:
        bundle: which.
        task: a name among `bundle.tasks`.

    Raises:
        BundleError: the manifest or the tensors do not say what they must, or the head was trained
            on the embeddings of another encoder.
        BundleIntegrityError: the file was changed since the bundle was loaded.
    """
    where, entry = f"manifest: tasks.{task}", bundle.tasks[task]
    if not isinstance(entry, Mapping):
        raise BundleError(f"{where} must be an object, not {entry!r}")
    if missing := [name for name in _NEEDED if name not in entry]:
        raise BundleError(f"{where} lacks {', '.join(missing)}")
    if entry["encoder_sha256"] != bundle.encoder_sha256:
        raise BundleError(
            f"{where} was trained on the embeddings of another encoder than this bundle's; train "
            "it on this bundle: python -m training.heads LABELS.csv --model BUNDLE"
        )
    if entry["pooling"] not in POOLINGS:
        raise BundleError(
            f"{where}.pooling must be one of {', '.join(POOLINGS)}, not {entry['pooling']!r}"
        )
    labels = _labels(entry["labels"], where)
    tensors = bundle.tensors(str(entry["file"]))
    dim = bundle.embedding_dim
    attention = None
    if entry["pooling"] == "attention":
        size = tensors["attention.query"].size if "attention.query" in tensors else 0
        attention = Attention(
            _tensor(tensors, "attention.hidden", (size, dim), where),
            _tensor(tensors, "attention.offset", (size,), where),
            _tensor(tensors, "attention.query", (size,), where),
        )
    return ClassHead(
        labels,
        entry["pooling"],
        _tensor(tensors, "weight", (len(labels), dim), where),
        _tensor(tensors, "bias", (len(labels),), where),
        _temperature(entry["temperature"], where),
        _threshold(entry["threshold"], labels, where),
        attention,
    )


def _labels(value: Any, where: str) -> tuple[str, ...]:
    if (
        not isinstance(value, list)
        or not all(isinstance(label, str) and label for label in value)
        or not 2 <= len(value) == len(set(value))
    ):
        raise BundleError(f"{where}.labels must be two different texts or more, not {value!r}")
    return tuple(value)


def _temperature(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1e-3 <= value <= 1e3:
        raise BundleError(f"{where}.temperature must be 0.001 to 1000, not {value!r}")
    return float(value)


def _threshold(value: Any, labels: tuple[str, ...], where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise BundleError(f"{where}.threshold must be 0 to 1 or null, not {value!r}")
    if len(labels) != 2:
        raise BundleError(f"{where}.threshold is for two labels, and there are {len(labels)}")
    return float(value)


def _tensor(
    tensors: Mapping[str, NDArray[np.float32]], name: str, shape: tuple[int, ...], where: str
) -> NDArray[np.float32]:
    found = tensors.get(name)
    if found is None or found.shape != shape or 0 in shape:
        there = "it is missing" if found is None else f"it is {found.shape}"
        raise BundleError(f"{where}: the tensor {name!r} must have the shape {shape}; {there}")
    return found


def _softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(values - values.max())
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares
