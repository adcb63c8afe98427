"""A decoder on disk beside the model whose maps it reads, without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as encode_tensors

from training.models import ImageTower
from training.models.decoder import DecoderConfig, HeadDecoder
from training.view_set import tensors_sha256

__all__ = ["HeadRelease", "load_head", "read_head", "save_head", "tower_sha256"]

_WEIGHTS, _DESCRIPTION = "decoder.safetensors", "head.json"


@dataclass(frozen=True, slots=True)
class HeadRelease:
    """A trained decoder and what is known of it.

    Attributes:
        decoder: in evaluation mode.
        spec: what the bundle's manifest says of its map, as
            `fetalclip_edge.tasks.biometry.HeadSpec` has it.
        validation: metrics on heads of examinations held out.
        data: what it learned from, in words.
        held_out: patients and examinations whom it has not learned from.
        learned_on: `tower_sha256` of the tower whose maps it reads; empty before it is saved.
    """

    decoder: HeadDecoder
    spec: dict[str, float]
    validation: dict[str, float]
    data: str
    held_out: frozenset[str]
    learned_on: str = ""


def tower_sha256(tower: ImageTower) -> str:
    """Hash over all that the maps of a tower depend on."""
    config = tower.config
    return tensors_sha256((config.backbone, config.mean, config.std), tower.state_dict())


def save_head(folder: Path, tower: ImageTower, release: HeadRelease) -> None:
    """Write `decoder.safetensors` and `head.json`.

    Weights are stored in half precision.

    Args:
        folder: made when it is not there.
        tower: whose maps the decoder reads; only its hash is written.
        release: the decoder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = release.decoder.state_dict()
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    encoded = encode_tensors({k: v.contiguous().cpu() for k, v in half.items()})
    (folder / _WEIGHTS).write_bytes(encoded)
    description: dict[str, Any] = {
        "decoder": release.decoder.config.to_dict(),
        "tower_sha256": tower_sha256(tower),
        "spec": release.spec,
        "validation": release.validation,
        "data": release.data,
        "held_out": sorted(release.held_out),
    }
    temporary = folder / f"{_DESCRIPTION}.tmp"
    temporary.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / _DESCRIPTION)


def load_head(folder: Path, tower: ImageTower) -> HeadRelease:
    """Read what `save_head` wrote.

    Args:
        folder: of the decoder.
        tower: the one whose maps it is to read.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it learned on the maps of another tower; or a file is damaged.
    """
    release = read_head(folder)
    if release.learned_on != tower_sha256(tower):
        raise ValueError(
            f"{folder} learned on the maps of another model; teach a decoder for this one: "
            "python -m training.segmentation RUN --data HC18 --out HEAD, with --judged-by as for "
            "export.bundle"
        )
    return release


def read_head(folder: Path) -> HeadRelease:
    """Read what `save_head` wrote, whichever tower it is for.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged.
    """
    path = folder / _DESCRIPTION
    for each in (path, folder / _WEIGHTS):
        if not each.is_file():
            raise FileNotFoundError(
                f"{each} is missing; make it with: python -m training.segmentation RUN "
                f"--data HC18 --out {folder}"
            )
    try:
        described: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        config = DecoderConfig(**described["decoder"])
        learned_on = str(described["tower_sha256"])
        spec, validation = dict(described["spec"]), dict(described["validation"])
        data, held_out = str(described["data"]), frozenset(described["held_out"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not what save_head wrote: {error!r}") from error
    decoder = HeadDecoder(config)
    try:
        tensors = load_file(folder / _WEIGHTS)
        decoder.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
        )
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder / _WEIGHTS} does not fit head.json: {error}") from error
    decoder.eval().requires_grad_(False)
    return HeadRelease(decoder, spec, validation, data, held_out, learned_on)
