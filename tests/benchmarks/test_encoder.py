"""The encoder benchmark and the retention benchmark, on the shipped bundle."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

import benchmarks.encoder as encoder
import benchmarks.retention as retention
import fetalclip_edge as fe
from benchmarks.contenders import Contender, embedding_alone, from_bundle
from benchmarks.timing import Timings
from fetalclip_edge.bundle import DEFAULT_BUNDLE, ModelBundle
from fetalclip_edge.results import BRAIN_PLANES
from training.facts import Facts
from training.shards import write_shards
from training.sources import DataSet, Record


def quiet() -> Console:
    return Console(file=io.StringIO())


def told(main: Callable[..., None], words: list[str]) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(main)
    done = CliRunner().invoke(app, words)
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture(scope="module")
def shipped() -> Contender:
    found, _ = from_bundle(DEFAULT_BUNDLE, threads=1)
    [one] = [c for c in found if (c.runtime, c.precision) == ("onnxruntime", "int8")]
    return one


def test_a_contender_of_a_bundle_gives_the_embeddings_of_the_sdk(shipped: Contender) -> None:
    frames = shipped.frames(3)
    assert (frames.shape, frames.dtype) == ((3, 1, 224, 224), np.uint8)
    model = fe.load()
    expected = model.embed([frame[0] for frame in frames])  # as large as the input: not resized
    np.testing.assert_allclose(shipped.load(threads=1)(frames), expected, atol=1e-6)
    on_disk = (DEFAULT_BUNDLE / model.bundle.graphs["onnxruntime"]["int8"]).stat().st_size
    assert shipped.size_mb() == pytest.approx(on_disk / 1e6)


def test_graphs_of_backends_that_are_not_here_are_told(
    edited_bundle: Callable[[Callable[[dict[str, Any]], object]], Path],
) -> None:
    folder = edited_bundle(lambda m: m["graphs"].update(abacus={"int8": "encoder.cpu.onnx"}))
    found, left_out = from_bundle(folder, threads=1)
    assert all(one.runtime != "abacus" for one in found)
    [why] = [why for name, why in left_out.items() if "abacus" in name]
    assert "no such backend" in why


def test_a_graph_without_the_map_of_the_head_gives_the_same_embeddings(
    shipped: Contender, tmp_path: Path
) -> None:
    [alone] = embedding_alone(DEFAULT_BUNDLE, tmp_path / "graphs")
    assert alone.model == "fetalclip-edge-student, embedding alone"
    assert (alone.runtime, alone.precision) == ("onnxruntime", "int8")
    frames = shipped.frames(2)
    wanted = shipped.load(threads=1)(frames)
    np.testing.assert_allclose(alone.load(threads=1)(frames), wanted, atol=1e-6)
    # The decoder of the head takes more than a megabyte.
    assert alone.size_mb() < shipped.size_mb() - 1


def test_a_process_of_its_own_tells_time_and_memory(shipped: Contender) -> None:
    found = encoder.in_a_child(shipped, threads=1)
    assert found["load_ms"] > 1
    # An interpreter with numpy, OpenCV and ONNX Runtime, and no PyTorch.
    assert 30 < found["peak_memory_mb"] < 600


def test_a_process_that_fails_says_why(shipped: Contender) -> None:
    lost = Contender("lost", "onnxruntime", "int8", 224, "/nowhere/bundle", bundled=True)
    with pytest.raises(RuntimeError, match="lost.*no bundle at /nowhere/bundle"):
        encoder.in_a_child(lost, threads=1)


def test_ratios_come_from_rounds_in_which_both_ran() -> None:
    # Given a slow one which ran in two rounds, and two fast ones which ran in three more
    together = {
        "slow": Timings((100.0, 400.0)),
        "a": Timings((10.0, 40.0)),
        "b": Timings((5.0, 5.0)),
    }
    apart = {"a": Timings((8.0, 16.0, 24.0)), "b": Timings((2.0, 4.0, 6.0))}
    # When they are compared, then rounds are paired
    assert encoder.compare("a", together, apart) == {"slow": 10.0, "b": 0.25}
    assert encoder.compare("slow", together, apart) == {"a": 0.1, "b": 0.03125}


def test_rows_hold_both_batches(shipped: Contender) -> None:
    [row] = encoder.measure([shipped], 1, rounds=3, slow_rounds=1, console=quiet())
    for batch in (1, 8):
        times = row[f"batch {batch}"]
        assert times["images_per_s"] == pytest.approx(1000 * batch / times["median_ms"], rel=1e-3)
        assert times["median_ms"] <= times["p95_ms"] <= times["p99_ms"] <= times["max_ms"]
    shown = encoder.markdown([row])
    assert "| onnxruntime | int8" in shown
    assert len(shown.splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["/nowhere/bundle", "--out", "OUT"], 2, "no bundle at /nowhere/bundle"),
        (["BUNDLE", "--out", "OUT", "--model", "other"], 2, "mobile-fetalclip or fetalclip"),
        (["BUNDLE", "--out", "OUT", "--threads", "0"], 2, "--threads"),
    ],
)
def test_encoder_tells_bad_input(tmp_path: Path, words: list[str], code: int, said: str) -> None:
    places = {"OUT": str(tmp_path / "out"), "BUNDLE": str(DEFAULT_BUNDLE)}
    found, output = told(encoder.main, [places.get(word, word) for word in words])
    assert (found, said in output) == (code, True), output
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two test pictures of every scored plane and sub-plane, and one to train on."""
    root, rng = tmp_path_factory.mktemp("retention"), np.random.default_rng(0)
    kinds = [Facts("abdomen"), Facts("femur"), Facts("thorax")]
    kinds += [Facts("brain", part) for part in BRAIN_PLANES]
    records = []
    for patient in range(3):
        for kind, facts in enumerate(kinds):
            name = f"planes/p{patient}_{kind}.png"
            path = root / name
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 60)).astype(np.uint8)).save(path)
            split = "test" if patient else "train"
            records.append(Record(path, name, facts, f"planes/{patient}", split))
    write_shards([DataSet("subset of FETAL_PLANES_DB", records)], root / "shards")
    return root / "shards"


