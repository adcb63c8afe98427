"""Graphs of every kind of model give PyTorch's embeddings, or are not written."""

from __future__ import annotations

import importlib.util
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from rich.console import Console
from safetensors.numpy import load_file
from typer.testing import CliRunner

import export.bundle as bundler
import export.onnx as exporter
import fetalclip_edge as fe
from calibration.settings import Settings
from export import precisions
from export.onnx import export_graph
from export.parity import ParityError, check_parity
from export.precisions import choose_precisions, to_fp16
from export.published import PublishedSource, PublishedTower, publish
from export.source import load_source, with_patients_apart
from training.models.published import PublishedModel
from training.models.untrained import as_published
from training.release import load_release
from training.shards import read_examples

_SPEC = importlib.util.spec_from_file_location("small", Path(__file__).with_name("small.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
small = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(small)

CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def fetalclip() -> PublishedModel:
    model: PublishedModel = small.small_fetalclip()
    return model


@pytest.fixture(scope="module")
def mobile() -> PublishedModel:
    model: PublishedModel = small.small_mobile()
    return model


@pytest.fixture(scope="module")
def sources(fetalclip: PublishedModel, mobile: PublishedModel, run: Path) -> dict[str, Any]:
    return {
        "fetalclip": publish(fetalclip),
        "mobile": publish(mobile),
        "student": load_release(run),
    }


def frames(size: int, count: int = 9) -> np.ndarray:
    """Smooth random pictures, black at the sides as padded ultrasound is."""
    rng = np.random.default_rng(size)
    coarse = torch.from_numpy(rng.integers(0, 256, (count, 1, 7, 7)).astype(np.float32))
    fine = torch.nn.functional.interpolate(coarse, size, mode="bilinear").numpy()
    fine[..., : size // 8] = 0
    return fine.astype(np.uint8)


def by_hand(model: PublishedModel, grey: np.ndarray, statistics: Any) -> np.ndarray:
    """Three equal channels, normalised with the papers' statistics, through open_clip's tower."""
    mean, std = (np.array(v).reshape(1, 3, 1, 1) for v in statistics)
    channels = (np.repeat(grey, 3, axis=1) / 255 - mean) / std
    with torch.inference_mode():
        rows = model.image.network(torch.from_numpy(channels).float()).double().numpy()
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def embed(path: Path, inputs: np.ndarray, optimised: bool = True) -> np.ndarray:
    options = ort.SessionOptions()
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    [found] = session.run(["embedding"], {"image": inputs})
    values: np.ndarray = found
    return values


@pytest.mark.parametrize(
    ("name", "size", "statistics"), [("fetalclip", 56, CLIP), ("mobile", 64, IMAGENET)]
)
@pytest.mark.parametrize("form", ["grey", "rgb"])
def test_published_models_are_exported_with_their_own_normalisation(
    request: pytest.FixtureRequest,
    sources: dict[str, Any],
    tmp_path: Path,
    name: str,
    size: int,
    statistics: Any,
    form: str,
) -> None:
    # Given frames that reach to the border, where padding with zeros would show a folded mean
    grey = frames(size)
    made = export_graph(sources[name], grey, tmp_path / "a" / "encoder.onnx", form=form)
    # When the graph sees them
    inputs = grey
    if form == "rgb":
        mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in statistics)
        inputs = ((np.repeat(grey, 3, axis=1) / np.float32(255) - mean) / std).astype(np.float32)
    found = embed(made.path, inputs)
    # Then it says what open_clip says
    expected = by_hand(request.getfixturevalue(name), grey, statistics)
    assert found.shape == (9, 16)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    assert made.parity.cosine_min > 0.9999
    assert made.parity.frames == 9
    assert [p.name for p in made.path.parent.iterdir()] == ["encoder.onnx"]


def test_normalisation_goes_into_a_convolution_without_padding_alone(
    sources: dict[str, Any], tmp_path: Path
) -> None:
    kinds = {}
    for name in ("fetalclip", "mobile"):
        tower = sources[name].tower
        size = tower.config.image_size
        path = export_graph(sources[name], frames(size, 2), tmp_path / f"{name}.onnx").path
        kinds[name] = onnx.load(path).graph
    channels = {}
    for name, graph in kinds.items():
        first = next(node for node in graph.node if node.op_type == "Conv")
        [weight] = [i for i in graph.initializer if i.name == first.input[1]]
        channels[name] = weight.dims[1]
    assert channels == {"fetalclip": 1, "mobile": 3}


def test_fastvit_is_reparameterised_and_gives_the_same(mobile: PublishedModel) -> None:
    tower = PublishedTower(mobile)
    grey = torch.from_numpy(frames(64, 3)).float()
    normalised = (grey / 255 - tower.config.mean) / tower.config.std
    with torch.inference_mode():
        torch.testing.assert_close(
            tower.embed_and_characterise(normalised)[0], mobile.image(grey), atol=1e-5, rtol=0
        )
    before, after = (
        sum(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
        for network in (mobile.image.network, tower._network)
    )
    assert after < before / 4


@pytest.mark.parametrize("name", ["student", "fetalclip", "mobile"])
def test_fp16_keeps_input_and_outputs_and_halves_the_weights(
    sources: dict[str, Any], tmp_path: Path, name: str
) -> None:
    source = sources[name]
    grey = frames(source.config.image_size)
    full = export_graph(source, grey, tmp_path / "full.onnx")
    half = export_graph(source, grey, tmp_path / "half.onnx", precision="fp16")
    assert half.megabytes < 0.65 * full.megabytes
    assert half.parity.cosine_min > 0.999
    graph = onnx.load(half.path).graph
    [image] = graph.input
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert {o.type.tensor_type.elem_type for o in graph.output} == {onnx.TensorProto.FLOAT}
    assert [o.name for o in graph.output] == [o.name for o in onnx.load(full.path).graph.output]
    weights = Counter(i.data_type for i in graph.initializer if np.prod(i.dims) > 100)
    assert set(weights) == {onnx.TensorProto.FLOAT16}
    # The embedding's length is computed in float32: exactly one, beyond float16's three digits.
    lengths = np.linalg.norm(embed(half.path, grey, optimised=False).astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)


def test_large_weights_get_a_file_of_their_own(sources: dict[str, Any], tmp_path: Path) -> None:
    source = sources["fetalclip"]
    grey = frames(56, 2)
    whole = export_graph(source, grey, tmp_path / "whole.onnx")
    apart = export_graph(source, grey, tmp_path / "apart.onnx", largest_file=1000)
    assert {p.name for p in tmp_path.iterdir()} == {"whole.onnx", "apart.onnx", "apart.onnx.data"}
    assert apart.path.stat().st_size < (tmp_path / "apart.onnx.data").stat().st_size
    np.testing.assert_array_equal(embed(whole.path, grey), embed(apart.path, grey))


def test_a_graph_of_another_model_is_no_match(sources: dict[str, Any], tmp_path: Path) -> None:
    grey = frames(56)
    path = export_graph(sources["fetalclip"], grey, tmp_path / "e.onnx").path
    torch.manual_seed(1)
    other = small.small_fetalclip()
    for parameter in other.image.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.05)
    with pytest.raises(ParityError, match="does not give PyTorch's embeddings: mean cosine"):
        check_parity(PublishedTower(other), path, grey, grey, "fp32")


def test_right_embeddings_do_not_excuse_another_output(
    sources: dict[str, Any], tmp_path: Path
) -> None:
    # Given a student's graph whose domain features, by which frames are withheld, are turned round
    source = sources["student"]
    grey = frames(source.config.image_size)
    model = onnx.load(export_graph(source, grey, tmp_path / "e.onnx").path)
    [maker] = [n for n in model.graph.node if "domain_features" in n.output]
    maker.output[list(maker.output).index("domain_features")] = "plain"
    model.graph.node.append(onnx.helper.make_node("Neg", ["plain"], ["domain_features"]))
    onnx.save(model, tmp_path / "turned.onnx")
    with pytest.raises(ParityError, match="PyTorch's domain_features: mean cosine -1"):
        check_parity(source.tower, tmp_path / "turned.onnx", grey, grey, "fp32")


def test_what_is_not_finite_is_no_match(sources: dict[str, Any], tmp_path: Path) -> None:
    grey = frames(56)
    source = sources["fetalclip"]
    model = onnx.load(export_graph(source, grey, tmp_path / "e.onnx").path)
    [unit] = [i for i in model.graph.initializer if i.name == "grey_unit"]
    unit.CopyFrom(onnx.numpy_helper.from_array(np.array(0, np.float32), "grey_unit"))
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(ParityError, match="embedding is not finite"):
        check_parity(source.tower, tmp_path / "broken.onnx", grey, grey, "fp32")


def test_a_published_file_is_recognised_and_owes_its_authors(
    tmp_path: Path, mobile: PublishedModel, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.source._read_file", lambda _path: mobile)
    (tmp_path / "weights.pt").write_bytes(b"x")
    source = load_source(tmp_path / "weights.pt")
    assert isinstance(source, PublishedSource)
    assert source.origin.license == "CC-BY-NC-4.0"
    assert "2603.05421" in str(source.origin.teacher_credit)
    assert source.embeddings["planes"].shape == (6, 16)
    # Patients are set apart: some, not all, and the same ones each time.
    apart = with_patients_apart(source, drawn).held_out
    patients = {e.group for e in read_examples(drawn, "train")}
    assert 0 < len(apart) < len(patients) / 2
    assert apart < patients
    assert with_patients_apart(source, drawn).held_out == apart


def test_a_published_model_becomes_a_bundle_that_the_sdk_runs(
    tmp_path: Path, mobile: PublishedModel, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a file of a published model
    monkeypatch.setattr("export.source._read_file", lambda _path: mobile)
    monkeypatch.setattr(bundler, "_SETTINGS", Settings(frames=16))
    monkeypatch.setattr(bundler, "_TIMING_ROUNDS", 2)
    (tmp_path / "weights.pt").write_bytes(b"x")
    # When it is made into a bundle of FP32
    out, console = tmp_path / "bundle", Console(file=io.StringIO(), width=120)
    metrics = bundler.export_bundle(
        tmp_path / "weights.pt",
        drawn,
        out,
        name="mobile",
        version="1",
        console=console,
        precisions=["fp32"],
    )
    bundler.report(metrics, console)
    # Then it says whose it is, and what it holds
    model = fe.load(out)
    assert model.bundle.license == "CC-BY-NC-4.0"
    assert model.bundle.graphs == {
        name: {"fp32": "encoder.onnx"} for name in ("onnxruntime", "openvino")
    }
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["architecture"], manifest["preprocess"]["size"]) == ("fastvit_mci0", 64)
    owed = manifest["training_data"][-1]
    assert (owed["name"], owed["license"]) == ("The weights", "CC-BY-NC-4.0")
    assert owed["url"] == "https://huggingface.co/numansaeed/MobileFetalCLIP"
    card = (out / "MODEL_CARD.md").read_text()
    for words in ("Not for commercial use", "in FP32", "arXiv 2603.05421"):
        assert words in card, words
    # And it gives the embeddings of the model, and abstains by them alone
    grey = frames(64, 3)
    with torch.inference_mode():
        expected = mobile.image(torch.from_numpy(grey).float()).numpy()
    np.testing.assert_allclose(model.embed([f[0] for f in grey]), expected, atol=2e-5)
    tensors = load_file(out / "domain.safetensors")
    assert {name.partition(".")[0] for name in tensors} == {"embedding"}
    assert "FP32" in console.file.getvalue()  # type: ignore[attr-defined]


def test_precisions_that_a_bundle_may_have(sources: dict[str, Any]) -> None:
    assert choose_precisions(sources["student"], []) == ("int8", "fp16")
    assert choose_precisions(sources["mobile"], []) == ("fp32", "fp16")
    assert choose_precisions(sources["student"], ["fp32", "fp32"]) == ("fp32",)
    with pytest.raises(ValueError, match="precision must be int8, fp32 or fp16, not 'int4'"):
        choose_precisions(sources["student"], ["int4"])
    assert choose_precisions(sources["fetalclip"], []) == ("fp32", "fp16")
    assert choose_precisions(sources["fetalclip"], ["int8", "fp16"]) == ("int8", "fp16")


def told(words: list[str]) -> tuple[int, str]:
    import typer

    app = typer.Typer()
    app.command()(exporter.main)
    done = CliRunner().invoke(app, words)
    return done.exit_code, " ".join(done.output.split())


def test_a_folder_of_images_will_do_for_parity(
    run: Path, tmp_path: Path, pictures: dict[str, Any]
) -> None:
    folder = pictures["planes"].records[0].path.parent
    words = [str(run), "--out", str(tmp_path / "e.onnx"), "--frames", str(folder), "--json"]
    code, output = told(words)
    assert code == 0, output
    assert '"precision": "fp32"' in output
    assert '"frames": 16' in output or '"frames": 15' in output
    assert (tmp_path / "e.onnx").is_file()


@pytest.mark.parametrize(
    ("model", "extra", "code", "said"),
    [
        ("nowhere", ["--data", "{drawn}"], 2, "there is no model at"),
        ("{text}", ["--data", "{drawn}"], 2, "not a file that torch.save wrote"),
        ("{tensors}", ["--data", "{drawn}"], 2, "the file of no model that can be exported"),
        ("{run}", ["--data", "{missing}"], 2, "manifest.json is missing"),
        ("{run}", ["--frames", "{missing}"], 2, "no folder of frames at"),
        ("{run}", ["--frames", "{empty}"], 2, "holds no images"),
        ("{run}", [], 2, "give shards with --data, or a folder of images with --frames"),
        ("{run}", ["--data", "{drawn}", "--precision", "int4"], 2, "'int4' is not one of"),
    ],
)
def test_bad_input_is_told(
    run: Path, drawn: Path, tmp_path: Path, model: str, extra: list[str], code: int, said: str
) -> None:
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "empty").mkdir()
    torch.save({"weight": torch.zeros(3)}, tmp_path / "tensors.pt")
    places = {
        "run": run,
        "drawn": drawn,
        "text": tmp_path / "text.pt",
        "tensors": tmp_path / "tensors.pt",
        "missing": tmp_path / "missing",
        "empty": tmp_path / "empty",
    }
    words = [word.format(**places) for word in [model, "--out", "OUT", *extra]]
    words[2] = str(tmp_path / "out" / "e.onnx")
    found, output = told(words)
    assert (found, said in output) == (code, True), output
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_told(run: Path, drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file" / "e.onnx", tmp_path):
        code, output = told([str(run), "--out", str(out), "--data", str(drawn)])
        assert code == 2
        assert output.startswith("error: ")
    assert (tmp_path / "file").read_text() == "in the way"


def test_without_parity_there_is_no_file_and_an_old_one_stays(
    run: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an exporter that puts the mean in the wrong place
    right = exporter.with_grey_levels
    monkeypatch.setattr(exporter, "with_grey_levels", lambda core, _m, std: right(core, 0.9, std))
    old = tmp_path / "old.onnx"
    old.write_text("old")
    for out in (tmp_path / "new.onnx", old):
        code, output = told([str(run), "--out", str(out), "--data", str(drawn)])
        assert code == 1
        assert "the fp32 graph does not give PyTorch's embeddings" in output
    assert [p.name for p in tmp_path.iterdir()] == ["old.onnx"]
    assert old.read_text() == "old"


def test_the_published_layouts_still_fit_the_small_models(fetalclip: PublishedModel) -> None:
    # The small model is of the published classes: its tensors have the names of the file's.
    assert "visual.transformer.resblocks.0.attn.in_proj_weight" in as_published(fetalclip)


def test_the_command_teaches() -> None:
    code, output = told(["--help"])
    assert code == 0
    for word in ("--precision", "--input", "--data", "--frames", "uint8", "PyTorch"):
        assert word in output


def test_a_large_graph_becomes_the_same_in_fp16_with_less_memory(
    sources: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a graph in float32, small enough for both ways
    path, shown = tmp_path / "fp32.onnx", frames(56, 2)
    export_graph(sources["fetalclip"], shown, path)
    usual = to_fp16(path, shown)
    # When it counts as large
    monkeypatch.setattr(precisions, "_LARGE_BYTES", 0)
    large = to_fp16(path, shown)
    # Then it is the same, whole, and no file is needed beside it
    assert {c.name: numpy_helper.to_array(c).tobytes() for c in large.graph.initializer} == {
        c.name: numpy_helper.to_array(c).tobytes() for c in usual.graph.initializer
    }
    assert list(large.graph.node) == list(usual.graph.node)
    assert not any(c.external_data for c in large.graph.initializer)
