"""A score of the fetal heart from the frames of a clip.

No weights come with the package: there were no labelled hearts to learn from. A bundle gets its
head by `python -m training.heads`; until then there is no answer.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BundleError
from fetalclip_edge.results import Frame, HeartScore, Result, StreamState
from fetalclip_edge.tasks.class_head import ClassHead, decide, read_head

__all__ = [
    "HEART",
    "HEART_PLANE",
    "LEAST_FRAMES",
    "WINDOW_S",
    "HeartTask",
    "HeartWindow",
    "heart_of",
]

HEART = "heart"
"""Name of the task in a bundle."""

HEART_PLANE = "thorax"
"""The plane whose frames show the heart."""

WINDOW_S = 5.0
"""Seconds that a score looks back in a stream: about ten beats, and no longer than a look."""

LEAST_FRAMES = 8
"""Fewer say too little of something that beats."""


class HeartTask:
    """Answers for the frames of a clip.

    Args:
        head: that pools frames.
    """

    def __init__(self, head: ClassHead) -> None:
        self.head = head

    def __call__(self, embeddings: NDArray[np.float32]) -> HeartScore:
        """The score of a clip.

        Args:
            embeddings: `(T, D)`, L2-normalised, of its frames whose plane is `HEART_PLANE`.

        Returns:
            The score; withheld of fewer than `LEAST_FRAMES`.
        """
        return self.of_parts(self.head.parts(embeddings))

    def of_parts(self, parts: NDArray[np.float64]) -> HeartScore:
        """The same, of what `ClassHead.parts` gives."""
        if (number := len(parts)) < LEAST_FRAMES:
            reason = f"{number} of the {LEAST_FRAMES} frames of the {HEART_PLANE} that are needed"
            return HeartScore(None, 0.0, {}, number, reason)
        scores = self.head.pooled(parts)
        label = decide(scores, self.head.threshold)
        return HeartScore(label, scores[label], scores, number)

    def window(self, *, live: bool, span_s: float = WINDOW_S) -> HeartWindow:
        """The last moments of a film, none of them seen yet.

        Args:
            live: True for a device, whose presentation times are no clock; those of a recording
                are.
            span_s: seconds to look back; `math.inf` for all of a clip.
        """
        return HeartWindow(self, live=live, span_s=span_s)


class HeartWindow:
    """The score over the last moments of one film. Made by `HeartTask.window`.

    Frames count that are live and whose plane is `HEART_PLANE`; a picture that stands still is not
    seen again and again. What is in the window is answered for while other planes are looked at;
    out of the model's domain nothing is.
    """

    def __init__(self, task: HeartTask, *, live: bool, span_s: float) -> None:
        self._task, self._live, self._span_s = task, live, span_s
        self.reset()

    def reset(self) -> None:
        """Forget everything: what comes next is another film."""
        # The time of a frame and its parts in each row; the window is rows[first:end].
        self._rows = np.empty((64, 2 + len(self._task.head.labels)))
        self._first = self._end = 0
        self._last_s = -math.inf

    def update(self, result: Result, frame: Frame, *, still: bool = False) -> Result:
        """The result of a frame with the score of all in the window.

        Args:
            result: of the frame, smoothed or not.
            frame: for its time.
            still: the picture is that of the frame before.
        """
        now_s = frame.captured_ns / 1e9 if self._live else frame.pts_s
        if now_s is None:
            if math.isfinite(self._span_s):
                heart = HeartScore(None, 0.0, {}, 0, "the source gives no times")
                return replace(result, heart=heart)
            now_s = max(self._last_s, 0.0)
        if not still:
            self._forget_before(now_s)
            if result.state == StreamState.LIVE and result.plane.label == HEART_PLANE:
                self._add(now_s, result.embedding)
        return replace(result, heart=self._score(result))

    def _score(self, result: Result) -> HeartScore:
        if result.state != StreamState.LIVE:
            reason = result.reason or str(result.state)
            return HeartScore(None, 0.0, {}, self._end - self._first, reason)
        return self._task.of_parts(self._rows[self._first : self._end, 1:])

    def _forget_before(self, now_s: float) -> None:
        if now_s < self._last_s:  # a recording that began anew
            self.reset()
        self._last_s = now_s
        times = self._rows[self._first : self._end, 0]
        self._first += int(np.searchsorted(times, now_s - self._span_s))

    def _add(self, now_s: float, embedding: NDArray[np.float32]) -> None:
        if self._end == len(self._rows):
            kept = self._rows[self._first : self._end]
            # Twice what is kept, so that moving it is rare, however long the film.
            self._rows = np.empty((max(64, 2 * len(kept)), kept.shape[1]))
            self._rows[: len(kept)] = kept
            self._first, self._end = 0, len(kept)
        self._rows[self._end, 0] = now_s
        self._rows[self._end, 1:] = self._task.head.parts(embedding[None])[0]
        self._end += 1


def heart_of(bundle: ModelBundle) -> HeartTask | None:
    """The task, or None where the bundle has no head for it.

    Raises:
        BundleError: the head is wrong, or one of single pictures.
    """
    if HEART not in bundle.tasks:
        return None
    head = read_head(bundle, HEART)
    if head.pooling == "none":
        raise BundleError(
            f"manifest: tasks.{HEART} must be for clips (pooling mean or attention), "
            "not for single pictures"
        )
    return HeartTask(head)
