"""Runs that are cut off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from training.learner import Batch
from training.trainer import Trainer


@contextmanager
def cutting_off_at(step: int) -> Iterator[None]:
    """Within it a run ends, as by Ctrl-C, once a step is done."""
    real = Trainer._one_step

    def one_step(trainer: Trainer, batch: Batch) -> dict[str, float]:
        losses = real(trainer, batch)
        if trainer.step == step:
            raise KeyboardInterrupt
        return losses

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_one_step", one_step)
        yield
