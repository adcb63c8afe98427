"""The folder of a training run: which experiment it belongs to, its checkpoint and its log."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from training.config import ExperimentConfig
from training.datasets import Example

__all__ = ["RunFolder", "fingerprint"]


def fingerprint(
    config: ExperimentConfig,
    examples: Sequence[Example],
    data_sha256: str,
    objective: str,
    prompts: Sequence[str],
) -> str:
    """What a checkpoint belongs to.

    Args:
        config: the experiment.
        examples: the images that are learned from, in order.
        data_sha256: of the shards that they lie in.
        objective: what is minimised; it tells teachers apart.
        prompts: hashes of the prompts that are validated and released.
    """
    listed = [(e.name, e.group, e.shard, e.facts) for e in examples]
    identity = (config, listed, data_sha256, objective, list(prompts))
    return hashlib.sha256(repr(identity).encode()).hexdigest()


class RunFolder:
    """A run's folder, checked before any work is done for it.

    Args:
        path: the folder; it need not exist yet.
        experiment: of `fingerprint`.

    Attributes:
        checkpoint: where the run goes on from.
        finished: the run is done already.

    Raises:
        ValueError: the folder belongs to another experiment.
    """

    def __init__(self, path: Path, experiment: str) -> None:
        self.path, self.experiment = path, experiment
        self.checkpoint = path / "checkpoint.pt"
        self.finished = (path / "model.json").exists()
        self._identity, self._log = path / "experiment.json", path / "log.csv"
        if self._identity.exists():
            found = _sha256_in(self._identity)
        else:
            found = "" if self.finished or self.checkpoint.exists() else experiment
        if found != experiment:
            raise ValueError(
                f"{path} belongs to another configuration, other images, prompts or teacher; "
                "choose another --out. Going on would mix patients to learn from with those held "
                "out"
            )

    def start(self) -> None:
        """Make the folder and write down whose it is."""
        self.path.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"sha256": self.experiment}) + "\n"
        temporary = self._identity.with_suffix(".tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self._identity)

    def forget_after(self, epoch: int) -> None:
        """Take rows of later epochs than the checkpoint's out of the log."""
        if not self._log.exists():
            return
        with self._log.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= epoch]
        if not rows:
            self._log.unlink()
            return
        temporary = self._log.with_suffix(".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(self._log)

    def log(self, row: dict[str, float]) -> None:
        """Add a row to `log.csv`."""
        new = not self._log.exists()
        with self._log.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)


def _sha256_in(identity: Path) -> str:
    try:
        return str(json.loads(identity.read_text(encoding="utf-8"))["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{identity} is damaged; choose another --out") from error
