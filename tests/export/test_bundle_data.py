"""Bundles from shards that lack something, hold more than planes, or are damaged."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from rich.console import Console
from safetensors.numpy import load_file

import export.bundle as exporter
from calibration.settings import Settings
from export.bundle import export_bundle, main
from export.graphs import Exported
from export.report import report
from fetalclip_edge.bundle import ModelBundle
from training.shards import read_manifest, write_shards
from training.sources import DataSet

TEACHER = {
    "method": "distill",
    "license": "CC-BY-NC-4.0",
    "teacher": "fetalclip",
    "teacher_credit": "FetalCLIP, Maani et al. 2025, arXiv 2502.14807, https://example.org/weights",
}


class Made(NamedTuple):
    folder: Path
    manifest: dict[str, Any]
    shards: Path


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory,
    run: Path,
    pictures: dict[str, DataSet],
    graphs: Exported,
) -> Made:
    """A student of FetalCLIP, exported with planes and captioned images, without HC18."""
    work = tmp_path_factory.mktemp("made")
    write_shards([pictures["planes"], pictures["captions"]], work / "shards")
    shutil.copytree(run, work / "run")
    description = json.loads((run / "model.json").read_text())
    description["origin"] = TEACHER
    description["held_out"] += ["captions/mine/0", "captions/mine/1"]
    (work / "run" / "model.json").write_text(json.dumps(description))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "make_graphs", lambda *_: graphs)
        patch.setattr(exporter, "_SETTINGS", Settings(frames=48))
        patch.setattr(exporter, "_TIMING_ROUNDS", 2)
        console = Console(file=io.StringIO())
        out = work / "bundle"
        export_bundle(
            work / "run", work / "shards", out, name="taught", version="1", console=console
        )
    manifest = json.loads((out / "manifest.json").read_text())
    return Made(out, manifest, work / "shards")


def test_without_hc18_there_is_a_bundle_that_says_nothing_of_heads(made: Made) -> None:
    assert "heads" not in made.manifest["metrics"]
    shown = io.StringIO()
    report(made.manifest["metrics"], Console(file=shown, width=120))
    for text in (shown.getvalue(), (made.folder / "MODEL_CARD.md").read_text()):
        assert "HC18" not in text
        assert "brain, withheld" in text


def test_images_with_nothing_but_a_caption_are_neither_measured_nor_a_kind(made: Made) -> None:
    metrics = made.manifest["metrics"]
    assert metrics["measured_on"].startswith("32 images of 4 test patients")
    assert metrics["validation"]["measured_on"].startswith("32 images of patients held out")
    assert load_file(made.folder / "domain.safetensors")["embedding.means"].shape == (8, 16)


def test_a_student_is_bound_by_its_teachers_licence_and_credits_it(made: Made) -> None:
    assert ModelBundle.load(made.folder).license == "CC-BY-NC-4.0"
    assert made.manifest["training"] == {"method": "distill", "teacher": "fetalclip"}
    assert made.manifest["architecture"] == "tf_efficientnet_lite0"
    owed = made.manifest["training_data"][-1]
    assert (owed["credit"], owed["url"], owed["license"]) == (
        "FetalCLIP, Maani et al. 2025, arXiv 2502.14807",
        "https://example.org/weights",
        "CC-BY-NC-4.0",
    )
    card = (made.folder / "MODEL_CARD.md").read_text()
    for words in ("CC-BY-NC-4.0", "arXiv 2502.14807", "Not for commercial use"):
        assert words in card, words


def test_the_manifest_names_the_data_by_the_hash_of_the_shards(made: Made) -> None:
    assert made.manifest["data_sha256"] == read_manifest(made.shards)["sha256"]


def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_work(*_: object) -> None:
        raise AssertionError("frames were read before the data was checked")

    monkeypatch.setattr(exporter, "read_frames", at_work)
    monkeypatch.setattr(exporter, "make_graphs", at_work)


def refusal(run: Path, shards: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(typer.Exit) as exit_:
        main(run, out, shards)
    assert exit_.value.exit_code == 2
    assert not out.exists()
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        # Heads of HC18 are brains, but no patient is tested for planes.
        ({"hc18"}, "no test image of FETAL_PLANES_DB labelled with the plane abdomen, brain"),
        ({"hc18", "captions"}, "no test image of FETAL_PLANES_DB labelled with the plane"),
    ],
)
def test_shards_without_labelled_test_planes_are_refused_before_any_work(
    run: Path,
    pictures: dict[str, DataSet],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kept: set[str],
    told: str,
) -> None:
    no_work(monkeypatch)
    shards = tmp_path / "shards"
    write_shards([pictures[name] for name in sorted(kept)], shards)
    error = refusal(run, shards, tmp_path / "out", capsys)
    assert told in error
    assert "python -m training.data" in error


@pytest.mark.parametrize(
    ("without", "told"),
    [
        (("test", "femur"), "no test image of FETAL_PLANES_DB labelled with the plane femur"),
        (("train", "femur"), "held out, no image labelled with the plane femur"),
        (
            ("test", "trans-ventricular"),
            "no test image of FETAL_PLANES_DB labelled with the brain sub-plane trans-ventricular",
        ),
        (("test", ""), "no images of split 'test'"),
    ],
)
def test_what_cannot_be_measured_or_fitted_is_told_before_any_work(
    run: Path,
    pictures: dict[str, DataSet],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    without: tuple[str, str],
    told: str,
) -> None:
    no_work(monkeypatch)
    split, kind = without
    planes = pictures["planes"]
    left = [
        record
        for record in planes.records
        if record.split != split or kind not in ("", record.facts.plane, record.facts.brain_plane)
    ]
    write_shards([DataSet(planes.layout, left)], tmp_path / "shards")
    assert told in refusal(run, tmp_path / "shards", tmp_path / "out", capsys)


def test_a_damaged_shard_is_refused_by_name(
    run: Path,
    drawn: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    no_work(monkeypatch)
    shards = tmp_path / "shards"
    shutil.copytree(drawn, shards)
    tar = shards / "test-000000.tar"
    changed = bytearray(tar.read_bytes())
    changed[1000] ^= 1
    tar.write_bytes(changed)
    assert "differs from its checksum" in refusal(run, shards, tmp_path / "out", capsys)
