"""Teach a trained image tower where the head is: `python -m training.segmentation RUN --out HEAD`.

A light decoder learns on the tower's maps. The tower itself stays as it is, bit for bit, so planes
and sub-planes are recognised as before.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
import typer
from rich.console import Console
from torch import Tensor

from calibration.head import FIRST_SPEC, edge_of, errors_mm, fit_head, see_heads
from fetalclip_edge.tasks.biometry import HeadSpec
from training.augment import draw_pairs
from training.averaging import WeightAverage
from training.head_images import Heads, load_heads, read_heads
from training.head_release import HeadRelease, read_head, save_head
from training.models import ImageTower
from training.models.decoder import DecoderConfig, HeadDecoder
from training.options import told
from training.progress import image_progress
from training.release import load_release

__all__ = ["Settings", "head_loss", "judge", "main", "see", "teach"]

_MARGIN = 1.2  # as in `training.augment`
_DECAY = 0.998
_WARM_UP = 0.05
_TOGETHER = 16
_WRITTEN_EVERY = 8


@dataclass(frozen=True, slots=True)
class Settings:
    """How a decoder learns.

    Attributes:
        epochs: how often every head is seen.
        views: different views of each; after so many epochs they come again.
        batch: heads at a time.
        rate: the highest learning rate; up in the first steps, then down along a cosine.
        weight_decay: of AdamW.
        seed: of everything drawn.
    """

    epochs: int = 48
    views: int = 8
    batch: int = 16
    rate: float = 3e-3
    weight_decay: float = 1e-3
    seed: int = 0


def head_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy, Dice, and what the area is off by.

    The last is there for the circumference: its error grows with the area's, which the others
    hardly mind when it is a thin rim all around.

    Args:
        logits: `(N, 1, H, W)`.
        wanted: masks `(N, 1, 2 H, 2 W)`, 0 to 1.
    """
    # At twice the size of the logits, so that where they cross zero between pixels counts.
    fine = F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)
    entropy = F.binary_cross_entropy_with_logits(fine, wanted)
    found = fine.sigmoid()
    areas, targets = found.sum(dim=(1, 2, 3)), wanted.sum(dim=(1, 2, 3))
    dice = 1 - (2 * (found * wanted).sum(dim=(1, 2, 3)) + 1) / (areas + targets + 1)
    size = ((areas + 1) / (targets + 1)).log()
    return entropy + dice.mean() + 0.5 * size.abs().clamp(max=1).mean() + size.mean().abs()


class _Views:
    """What the tower makes of views of heads, computed when first asked for and kept.

    The tower does not learn, so a view costs it nothing the second time. In half precision a view
    takes 0.3 MB of memory.
    """

    def __init__(self, tower: ImageTower, learned: Heads, views: int, seed: int) -> None:
        self._tower, self._learned, self._views, self._seed = tower, learned, views, seed
        self._kept: dict[tuple[int, int], tuple[list[Tensor], Tensor]] = {}

    def __call__(self, chosen: Sequence[int], epoch: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """Maps and masks of the heads at `chosen`, another view in each of so many epochs."""
        view = epoch % self._views
        if missing := [i for i in chosen if (i, view) not in self._kept]:
            self._compute(missing, view)
        kept = [self._kept[i, view] for i in chosen]
        scales = zip(*(maps for maps, _ in kept), strict=True)
        maps = tuple(
            torch.stack(scale).float().contiguous(memory_format=torch.channels_last)
            for scale in scales
        )
        return maps, torch.stack([mask for _, mask in kept]).float()

    @torch.no_grad()
    def _compute(self, missing: list[int], view: int) -> None:
        keys = [(self._learned.heads[i].name, view) for i in missing]
        images, masks = self._learned.images[missing], self._learned.masks[missing]
        levels, wanted = draw_pairs(images, masks, keys, self._tower.config.image_size, self._seed)
        levels = levels.contiguous(memory_format=torch.channels_last)
        pyramid = self._tower.pyramid(self._tower.normalised(levels))
        halves = [maps.half() for maps in pyramid], F.avg_pool2d(wanted, 2).half()
        for row, index in enumerate(missing):
            self._kept[index, view] = [maps[row].clone() for maps in halves[0]], halves[1][row]


def teach(
    tower: ImageTower,
    learned: Heads,
    settings: Settings,
    *,
    config: DecoderConfig,
    start: HeadDecoder | None = None,
    done: Callable[[int, int, float, HeadDecoder], None] = lambda epoch, views, loss, decoder: None,
) -> HeadDecoder:
    """Teach a decoder on the maps of a tower that stays as it is.

    Args:
        tower: in evaluation mode.
        learned: heads to learn from, at 1.2 times the tower's size or larger.
        settings: how.
        config: shape of the decoder.
        start: a decoder of that shape to go on from, which is left as it is; None begins anew.
        done: told after every batch: epoch, heads seen in it, loss, the averaged decoder.

    Returns:
        The average of its weights along the way, in evaluation mode.
    """
    torch.manual_seed(settings.seed)
    tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decoder = HeadDecoder(config)
    if start is not None:
        decoder.load_state_dict(start.state_dict())
    decoder.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    views = _Views(tower, learned, settings.views, settings.seed)
    average = WeightAverage(decoder, _DECAY)
    rounds = len(learned.heads) // settings.batch
    total = max(1, rounds * settings.epochs)
    optimizer = torch.optim.AdamW(
        decoder.parameters(), lr=settings.rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step / total))
    for epoch in range(settings.epochs):
        order = list(range(len(learned.heads)))
        random.Random(f"{settings.seed}/{epoch}").shuffle(order)
        for turn in range(rounds):
            chosen = order[turn * settings.batch : (turn + 1) * settings.batch]
            maps, wanted = views(chosen, epoch)
            loss = head_loss(decoder(maps), wanted)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            average.update(decoder)
            done(epoch, (turn + 1) * settings.batch, float(loss.detach()), average.model)
    averaged: HeadDecoder = average.model.eval()
    return averaged