def test_retention_sets_every_graph_beside_fp32(shipped: Contender, shards: Path) -> None:
    # Given the shipped graph as INT8 and, under that name, as FP32
    reference = Contender(**{**shipped.to_dict(), "precision": "fp32"})
    assert reference.name != shipped.name
    examples = retention.images_of_tests(shards)
    assert len(examples) == 12
    bundle = ModelBundle.load(DEFAULT_BUNDLE)
    encode = shipped.load(threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Contender, "load", lambda _self, threads: encode)
        rows = retention.measure(bundle, [shipped, reference], examples, quiet())
    # Then both are as good, and the same
    assert [row["cosine_with_fp32_mean"] for row in rows] == pytest.approx([1, 1])
    model = fe.load(DEFAULT_BUNDLE)
    answers = [model.analyze(np.asarray(e.open())) for e in examples]
    right = sum(
        max(a.plane.scores, key=a.plane.scores.__getitem__) == e.facts.plane
        for a, e in zip(answers, examples, strict=True)
    )
    assert 0 <= rows[0]["planes_macro_f1"] <= 1
    assert (rows[0]["planes_macro_f1"] > 0) == (right > 0)


def test_retention_tells_bad_input(tmp_path: Path, shards: Path) -> None:
    out, bundle = str(tmp_path / "out"), str(DEFAULT_BUNDLE)
    for words, said in (
        ([bundle, "--data", str(tmp_path / "missing"), "--out", out], "manifest.json is missing"),
        (["/nowhere", "--data", str(shards), "--out", out], "no bundle at /nowhere"),
    ):
        code, output = told(retention.main, words)
        assert code == 2
        assert said in output
    assert not (tmp_path / "out").exists()
