"""What a bundle says of its map of the head, fitted and measured through the graph it carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.head import Seen, errors_mm, fit_head, see_heads
from fetalclip_edge.tasks.biometry import HEAD_OUTPUT, HeadSpec
from training.datasets import Example
from training.head_release import HeadRelease

__all__ = ["HeadExport", "demand_heads", "see_examples"]


@dataclass(frozen=True, slots=True)
class HeadExport:
    """A decoder on its way into a bundle.

    Attributes:
        release: the decoder and what training found.
        size: side of the model's input, in pixels.
    """

    release: HeadRelease
    size: int

    def demand_unseen(self, held_out: frozenset[str]) -> None:
        """See to it that the decoder has not learned from the examinations that are to judge it.

        Raises:
            ValueError: it has.
        """
        learned = held_out - self.release.held_out
        if learned:
            raise ValueError(
                f"--head may have learned from {len(learned)} of the {len(held_out)} patients "
                "who are to judge it: teach it by python -m training.segmentation with the same "
                "RUN and --judged-by"
            )

    def described(
        self,
        held: Sequence[Example],
        held_logits: NDArray[np.float32],
        tests: Sequence[Example],
        test_logits: NDArray[np.float32],
    ) -> dict[str, Any]:
        """The part `head` of the manifest.

        Args:
            held: heads of examinations that nothing was learned from.
            held_logits: the graph's maps of them, `(N, 1, H, W)`.
            tests: test heads; none where the shards lack them.
            test_logits: likewise.

        Raises:
            ValueError: no head is found among `held`.
        """
        seen = see_examples(held, held_logits, self.size)
        spec = fit_head(seen, HeadSpec.from_dict(self.release.spec))
        metrics: dict[str, Any] = {"validation": _figures(seen, spec)}
        if tests:
            metrics["test"] = _figures(see_examples(tests, test_logits, self.size), spec)
        return {
            "output": HEAD_OUTPUT,
            **spec.to_dict(),
            "edges": "outer-outer",
            "training_data": self.release.data,
            "metrics": metrics,
        }


def demand_heads(held: Sequence[Example]) -> None:
    """See to it that there are heads to fit edge and error to.

    Raises:
        ValueError: no example has both a pixel size and a circumference.
    """
    if not any(e.facts.pixel_size_mm and e.head_circumference_mm for e in held):
        raise ValueError(
            "the shards have no head of known circumference among the examinations that training "
            "held out, to fit --head to; add HC18 to the sources of python -m training.data"
        )


def see_examples(examples: Sequence[Example], logits: NDArray[np.float32], size: int) -> list[Seen]:
    """The heads that a graph finds in examples whose circumference is known.

    Args:
        examples: what they show; others are passed over.
        logits: of all of them, `(N, 1, H, W)`.
        size: side of the model's input, in pixels.
    """
    known = [
        (index, example, example.facts.pixel_size_mm, example.head_circumference_mm)
        for index, example in enumerate(examples)
    ]
    kept = [(i, e, mm, hc) for i, e, mm, hc in known if mm is not None and hc is not None]
    frames = [example.open().size[::-1] for _, example, _, _ in kept]
    return see_heads(
        logits[[i for i, *_ in kept]],
        frames,
        size,
        [mm for *_, mm, _ in kept],
        [hc for *_, hc in kept],
    )


def _figures(seen: Sequence[Seen], spec: HeadSpec) -> dict[str, float | int]:
    errors = errors_mm(seen, spec)
    measured = errors[np.isfinite(errors)]
    return {
        "heads": len(seen),
        "withheld": int(len(seen) - len(measured)),
        "circumference_mean_absolute_error_mm": float(np.abs(measured).mean()),
        "circumference_mean_error_mm": float(measured.mean()),
    }
