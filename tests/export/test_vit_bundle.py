"""A bundle of FetalCLIP's own network in INT8, small and untrained, from its file to answers."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console

import export.bundle as exporter
import fetalclip_edge as fe
from calibration.gate import Gate
from calibration.settings import Settings
from fetalclip_edge.bundle import ModelBundle

from .small import small_fetalclip

PASSES_UNTRAINED = Gate(
    macro_f1_drop=100, class_f1_drop=100, agreement=0, calibration_error_rise=1, p01_cosine=0.98
)
"""Its answers are guesses, and only embeddings can be near those of FP32."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, drawn: Path) -> Path:
    folder = tmp_path_factory.mktemp("fetalclip")
    (folder / "weights.pt").write_bytes(b"x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.source._read_file", lambda _path: small_fetalclip())
        patch.setattr(exporter, "_TIMING_ROUNDS", 2)
        exporter.export_bundle(
            folder / "weights.pt",
            drawn,
            folder / "bundle",
            name="fetalclip",
            version="1",
            console=Console(file=io.StringIO()),
            precisions=["int8"],
            settings=Settings(frames=16, layers_in_float=0, gate=PASSES_UNTRAINED),
        )
    return folder / "bundle"


def test_it_holds_int8_for_both_families(bundle: Path) -> None:
    loaded = ModelBundle.load(bundle)
    assert loaded.graphs == {
        **{name: {"int8": "encoder.cpu.onnx"} for name in ("onnxruntime", "openvino")},
        **{name: {"int8": "encoder.int8.onnx"} for name in ("tensorrt", "tensorrt_rtx")},
    }
    told = json.loads((bundle / "manifest.json").read_text())["calibration"]
    assert told["method"] == "torch-smoothquant"
    for judged in told["gate"].values():
        assert judged["passed"]
        assert judged["cosine_mean"] > 0.999
    for name in ("encoder.cpu.onnx", "encoder.int8.onnx"):
        weights = onnx.load(bundle / name).graph.initializer
        integers = [c for c in weights if c.data_type == onnx.TensorProto.INT8 and len(c.dims) == 2]
        assert len(integers) == 8


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_sdk_runs_it_as_float32_would(bundle: Path, backend: str) -> None:
    model = fe.load(bundle, backend)
    assert model.backend.precision == "int8"
    reference = model.bundle.reference()
    assert reference is not None
    found = [model.backend.encode(frame[None])["embedding"][0] for frame in reference.frames]
    assert (np.stack(found) * reference.outputs["embedding"]).sum(axis=1).min() > 0.99
