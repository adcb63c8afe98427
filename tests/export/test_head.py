"""A decoder beside the encoder: one graph, whose embedding is what it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from calibration.onnxruntime_int8 import quantise
from export.graph import INPUT, export_core, with_grey_levels
from export.head import HeadExport, demand_heads
from fetalclip_edge.tasks.biometry import HeadSpec
from fetalclip_edge.tasks.ellipse import Ellipse
from training.datasets import Example
from training.facts import Facts
from training.head_release import HeadRelease
from training.models import ImageTower, ModelConfig
from training.models.decoder import DecoderConfig, HeadDecoder

from ..tasks.test_ellipse import slope
from .test_graph import lively

SMALL = DecoderConfig(
    channels=(24, 40, 112, 320), widths=(8, 8, 8, 8), depths=(1, 1, 1, 1), expansion=1
)
FRAMES = np.random.default_rng(0).integers(0, 256, (8, 1, 64, 64)).astype(np.uint8)


class Parts(NamedTuple):
    tower: ImageTower
    decoder: HeadDecoder
    folder: Path


def run(path: Path) -> dict[str, NDArray[np.float32]]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {INPUT: FRAMES}), strict=True))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """Cores with and without the decoder, in float32 and INT8.

    Without the fit of each convolution to its input, which takes long and sees no decoder.
    """
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr("calibration.onnxruntime_int8.fit_convolutions", lambda *_: None)
    torch.manual_seed(0)
    config = ModelConfig(image_size=64, embed_dim=16)
    tower, decoder = lively(ImageTower(config)), HeadDecoder(SMALL).eval()
    folder = tmp_path_factory.mktemp("head")
    for name, given in (("plain", None), ("headed", decoder)):
        core = folder / f"{name}.core.onnx"
        export_core(tower, core, given)
        onnx.save(
            with_grey_levels(onnx.load(core), config.mean, config.std), folder / f"{name}.onnx"
        )
        quantise(core, FRAMES, config.mean, config.std, folder / f"{name}.int8.onnx")
    monkeypatch.undo()
    return Parts(tower, decoder, folder)


def test_the_graph_gives_torchs_map(parts: Parts) -> None:
    found = run(parts.folder / "headed.onnx")
    assert list(found) == ["embedding", "domain_features", "head_logits"]
    with torch.no_grad():
        levels = parts.tower.normalised(torch.from_numpy(FRAMES).float())
        wanted = parts.decoder(parts.tower.pyramid(levels)).numpy()
    assert wanted.shape == (8, 1, 16, 16)
    np.testing.assert_allclose(found["head_logits"], wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("precision", ["", ".int8"], ids=["fp32", "int8"])
def test_the_embedding_is_what_it_was_without(parts: Parts, precision: str) -> None:
    plain, headed = (run(parts.folder / f"{name}{precision}.onnx") for name in ("plain", "headed"))
    for name in ("embedding", "domain_features"):
        np.testing.assert_allclose(headed[name], plain[name], atol=2e-5, rtol=1e-4)


def test_int8_leaves_the_decoder_in_float32(parts: Parts) -> None:
    graph = onnx.load(parts.folder / "headed.int8.onnx").graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    weights = [made_by.get(node.input[1]) for node in graph.node if node.op_type == "Conv"]
    plain = onnx.load(parts.folder / "plain.int8.onnx").graph
    quantised = sum(node.op_type == "Conv" for node in plain.node)
    assert weights.count("DequantizeLinear") == quantised
    # Sides, downs, blocks of three convolutions each, and the last.
    assert weights.count(None) == 4 + 3 + 4 * 3 + 1


def test_a_decoder_needs_a_tower_with_stages(parts: Parts, tmp_path: Path) -> None:
    tower = ImageTower(ModelConfig(image_size=224, embed_dim=16, backbone="vit_tiny_patch16_224"))
    with pytest.raises(ValueError, match="with stages"):
        export_core(tower.eval(), tmp_path / "core.onnx", parts.decoder)


def test_the_manifest_tells_edge_error_and_figures(tmp_path: Path) -> None:
    # Given heads in the middle of frames of 448 pixels, found one pixel of the input too large
    Image.new("L", (448, 300)).save(tmp_path / "image.png")
    size = (tmp_path / "image.png").stat().st_size
    drawn = [Ellipse(28, 28, major, 0.75 * major, 10.0) for major in (30.0, 34.0, 38.0)]
    examples = [
        Example(
            tmp_path / "image.png",
            0,
            size,
            f"{i}.png",
            Facts("brain", pixel_size_mm=0.2),
            f"hc18/{i}",
            "test",
            0,
            448,
            head_circumference_mm=ellipse.circumference * 8 * 0.2,
        )
        for i, ellipse in enumerate(drawn)
    ]
    logits = np.stack([slope(ellipse.grown(0.25)) for ellipse in drawn])[:, None]
    spec = HeadSpec(0.0, 0.0, 0.02, 0.6, 0.04, 0.6, 0.98, 0.25)
    release = HeadRelease(HeadDecoder(SMALL), spec.to_dict(), {}, "3 heads", frozenset())
    told = HeadExport(release, 224).described(examples, logits, examples, logits)
    assert told["output"] == "head_logits"
    assert told["edges"] == "outer-outer"
    assert told["edge_px"] == pytest.approx(1.0, abs=0.06)
    assert told["training_data"] == "3 heads"
    for split in ("validation", "test"):
        figures = told["metrics"][split]
        assert (figures["heads"], figures["withheld"]) == (3, 0)
        assert figures["circumference_mean_absolute_error_mm"] < 0.5
    assert HeadSpec.from_dict(told).edge_px == told["edge_px"]


def test_a_decoder_is_not_judged_by_whom_it_learned_from() -> None:
    held = frozenset({"hc18/1", "hc18/2"})
    export = HeadExport(HeadRelease(HeadDecoder(SMALL), {}, {}, "3 heads", held), 224)
    export.demand_unseen(held)
    export.demand_unseen(frozenset({"hc18/1"}))
    with pytest.raises(ValueError, match="from 1 of the 3 patients who are to judge"):
        export.demand_unseen(held | {"hc18/3"})


def test_heads_to_fit_to_are_demanded(tmp_path: Path) -> None:
    unknown = Example(
        tmp_path, 0, 0, "a.png", Facts("brain", pixel_size_mm=0.2), "hc18/1", "train", 0, 448
    )
    with pytest.raises(ValueError, match="no head of known circumference"):
        demand_heads([unknown])
    demand_heads([unknown, replace(unknown, head_circumference_mm=200.0)])
