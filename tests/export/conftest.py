"""Drawn pictures as shards, and a model that tells them apart without having been trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from calibration.frames import read_frames
from calibration.settings import Settings
from export.graphs import Exported, make_graphs
from fetalclip_edge.results import BRAIN_PLANES, PLANES
from training.facts import Facts
from training.models import DualEncoder, ModelConfig
from training.release import Origin, load_release, save_release
from training.shards import read_examples, write_shards
from training.sources import DataSet, Record

KINDS = [
    Facts("abdomen"),
    Facts("femur"),
    Facts("thorax"),
    Facts("cervix"),
    Facts("other"),
    *(Facts("brain", part) for part in BRAIN_PLANES),
]
HEAD = Facts("brain", pixel_size_mm=0.2)
HELD_PATIENTS, TEST_PATIENTS = range(24, 28), range(28, 32)
HELD_HEADS, HEADS = range(100, 105), 110


def _stripes(kind: int, rng: np.random.Generator) -> Image.Image:
    """Waves in the direction of their kind, at any phase, with some noise."""
    y, x = np.mgrid[:48, :64] / 64
    angle = np.pi * kind / 9
    wave = np.sin(40 * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 2 * np.pi))
    return Image.fromarray((128 + 90 * wave + rng.normal(0, 8, wave.shape)).astype(np.uint8))


def _noise(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (48, 64)).astype(np.uint8))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DataSet]:
    """One picture of every kind of 32 patients, 110 heads for training and 4 for the test.

    Test patients show noise in place of `other`, which a model should take for strange.
    """
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)

    def record(picture: Image.Image, name: str, facts: Facts, group: str, split: str) -> Record:
        path = root / name
        path.parent.mkdir(exist_ok=True)
        picture.save(path)
        return Record(path, name, facts, group, split)

    planes = []
    for patient in range(32):
        split = "test" if patient in TEST_PATIENTS else "train"
        for kind, facts in enumerate(KINDS):
            strange = split == "test" and facts.plane == "other"
            picture = _noise(rng) if strange else _stripes(kind, rng)
            name = f"planes/p{patient}_{kind}.png"
            planes.append(record(picture, name, facts, f"planes/{patient}", split))
    heads = [
        record(
            _stripes(8, rng),
            f"hc18/h{subject}.png",
            HEAD,
            f"hc18/{subject}",
            "train" if subject < HEADS else "test",
        )
        for subject in range(HEADS + 4)
    ]
    captions = [
        record(
            _noise(rng),
            f"captions/c{i}.png",
            Facts(None, caption=f"A picture numbered {i}."),
            f"captions/mine/{i}",
            "train" if i < 6 else "test",
        )
        for i in range(8)
    ]
    return {
        "planes": DataSet("subset of FETAL_PLANES_DB", planes),
        "hc18": DataSet("subset of HC18", heads),
        "captions": DataSet("captions of mine.csv", captions),
    }


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory, pictures: dict[str, DataSet]) -> Path:
    """Shards of planes and heads."""
    out = tmp_path_factory.mktemp("drawn") / "shards"
    write_shards([pictures["planes"], pictures["hc18"]], out)
    return out


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, drawn: Path) -> Path:
    """ImageNet's features, projected by ridge regression to one axis for every class."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    config = ModelConfig(image_size=64, embed_dim=16, text_width=32, text_heads=2, text_layers=1)
    model = DualEncoder(config).eval()
    model.image.load_imagenet()
    held = [f"planes/{i}" for i in HELD_PATIENTS] + [f"hc18/{i}" for i in HELD_HEADS]
    learned = [e for e in read_examples(drawn, "train") if e.group not in held]
    grey = torch.from_numpy(read_frames(learned, 64)).float()
    with torch.no_grad():
        features = model.image.backbone((grey - 127) / 128).double()
        wanted = torch.from_numpy(_axes([e.facts for e in learned])).double()
        inner = features @ features.T
        ridge = inner + 0.01 * inner.diagonal().mean() * torch.eye(len(learned))
        model.image.projection.weight.copy_((features.T @ torch.linalg.solve(ridge, wanted)).T)
    save_release(folder, model, {"planes_f1": 0.5}, held, Origin("pretrain"))
    prompts = {
        "planes": _axes([Facts(plane) for plane in PLANES]),
        "brain_planes": _axes([Facts("brain", part) for part in BRAIN_PLANES]),
    }
    save_file(prompts, folder / "prompts.safetensors")
    return folder


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory, drawn: Path, run: Path) -> Exported:
    """All precisions of that model, for bundles whose numbers nobody reads."""
    frames = read_frames(read_examples(drawn, "train")[:16], 64)
    folder = tmp_path_factory.mktemp("graphs")
    return make_graphs(load_release(run), frames, folder, ("int8", "fp16"), Settings())


def _axes(facts: Sequence[Facts]) -> np.ndarray:
    """An axis for the plane and one for the sub-plane, of unit length together."""
    rows = np.zeros((len(facts), 16), np.float32)
    for row, known in zip(rows, facts, strict=True):
        row[PLANES.index(known.plane)] = 1
        if known.brain_plane is not None:
            row[len(PLANES) + BRAIN_PLANES.index(known.brain_plane)] = 0.7
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
