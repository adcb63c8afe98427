"""Our INT8 graph beside NNCF's, without NNCF."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from typer import Typer
from typer.testing import CliRunner

from benchmarks.openvino_int8 import compare, main, nncf_encoder
from fetalclip_edge.backends import load_backend
from fetalclip_edge.bundle import ModelBundle

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 1, 224, 224), np.uint8)


def test_encoders_are_timed_and_compared_with_the_first() -> None:
    # Given embeddings of which one is longer and one turned by 60 degrees
    def first(_: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.array([[1, 0]], np.float32)

    turned = np.array([[0.5, np.sqrt(0.75)]], np.float32)
    encoders = {"FP32": first, "longer": lambda f: 3 * first(f), "turned": lambda _: turned}
    found = compare(encoders, FRAMES, rounds=3)
    assert [round(row["cosine"], 6) for row in found.values()] == [1, 1, 0.5]
    assert found["FP32"]["times_as_fast"] == 1
    assert all(row["median_ms"] > 0 for row in found.values())


def test_what_nncf_makes_is_run_in_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an NNCF that leaves the graph as it is
    asked: dict[str, object] = {}

    def quantize(model: object, frames: list[NDArray[np.uint8]], subset_size: int) -> object:
        asked.update(shapes={frame.shape for frame in frames}, count=subset_size)
        return model

    monkeypatch.setitem(sys.modules, "nncf", SimpleNamespace(quantize=quantize, Dataset=list))
    bundle = ModelBundle.load()
    encode = nncf_encoder(bundle.graph("openvino"), FRAMES, 1)
    assert asked == {"shapes": {(1, 1, 224, 224)}, "count": 3}
    wanted = load_backend(bundle, "openvino").encode(FRAMES[:1])["embedding"]
    np.testing.assert_allclose(encode(FRAMES[:1]), wanted, atol=1e-4)


def test_without_nncf_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(RuntimeError, match="pip install nncf"):
        nncf_encoder(b"", FRAMES, 1)


def test_a_bundle_without_fp32_is_bad_input(tmp_path: Path) -> None:
    app = Typer()
    app.command()(main)
    shipped = str(ModelBundle.load().folder)
    words = [shipped, "--data", str(tmp_path), "--out", str(tmp_path / "x.json")]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 2
    assert "no fp32 graph for 'openvino'" in found.stderr
