"""Recognition on patients held out of training, measured while a model learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fetalclip_edge.results import BRAIN_PLANES
from training.datasets import Example, load_images
from training.models import ImageTextModel
from training.prompts import PromptSet
from training.zero_shot import SCORED_PLANES, embed_images, embed_prompts, macro_f1

__all__ = ["Validation"]

_SCORED = {"planes": SCORED_PLANES, "brain_planes": BRAIN_PLANES}


class Validation:
    """Images of the patients held out, at the model's size.

    Args:
        examples: those images.
        size: side of the model's input, in pixels.
        prompts: name of the task -> its prompts.
    """

    def __init__(
        self, examples: Sequence[Example], size: int, prompts: Mapping[str, PromptSet]
    ) -> None:
        self.prompts = prompts
        facts = [example.facts for example in examples]
        self._truth = {
            "planes": [f.plane or "" for f in facts],
            "brain_planes": [f.brain_plane or "" for f in facts],
        }
        self._images = load_images(examples, size, "reading validation images", quiet=not examples)

    def measure(self, model: ImageTextModel) -> dict[str, float]:
        """Zero-shot macro-F1 of each task that any of the images is labelled for, 0 to 1."""
        metrics = {}
        embeddings = embed_images(model.image, self._images)
        for name, scored in _SCORED.items():
            if not set(self._truth[name]) & set(scored):
                continue  # captions alone say nothing of planes
            prompts = self.prompts[name]
            nearest = (embeddings @ embed_prompts(model, prompts).T).argmax(dim=1)
            answers = [prompts.labels[i] for i in nearest.tolist()]
            metrics[f"{name}_f1"] = macro_f1(self._truth[name], answers, scored)
        return metrics
