"""The papers' numbers that ours are set beside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["FIGURES", "SUBSET", "Figure", "compare"]

SUBSET = (
    "Ours are measured on a subset: the test split of these shards, other patients than the "
    "papers', and four planes of their five. Read them side by side, not as a ranking."
)


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of the papers, and where ours is in the evaluation's JSON.

    Attributes:
        title: for people.
        place: keys from `tasks` down to ours; its interval is at the last key + "_interval".
        fetalclip: arXiv 2502.14807, 0 to 1, or None where it gives none.
        mobile_fetalclip: arXiv 2603.05421, likewise.
    """

    title: str
    place: tuple[str, ...]
    fetalclip: float | None = None
    mobile_fetalclip: float | None = None


FIGURES = (
    Figure("zero-shot planes, macro-F1", ("planes", "macro_f1"), 0.9727),
    Figure("zero-shot brain sub-planes, macro-F1", ("brain_planes", "macro_f1"), 0.6929, 0.784),
    Figure("HC18 gestational age, validity", ("gestational_age", "validity"), 0.8342, 0.886),
    Figure("linear probe planes, macro-F1", ("probes", "planes", "macro_f1"), 0.9473, 0.930),
    Figure(
        "linear probe brain sub-planes, macro-F1",
        ("probes", "brain_planes", "macro_f1"),
        0.8201,
        0.799,
    ),
)


def compare(tasks: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Ours beside the published numbers; None for what was not measured or not published."""
    rows = []
    for figure in FIGURES:
        *above, last = figure.place
        at: Any = tasks
        for key in above:
            at = at.get(key, {})
        rows.append(
            {
                "figure": figure.title,
                "ours": at.get(last),
                "ours_interval": at.get(f"{last}_interval"),
                "fetalclip": figure.fetalclip,
                "mobile_fetalclip": figure.mobile_fetalclip,
            }
        )
    return rows
