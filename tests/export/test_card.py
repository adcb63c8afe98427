"""The model card: made from an evaluation of that very bundle, and of no other."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from export.card import check_same_model, main, model_card, write_card
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BundleIntegrityError

Json = dict[str, Any]


@pytest.fixture
def bundle(repository: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    shutil.copytree(repository / "fetalclip_edge" / "bundles" / "default", folder)
    return folder


@pytest.fixture
def manifest(bundle: Path) -> Json:
    loaded: Json = json.loads((bundle / "manifest.json").read_text())
    return loaded


@pytest.fixture
def evaluation(manifest: Json) -> Json:
    """In the layout of training.evaluate, with figures that no model has."""
    files = {name: f["sha256"] for name, f in manifest["files"].items()}
    del files["MODEL_CARD.md"]
    classes = {
        "abdomen": {"images": 7, "f1": 0.1234, "f1_interval": [0.1, 0.2], "recall": 0.31},
    }
    return {
        "schema_version": 1,
        "model": {
            "kind": "bundle",
            "name": "some bundle",
            "files": files,
            "backend": "onnxruntime 1",
            "precision": "int8",
        },
        "data": {
            "sha256": "ab" * 32,
            "note": None,
            "sources": ["drawn pictures"],
            "splits": {
                "train": {"images": 30, "patients": 11},
                "test": {"images": 20, "patients": 9},
            },
        },
        "tasks": {
            "planes": {
                "images": 7,
                "patients": 5,
                "accuracy": 0.4567,
                "accuracy_interval": [0.4, 0.5],
                "classes": classes,
                "absent": [],
            }
        },
        "left_out": {"gestational_age": "there is no text tower", "activations": "no gradients"},
        "published": {
            "rows": [
                {
                    "figure": "zero-shot planes, macro-F1",
                    "ours": 0.2345,
                    "ours_interval": [0.2, 0.3],
                    "fetalclip": 0.9727,
                    "mobile_fetalclip": None,
                }
            ],
            "note": "Ours are on a subset.",
        },
    }


def test_the_card_has_figures_with_intervals_data_limits_and_credits(
    manifest: Json, evaluation: Json
) -> None:
    lines = model_card(manifest, evaluation).splitlines()
    text = "\n".join(lines)
    assert lines[0] == f"# {manifest['name']} {manifest['version']}"
    assert "| zero-shot planes, macro-F1 | 23.45 (20.00 to 30.00) | 97.27 | - |" in lines
    assert "| abdomen | 7 | 12.34 (10.00 to 20.00) | 31.00 |" in lines
    assert "accuracy 45.67 (40.00 to 50.00)" in text
    assert "train 30 images of 11 patients; test 20 images of 9 patients" in text
    assert "Ours are on a subset." in lines
    assert "Not measured: gestational age: there is no text tower." in lines
    assert "no gradients" not in text
    assert f"Licence of the weights: {manifest['license']}." in text
    for limit in manifest["limits"]:
        assert f"- {limit}" in lines
    for credit in manifest["training_data"]:
        assert credit["credit"] in text
        assert credit["license"] in text


def test_the_card_keeps_what_the_export_measured(manifest: Json, evaluation: Json) -> None:
    text = model_card(manifest, evaluation)
    fp32, int8 = (manifest["metrics"][p]["planes_macro_f1"] for p in ("fp32", "int8"))
    assert f"| planes, macro-F1 | {fp32:.3f} | {int8:.3f} |" in text
    withheld = manifest["metrics"]["int8"]["withheld"]["cervix"]
    assert f"| cervix, withheld | | {withheld['images']} of {withheld['of']} |" in text


def test_the_card_says_what_weakens_its_figures(manifest: Json, evaluation: Json) -> None:
    evaluation["data"]["note"] = "These are other shards."
    evaluation["tasks"]["planes"]["absent"] = ["femur"]
    evaluation["left_out"]["probes, planes"] = "the train split is empty"
    lines = model_card(manifest, evaluation).splitlines()
    assert "These are other shards." in lines
    assert "No test image shows femur: not scored." in lines
    assert "Not measured: linear probe of planes: the train split is empty." in lines


def test_a_student_names_its_teacher(manifest: Json, evaluation: Json) -> None:
    manifest["training"] = {"method": "distill", "teacher": "FetalCLIP"}
    assert "with FetalCLIP as its teacher (method: distill)" in model_card(manifest, evaluation)


def test_a_card_before_the_evaluation_says_so(manifest: Json) -> None:
    text = model_card(manifest)
    assert "Not evaluated yet" in text
    assert "FetalCLIP |" not in text


def _other_graph(evaluation: Json) -> None:
    evaluation["model"]["files"]["encoder.cpu.onnx"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_other_graph, "of another model, some bundle: its encoder.cpu.onnx is not the bundle's"),
        (lambda e: e["model"]["files"].pop("prompts.safetensors"), "its prompts.safetensors is"),
        (lambda e: e["model"]["files"].update(new="1" * 64), "its new is not the bundle's"),
        (lambda e: e["model"].update(kind="release"), "is of a release, not of a bundle"),
        (lambda e: e.update(schema_version=2), "schema_version is 2, not 1"),
        (lambda e: e.pop("model"), "not an evaluation.json"),
    ],
)
def test_an_evaluation_of_another_model_is_refused(
    manifest: Json, evaluation: Json, change: Callable[[Json], object], told: str
) -> None:
    check_same_model(manifest, evaluation)
    change(evaluation)
    with pytest.raises(ValueError, match=told):
        model_card(manifest, evaluation)


def _contents(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_writing_the_card_changes_the_card_and_checksums_alone(
    bundle: Path, evaluation: Json
) -> None:
    before, sha256 = _contents(bundle), ModelBundle.load(bundle).sha256
    write_card(bundle, evaluation)
    after = _contents(bundle)
    assert {name for name in after if after[name] != before.get(name)} == {
        "MODEL_CARD.md",
        "manifest.json",
        "manifest.sha256",
    }
    assert before.keys() == after.keys()
    # And the bundle is whole, and another one, and fits the same evaluation still
    loaded = ModelBundle.load(bundle)
    assert loaded.sha256 != sha256
    assert loaded.files["MODEL_CARD.md"] == after["MODEL_CARD.md"]
    assert "23.45 (20.00 to 30.00)" in (bundle / "MODEL_CARD.md").read_text()
    write_card(bundle, evaluation)
    assert _contents(bundle) == after
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_what_is_refused_leaves_the_bundle_as_it_was(bundle: Path, evaluation: Json) -> None:
    before = _contents(bundle)
    _other_graph(evaluation)
    with pytest.raises(ValueError, match="another model"):
        write_card(bundle, evaluation)
    assert _contents(bundle) == before


def test_a_damaged_bundle_gets_no_card(bundle: Path, evaluation: Json) -> None:
    (bundle / "prompts.safetensors").write_bytes(b"damaged")
    with pytest.raises(BundleIntegrityError, match="prompts.safetensors"):
        write_card(bundle, evaluation)


def test_a_bundle_of_another_make_gets_no_card(
    edited_bundle: Callable[[Callable[[Json], object]], Path], evaluation: Json
) -> None:
    foreign = edited_bundle(lambda manifest: manifest.pop("limits"))
    with pytest.raises(ValueError, match=r"not made by export\.bundle: its manifest lacks limits"):
        write_card(foreign, evaluation)


def test_the_command_writes_or_says_why_not(bundle: Path, evaluation: Json, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(main)
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(evaluation))
    done = CliRunner().invoke(app, [str(bundle), str(path)])
    assert done.exit_code == 0, done.output
    assert "MODEL_CARD.md" in done.output
    for arguments, told in (
        ([bundle, tmp_path / "gone.json"], "No such file"),
        ([tmp_path / "gone", path], "no bundle at"),
    ):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exit_code == 2
        assert told in done.output
    path.write_text("[]")
    done = CliRunner().invoke(app, [str(bundle), str(path)])
    assert done.exit_code == 2
    assert "must hold a JSON object" in done.output


def test_the_card_tells_of_heads_where_the_bundle_measures_them(manifest: Json) -> None:
    manifest.pop("head", None)
    assert "## Heads" not in model_card(manifest)
    figures = {
        "heads": 9,
        "withheld": 2,
        "circumference_mean_absolute_error_mm": 1.234,
        "circumference_mean_error_mm": -0.567,
    }
    head = {"edges": "outer-outer", "training_data": "5 heads", "metrics": {"test": figures}}
    text = model_card({**manifest, "head": head})
    assert "outer-outer diameters" in text
    assert "Learned from 5 heads." in text
    assert (
        "- test: 9 heads of HC18, 2 withheld; circumference off by 1.23 mm, mean error -0.57 mm"
    ) in text.splitlines()