def _share(progress: float) -> float:
    """Of the highest learning rate."""
    if progress < _WARM_UP:
        return (progress + 1e-3) / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP)))


def judge(
    tower: ImageTower, decoder: HeadDecoder, heads: Heads
) -> tuple[HeadSpec, dict[str, float]]:
    """How good a decoder is on heads that it did not learn from, and what to correct.

    Args:
        tower: in evaluation mode.
        decoder: likewise.
        heads: at the tower's size.

    Returns:
        What the manifest is to say, and Dice of the maps and errors of the circumferences.

    Raises:
        ValueError: no head is found.
    """
    size = tower.config.image_size
    logits = see(tower, decoder, heads.images)
    sizes = [head.pixel_size_mm for head in heads.heads]
    published = [head.head_circumference_mm for head in heads.heads]
    masks = see_heads(
        heads.masks.numpy().astype(np.float32) - 127.5, heads.frames, size, sizes, published
    )
    spec = replace(FIRST_SPEC, rim_px=edge_of(masks))
    seen = see_heads(logits.numpy(), heads.frames, size, sizes, published)
    spec = fit_head(seen, spec)
    errors = errors_mm(seen, spec)
    measured = errors[np.isfinite(errors)]
    return spec, {
        "heads": len(heads.heads),
        "dice": float(_dice(logits, heads.masks).mean()),
        "withheld": int(np.isnan(errors).sum()),
        "circumference_mean_absolute_error_mm": float(np.abs(measured).mean()),
    }


@torch.no_grad()
def see(tower: ImageTower, decoder: HeadDecoder, images: Tensor) -> Tensor:
    """Logits `(N, 1, H, W)` of grey levels, uint8 `(N, 1, S, S)`."""
    parts = [
        decoder(tower.pyramid(tower.normalised(part.float()))) for part in images.split(_TOGETHER)
    ]
    return torch.cat(parts)


def _dice(logits: Tensor, masks: Tensor) -> Tensor:
    """Of each map, at the size of the masks."""
    found = F.interpolate(logits, size=masks.shape[-2:], mode="bilinear", align_corners=False) > 0
    wanted = masks > 127
    both = (found & wanted).sum(dim=(1, 2, 3))
    return 2 * both / (found.sum(dim=(1, 2, 3)) + wanted.sum(dim=(1, 2, 3))).clamp(min=1)


