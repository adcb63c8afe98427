"""What our own models and the published ones have in common: CLIP's text tower and logit scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import training.torchvision_ops  # noqa: F401  (before open_clip)

from open_clip.tokenizer import SimpleTokenizer  # isort: skip

__all__ = ["MAX_LOGIT_SCALE", "VOCABULARY", "TextEncoder"]

MAX_LOGIT_SCALE = 100.0
"""CLIP learns no larger one."""

VOCABULARY = 49408
"""How many tokens CLIP's tokenizer knows."""

_START_AND_END = 2


class TextEncoder(nn.Module):
    """Sentences to embeddings, with CLIP's tokenizer.

    Args:
        transformer: open_clip's text transformer, of any shape.
    """

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.tokenizer = SimpleTokenizer(context_length=transformer.context_length)
        self.transformer = transformer

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Embeddings float32 `(N, D)`, L2-normalised; what does not fit the context is cut off."""
        device = self.transformer.positional_embedding.device
        tokens = self.tokenizer(list(texts)).to(device)
        return F.normalize(self.transformer(tokens).float(), dim=-1)

    def too_long(self, texts: Sequence[str]) -> int:
        """How many of the sentences have more tokens than the context holds, and are cut off."""
        room = self.tokenizer.context_length - _START_AND_END
        return sum(len(self.tokenizer.encode(text)) > room for text in texts)
