"""Patients in as many parts as a cross-validation has, none of them in two."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from sklearn.model_selection import StratifiedGroupKFold

from training.datasets import Example

__all__ = ["fold_by_group"]


def fold_by_group(
    examples: Sequence[Example], fold: int, folds: int, seed: int
) -> tuple[list[Example], list[Example]]:
    """Split off one of some parts of the patients, all of which show much the same.

    Args:
        examples: in any order; the parts do not hang on it.
        fold: which part, counted from 0.
        folds: how many there are.
        seed: who is in which.

    Returns:
        The examples of the patients of other parts, and those of this one.

    Raises:
        ValueError: there are too few patients.
    """
    ordered = sorted(examples, key=lambda example: example.name)
    groups = [example.group for example in ordered]
    if len(set(groups)) < folds:
        raise ValueError(f"cannot cut {len(set(groups))} patients into {folds} parts")
    kinds = [f"{example.facts.plane} {example.facts.brain_plane}" for example in ordered]
    parts = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Of kinds with fewer images than there are parts: then some parts lack them.
        warnings.simplefilter("ignore", UserWarning)
        _, rows = list(parts.split(ordered, kinds, groups))[fold]
    held = {groups[row] for row in rows}
    return (
        [example for example in examples if example.group not in held],
        [example for example in examples if example.group in held],
    )