def main(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="folder written by training: whose maps to read")
    ],
    data: Annotated[
        Path, typer.Option(help="folder of HC18 with its masks, as published or the subset")
    ],
    out: Annotated[Path, typer.Option(help="folder of the decoder to write")],
    epochs: Annotated[int, typer.Option(min=1, help="how often every head is seen")] = 48,
    views: Annotated[
        int, typer.Option(min=1, help="different views of a head; 0.3 MB of memory each")
    ] = 8,
    seed: Annotated[int, typer.Option(help="of all that is drawn")] = 0,
    judged_by: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="the twin of a RUN that learned from nearly all patients, as for export.bundle: "
            "the heads that it held out judge",
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            metavar="HEAD",
            help="a decoder of a similar model to go on from; a third of the epochs is then enough",
        ),
    ] = None,
) -> None:
    """Teach a decoder where the head is, and fit its edge and error on heads held out.

    The heads of examinations that RUN's training held out judge, all others of the train split
    teach; the test split is not looked at. Every few epochs what there is so far is written to OUT.
    """
    console = Console(stderr=True)
    with told(console, 2, OSError, ValueError):
        release = load_release(run)
        if not release.tower.has_stages:
            raise ValueError(f"{release.config.backbone} has no maps at several scales to read")
        held_out = release.held_out
        if judged_by is not None and not (held_out := load_release(judged_by).held_out) > (
            release.held_out
        ):
            raise ValueError(f"{judged_by} holds out no more patients than {run}")
        heads = read_heads(data, "train")
        size = release.config.image_size
        shape = [maps.shape[1] for maps in release.tower.pyramid(torch.zeros(1, 1, size, size))]
        config = DecoderConfig(channels=tuple(shape))
        begun = None if start is None else _begun(start, config, held_out)
        held = load_heads([h for h in heads if h.group in held_out], size)
        rest = [h for h in heads if h.group not in held_out]
        learned = load_heads(rest, round(_MARGIN * size))
        settings = Settings(epochs=epochs, views=views, seed=seed)
        if not held.heads or len(rest) < settings.batch:
            raise ValueError(
                f"{data} has {len(held.heads)} heads of examinations that were held out and "
                f"{len(rest)} others; at least 1 and {settings.batch} are needed"
            )
        out.mkdir(parents=True, exist_ok=True)
    words = f"{len(rest)} heads of HC18, judged by {len(held.heads)} of other examinations"

    def write(decoder: HeadDecoder) -> dict[str, float]:
        spec, figures = judge(release.tower, decoder, held)
        taught = HeadRelease(decoder, spec.to_dict(), figures, words, held_out)
        save_head(out, release.tower, taught)
        return figures

    with told(console, 1, OSError, ValueError), image_progress(console) as progress:
        task = progress.add_task("learning", total=epochs * len(rest))

        def done(epoch: int, seen: int, loss: float, decoder: HeadDecoder) -> None:
            progress.update(
                task,
                completed=epoch * len(rest) + seen,
                description=f"epoch {epoch + 1}, loss {loss:.3f}",
            )
            last = seen + settings.batch > len(rest)
            if last and (epoch + 1) % _WRITTEN_EVERY == 0:
                try:
                    told_so_far = _told(write(decoder.eval()))
                except ValueError as error:  # early on, no head may be found
                    told_so_far = str(error)
                progress.console.print(f"epoch {epoch + 1}: {told_so_far}", highlight=False)

        decoder = teach(release.tower, learned, settings, config=config, start=begun, done=done)
        figures = write(decoder)
    console.print(
        f"wrote {out}: {_told(figures)}; next: python -m export.bundle {run} --head {out} "
        "--data SHARDS --out BUNDLE",
        highlight=False,
        soft_wrap=True,
    )


def _begun(start: Path, config: DecoderConfig, held_out: frozenset[str]) -> HeadDecoder:
    """The decoder to go on from, which must know none of those who are to judge.

    Raises:
        ValueError: it has another shape, or may have learned from some of them.
    """
    begun = read_head(start)
    if begun.decoder.config != config:
        raise ValueError(f"{start} is of another shape than a decoder of this run")
    if learned := held_out - begun.held_out:
        raise ValueError(
            f"{start} may have learned from {len(learned)} of the {len(held_out)} patients who are "
            "to judge"
        )
    return begun.decoder


def _told(figures: dict[str, float]) -> str:
    return (
        f"Dice {figures['dice']:.4f}, circumference off by "
        f"{figures['circumference_mean_absolute_error_mm']:.2f} mm, {figures['withheld']} of "
        f"{figures['heads']} withheld"
    )


if __name__ == "__main__":
    typer.run(main)
