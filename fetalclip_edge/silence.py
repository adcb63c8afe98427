"""The result when there is no frame: a state and a reason, and no answer."""

from __future__ import annotations

import re

import numpy as np

from fetalclip_edge.mailbox import Silence
from fetalclip_edge.results import PLANES, PlaneScores, Result, StreamState, Timing

__all__ = ["answer_to_silence", "no_answer"]


def answer_to_silence(silence: Silence, source: str, waited_s: float) -> Result:
    """Say that no frame came. Every plane is as likely as any other: nothing is known.

    The reason holds nothing of the source's name.

    Args:
        silence: what the mailbox gave.
        source: name of the source.
        waited_s: how long nothing has come, in seconds.
    """
    if silence.lost is None:
        state, reason = StreamState.STALE, f"no new picture for {waited_s:g} s"
    else:
        cause = _without_name(str(silence.lost), source)
        state, reason = StreamState.NO_SIGNAL, f"looking for the source again: {cause}"
    return no_answer(state, reason, source)


def _without_name(error: str, source: str) -> str:
    # It may be a patient's, and who shows a reason need not mean to show that.
    if not source:
        return error
    # A whole word: a short one is a part of others, too.
    name = rf"(?<!\w){re.escape(source)}(?!\w)"
    return re.sub(name, "the source", error.removeprefix(f"{source}: "))


def no_answer(state: StreamState, reason: str, source: str) -> Result:
    """A result that says why there is none."""
    scores = dict.fromkeys(PLANES, 1 / len(PLANES))
    return Result(
        state=state,
        plane=PlaneScores("other", scores["other"], scores),
        brain_plane=None,
        gestational_age=None,
        head=None,
        timing=Timing(preprocess_ms=0.0, inference_ms=0.0, interpret_ms=0.0),
        embedding=np.empty(0, dtype=np.float32),
        source=source,
        reason=reason,
    )
