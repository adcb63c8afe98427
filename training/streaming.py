"""Shards read once an epoch, a few images in memory at a time: for data that memory does not hold.

Every lane has an order of its own: its shards mixed anew for each epoch, and their images through a
shuffle buffer (webdataset). Which image comes when follows from seed, epoch and lane alone, so the
batches do not depend on the number of processes, and a run goes on at any step: what was learned
from already is read again, and passed over undecoded.
"""

from __future__ import annotations

import json
import math
import random
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from training.datasets import Example, square
from training.lanes import Lanes
from training.learner import Images
from training.seeding import generator

__all__ = ["ShardStream", "StreamedLanes"]

T = TypeVar("T")

_SUFFIXES = ("jpg", "png")


class StreamedLanes(Lanes):
    """The plan of a run that reads its shards anew in every epoch, every image once.

    Lanes do not have the same number of images, nor a multiple of what they give to a batch. One
    that has given all of its own repeats its last to the end of the epoch, so that batches are
    full; `counted` says which, and the loss leaves them out.

    Args:
        examples: all images to learn from, those of other processes too, shard by shard.
        lanes: how many lanes.
        batch_size: images of a batch, over all processes; a multiple of `lanes`.
        views: how many views of an image there are; one of them is drawn every epoch.
        seed: of the plan.
        shuffle: images of a lane's shuffle buffer.

    Raises:
        ValueError: as for `Lanes`.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        lanes: int,
        batch_size: int,
        views: int,
        seed: int,
        shuffle: int,
    ) -> None:
        super().__init__(examples, lanes=lanes, batch_size=batch_size, views=views, seed=seed)
        largest = max(len(members) for members in self.members)
        self.steps_per_epoch = math.ceil(largest / self.lane_size)
        self._buffer = shuffle
        self._shards = [
            [list(of_shard) for _, of_shard in groupby(members, lambda i: examples[i].archive)]
            for members in self.members
        ]

    def counted(self, step: int, lane: int) -> list[bool]:
        """Which images of a lane's part of a batch are no repetition."""
        start = step % self.steps_per_epoch * self.lane_size
        own = len(self.members[lane])
        return [place < own for place in range(start, start + self.lane_size)]

    def shards(self, epoch: int, lane: int) -> list[list[int]]:
        """A lane's images, by shard, in the order in which the shards are read."""
        shards = list(self._shards[lane])
        random.Random(f"{self.seed}/{epoch}/{lane}/shards").shuffle(shards)
        return shards

    def mixed(self, items: Iterator[T], epoch: int, lane: int) -> Iterator[T]:
        """What comes shard by shard, out of the lane's shuffle buffer."""
        # It takes seconds to import, and most runs do without it.
        from webdataset import shuffle

        rng = random.Random(f"{self.seed}/{epoch}/{lane}/images")
        mixed: Iterator[T] = shuffle(self._buffer, initial=self._buffer, rng=rng)(items)
        return mixed

    def _draw_epoch(self, epoch: int, lane: int) -> tuple[Tensor, Tensor]:
        place = {index: position for position, index in enumerate(self.members[lane])}
        read = (place[index] for shard in self.shards(epoch, lane) for index in shard)
        order = list(self.mixed(read, epoch, lane))
        count = self.steps_per_epoch * self.lane_size
        last = order[-self.lane_size :][::-1]
        order += [last[i % len(last)] for i in range(count - len(order))]
        rng = generator(self.seed, epoch, lane)
        return torch.tensor(order), torch.randint(self.views, (count,), generator=rng)


class ShardStream:
    """The images of a process's lanes, read in the order in which the plan wants them.

    Args:
        examples: all of the data set, as the plan was made for.
        plan: of the run.
        lanes: those of the process.
        canvas: side at which images are decoded, in pixels.
    """

    def __init__(
        self, examples: Sequence[Example], plan: StreamedLanes, lanes: Sequence[int], canvas: int
    ) -> None:
        self.examples, self.plan, self.lanes, self.canvas = examples, plan, lanes, canvas
        self._readers: list[_LaneReader] = []
        self._next = -1  # the step whose images come next
        self._decoding = ThreadPoolExecutor(thread_name_prefix="decode")

    def of_step(self, step: int) -> Images:
        """The images of a step. Steps are best asked for in order: others begin the epoch anew.

        Raises:
            FileNotFoundError: a shard is gone.
            ValueError: an image cannot be decoded, or a shard is not what it was.
        """
        plan = self.plan
        epoch, position = divmod(step, plan.steps_per_epoch)
        if step != self._next or position == 0:
            self._open(epoch, position)
        contents: dict[int, bytes] = {}
        for lane, reader in zip(self.lanes, self._readers, strict=True):
            for draw in plan.batch(step, lane):
                contents[draw.index] = reader.read(draw.index)
        self._next = step + 1
        rows = {index: row for row, index in enumerate(contents)}
        pixels = self._decoding.map(self._decode, contents.items())
        return Images(self.examples, rows, torch.stack(list(pixels)))

    def _open(self, epoch: int, position: int) -> None:
        self._readers = [_LaneReader(self.examples, self.plan, epoch, lane) for lane in self.lanes]
        for reader in self._readers:
            reader.skip(position * self.plan.lane_size)

    def _decode(self, item: tuple[int, bytes]) -> Tensor:
        index, content = item
        image = self.examples[index].decode(content)
        return torch.from_numpy(square(image, self.canvas).copy())[None]


class _LaneReader:
    """The files of a lane's images through an epoch, and the last of them again at its end."""

    def __init__(
        self, examples: Sequence[Example], plan: StreamedLanes, epoch: int, lane: int
    ) -> None:
        shards = plan.shards(epoch, lane)
        self._examples = examples
        self._coming = plan.mixed(self._files(shards), epoch, lane)
        self._last: deque[tuple[int, bytes]] = deque(maxlen=plan.lane_size)

    def skip(self, count: int) -> None:
        """Pass over the first images of the epoch."""
        for _ in range(count):
            if (found := next(self._coming, None)) is None:
                break
            self._last.append(found)

    def read(self, index: int) -> bytes:
        """The file of an image, which must be the next, or one of the last at the end.

        Raises:
            ValueError: another comes, so the shards have changed.
        """
        found = next(self._coming, None)
        if found is not None:
            self._last.append(found)
        else:
            found = next((each for each in self._last if each[0] == index), None)
        if found is None or found[0] != index:
            example = self._examples[index]
            raise ValueError(
                f"{example.archive} does not hold {example.name} where its index says: the shards "
                "were changed while they were read; prepare the data again, and take another --out"
            )
        return found[1]

    def _files(self, shards: Sequence[Sequence[int]]) -> Iterator[tuple[int, bytes]]:
        for shard in shards:
            wanted = {self._examples[index].name: index for index in shard}
            for sample in _samples(self._examples[shard[0]].archive):
                # Patients who are held out lie in the same shards.
                index = wanted.get(json.loads(sample["json"])["name"])
                if index is not None:
                    yield index, next(sample[s] for s in _SUFFIXES if s in sample)


def _samples(archive: Path) -> Iterator[dict[str, Any]]:
    from webdataset import tariterators

    with archive.open("rb") as stream:
        files = tariterators.tar_file_expander([{"url": str(archive), "stream": stream}])
        yield from tariterators.group_by_keys(files)
