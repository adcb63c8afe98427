"""An exponential moving average of a model's weights, the model that is kept in the end."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]

M = TypeVar("M", bound=nn.Module)


class WeightAverage(Generic[M]):
    """Follows a model's parameters and running statistics.

    Only what `state_dict` holds is averaged, and what learns: parts that are frozen are shared with
    the model, not copied. torch's `AveragedModel(use_buffers=True)` averages every buffer, also the
    text tower's attention mask, whose minus infinities become NaN.

    Args:
        model: the model to follow; `self.model` starts as a copy of it.
        decay: share of the old average that an update keeps, 0 to 1. The first updates keep
            less, so that the untrained start is soon forgotten.
    """

    def __init__(self, model: M, decay: float) -> None:
        frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
        self._names = [name for name in model.state_dict() if name not in frozen]
        shared = {id(part): part for part in model.modules() if _is_frozen(part)}
        self.model: M = copy.deepcopy(model, shared).requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: M) -> None:
        """Move the average towards the model's present weights."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 9))
        averages, values = self.model.state_dict(), model.state_dict()
        for name in self._names:
            average, value = averages[name], values[name]
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights that learn, with the number of updates as `updates`."""
        state = self.model.state_dict()
        learned = {name: state[name] for name in self._names}
        return {**learned, "updates": torch.tensor(self.updates)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state_dict` gave."""
        weights = dict(state)
        self.updates = int(weights.pop("updates"))
        self.model.load_state_dict({**self.model.state_dict(), **weights})


def _is_frozen(part: nn.Module) -> bool:
    parameters = list(part.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)
