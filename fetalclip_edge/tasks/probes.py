"""Questions of the user's own about one picture, answered by a linear head on its embedding."""

from __future__ import annotations

from collections.abc import Mapping

from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BundleError
from fetalclip_edge.results import ProbeScores
from fetalclip_edge.tasks.class_head import ClassHead, decide, read_head
from fetalclip_edge.tasks.heart import HEART
from fetalclip_edge.tasks.seen import Seen

__all__ = ["ProbeTask", "probe_scores", "probes_of"]


class ProbeTask:
    """Answers one question about every frame.

    Args:
        head: that looks at one picture at a time.
    """

    def __init__(self, head: ClassHead) -> None:
        self._head = head

    def __call__(self, seen: Seen) -> ProbeScores:
        """The answer for one frame; no label where the model abstains."""
        scores = self._head.scores(seen.outputs["embedding"])
        return probe_scores(scores, self._head.threshold, abstain=seen.abstain)


def probe_scores(
    scores: Mapping[str, float], threshold: float | None, *, abstain: bool
) -> ProbeScores:
    """The answer that follows from the scores, or none when abstaining."""
    if abstain:
        return ProbeScores(None, 0.0, dict(scores), threshold)
    label = decide(scores, threshold)
    return ProbeScores(label, scores[label], dict(scores), threshold)


def probes_of(bundle: ModelBundle) -> dict[str, ProbeTask]:
    """Name -> task, one for each head on single pictures that the bundle has.

    Raises:
        BundleError: a head is wrong, or is one of clips, which only the heart's may be.
    """
    tasks = {}
    for name in bundle.tasks:
        if name == HEART:
            continue
        head = read_head(bundle, name)
        if head.pooling != "none":
            raise BundleError(
                f"manifest: tasks.{name} is for clips (pooling {head.pooling}); only {HEART} is "
                "answered for clips. Train it on single pictures"
            )
        tasks[name] = ProbeTask(head)
    return tasks
