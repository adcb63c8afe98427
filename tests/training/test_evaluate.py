"""`python -m training.evaluate`, from the command line to the files it leaves."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from sklearn.metrics import f1_score
from typer.testing import CliRunner, Result

import fetalclip_edge as fe
from export.card import write_card
from training.evaluate import main
from training.evaluation import tasks
from training.evaluation.report import percent, with_interval
from training.models import DualEncoder, ModelConfig
from training.prompts import BRAIN_PLANE_PROMPTS, PLANE_PROMPTS, load_prompts
from training.release import Origin, save_release
from training.shards import read_examples, write_shards
from training.sources import read_source

pytestmark = pytest.mark.usefixtures("one_thread")

SCORED = ["abdomen", "brain", "femur", "thorax"]


def evaluate(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "evaluation.json").read_text())
    return found


@pytest.fixture(scope="module")
def shipped(repository: Path) -> Path:
    return repository / "fetalclip_edge" / "bundles" / "default"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, tiny_model: dict[str, Any]) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("release")
    model = DualEncoder(ModelConfig(**tiny_model)).eval()
    save_release(folder, model, {"planes_f1": 0.5}, ["planes/1"], Origin("pretrain"))
    return folder


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of clips of two frames, bright for one label and dark for the other."""
    folder = tmp_path_factory.mktemp("light")
    lines = ["file,label,clip,patient,split"]
    for i in range(16):
        clip, split = i // 2, "train" if i < 10 else "test"
        Image.new("L", (60, 50), 40 + 120 * (clip % 2) + i).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{['dark', 'light'][clip % 2]},c{clip},p{clip},{split}")
    (folder / "light.csv").write_text("\n".join(lines))
    return folder / "light.csv"


@pytest.fixture(scope="module")
def of_release(
    tmp_path_factory: pytest.TempPathFactory, release: Path, drawn: Path, light: Path
) -> tuple[Path, Result]:
    """Everything, of a model that can do everything; UMAP has a test of its own, and is slow."""
    out = tmp_path_factory.mktemp("evaluation")
    arguments = ("--data", drawn, "--out", out, "--device", "cpu", "--probe", light)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "embedding_map", lambda embeddings: embeddings[:, :2])
        return out, evaluate(release, *arguments)


@pytest.fixture(scope="module")
def of_bundle(
    tmp_path_factory: pytest.TempPathFactory, shipped: Path, drawn: Path
) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("evaluation")
    tasks = "planes,brain_planes,gestational_age,few_shot,activations"
    return out, evaluate(shipped, "--data", drawn, "--out", out, "--tasks", tasks)


def test_a_release_is_measured_in_every_task(of_release: tuple[Path, Result]) -> None:
    out, done = of_release
    assert done.exit_code == 0, done.output
    found = report(out)
    assert list(found["tasks"]) == [
        "planes",
        "brain_planes",
        "gestational_age",
        "probes",
        "few_shot",
        "map",
        "activations",
    ]
    assert found["left_out"] == {}
    # 2 patients for the test with 3 and 6 images, and one head of 200 mm
    assert found["tasks"]["planes"]["images"] == 9
    assert found["tasks"]["brain_planes"]["images"] == 6
    assert found["tasks"]["gestational_age"]["images"] == 1
    assert set(found["tasks"]["probes"]) == {"planes", "brain_planes", "light"}


def test_pictures_are_written_and_those_of_patients_are_marked(
    of_release: tuple[Path, Result],
) -> None:
    out, done = of_release
    shown = {p["file"]: p["shows_patients_images"] for p in report(out)["pictures"]}
    assert shown == {
        "pictures/gestational_age.png": False,
        "pictures/few_shot.png": False,
        "pictures/embedding_map.png": False,
        "pictures/activation_planes.png": True,
        "pictures/activation_brain_planes.png": True,
    }
    for file in shown:
        with Image.open(out / file) as picture:
            assert picture.format == "PNG"
    for text in (" ".join(done.output.split()), (out / "evaluation.md").read_text()):
        assert "Do not publish or commit them" in text


def test_git_passes_over_pictures_of_patients(of_release: tuple[Path, Result]) -> None:
    out, _ = of_release
    subprocess.run(["git", "init", "--quiet", out], check=True)
    listed = subprocess.run(
        ["git", "-C", out, "status", "--porcelain", "--untracked-files=all"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "pictures/few_shot.png" in listed
    assert "activation" not in listed


def test_a_bundle_says_what_it_cannot_do(of_bundle: tuple[Path, Result]) -> None:
    out, done = of_bundle
    assert done.exit_code == 0, done.output
    found = report(out)
    assert list(found["tasks"]) == ["planes", "brain_planes", "few_shot"]
    assert "no text tower" in found["left_out"]["gestational_age"]
    assert "no gradients" in found["left_out"]["activations"]
    for text in (" ".join(done.output.split()), (out / "evaluation.md").read_text()):
        assert "a bundle has no text tower" in text


def test_the_report_says_what_was_measured_on_what(
    of_bundle: tuple[Path, Result], shipped: Path, drawn: Path
) -> None:
    found = report(of_bundle[0])
    graph = found["model"]["graph"]
    digest = hashlib.sha256((shipped / graph).read_bytes()).hexdigest()
    assert found["model"]["files"][graph] == digest
    manifest = json.loads((drawn / "manifest.json").read_text())
    assert found["data"]["sha256"] == manifest["sha256"]
    assert found["data"]["splits"]["test"] == {"images": 10, "patients": 3}
    assert found["command"].startswith("python -m training.evaluate")
    assert {"numpy", "scikit-learn", "torch"} <= set(found["versions"])


def test_a_bundle_scores_as_the_sdk_answers(
    of_bundle: tuple[Path, Result], shipped: Path, drawn: Path
) -> None:
    # Given the SDK's own answers on the planes of the test split, heads of HC18 left out
    model = fe.load(shipped)
    examples = [e for e in read_examples(drawn, "test") if e.group.startswith("planes/")]
    scores = []
    for example in examples:
        plane = model.analyze(np.asarray(example.open())).plane
        assert plane is not None
        scores.append(max(plane.scores, key=plane.scores.__getitem__))
    truth = [example.facts.plane for example in examples]
    expected = f1_score(truth, scores, labels=SCORED, average="macro", zero_division=0)
    assert report(of_bundle[0])["tasks"]["planes"]["macro_f1"] == pytest.approx(expected)


def test_ours_stand_beside_the_papers(of_bundle: tuple[Path, Result]) -> None:
    out, done = of_bundle
    rows = {row["figure"]: row for row in report(out)["published"]["rows"]}
    papers = [(row["fetalclip"], row["mobile_fetalclip"]) for row in rows.values()]
    assert papers == [
        (0.9727, None),
        (0.6929, 0.784),
        (0.8342, 0.886),
        (0.9473, 0.930),
        (0.8201, 0.799),
    ]
    planes = report(out)["tasks"]["planes"]
    assert rows["zero-shot planes, macro-F1"]["ours"] == planes["macro_f1"]
    assert rows["HC18 gestational age, validity"]["ours"] is None
    page = (out / "evaluation.md").read_text()
    ours = with_interval(planes["macro_f1"], planes["macro_f1_interval"])
    assert f"| zero-shot planes, macro-F1 | {ours} | 97.27 | - |" in page
    for text in (" ".join(done.output.split()), page):
        assert "Ours are measured on a subset" in text


def test_shares_are_written_in_percent() -> None:
    assert percent(0.97274) == "97.27"
    assert percent(None) == "-"
    assert with_interval(0.5, [0.25, 1.0]) == "50.00 (25.00 to 100.00)"


def test_own_prompts_take_the_place_of_the_stored_ones(
    release: Path, drawn: Path, tmp_path: Path
) -> None:
    # Given FetalCLIP's layout, with its name of the thorax, and prompts of two ages
    planes = {"heart" if k == "thorax" else k: v for k, v in PLANE_PROMPTS.prompts.items()}
    (tmp_path / "planes.json").write_text(json.dumps({k: v[:1] for k, v in planes.items()}))
    ages = {"120": ["A head at 120 days, {pixel_size_mm} mm."], "130": ["A head at 130 days."]}
    (tmp_path / "ages.json").write_text(json.dumps(ages))
    done = evaluate(
        *(release, "--data", drawn, "--out", tmp_path / "out", "--tasks", "planes,gestational_age"),
        *("--prompts", f"planes={tmp_path / 'planes.json'}"),
        *("--prompts", f"gestational_age={tmp_path / 'ages.json'}"),
    )
    assert done.exit_code == 0, done.output
    tasks = report(tmp_path / "out")["tasks"]
    own = load_prompts(tmp_path / "planes.json", "planes")
    assert tasks["planes"]["prompts"] == {
        "version": "planes.json",
        "sha256": own.sha256,
        "sentences": 6,
    }
    # A head of 200 mm is far too large for 130 days
    assert tasks["gestational_age"]["validity"] == 0
    assert tasks["gestational_age"]["mean_absolute_error_days"] > 20


def test_a_table_of_labels_makes_a_probe(of_release: tuple[Path, Result]) -> None:
    out, _ = of_release
    probe = report(out)["tasks"]["probes"]["light"]
    assert (probe["frames"], probe["train_images"], probe["test_images"]) == (16, 5, 3)
    assert probe["auroc"] == probe["macro_f1"] == 1
    assert "| light |" in (out / "evaluation.md").read_text()


def test_what_one_part_of_a_task_lacks_costs_the_others_nothing(
    release: Path, drawn: Path, tmp_path: Path
) -> None:
    # Given shards without any brain sub-plane
    [planes] = [found for found in read_source(drawn.parent) if "PLANES" in found.layout]
    kept = [record for record in planes.records if record.facts.brain_plane is None]
    write_shards([replace(planes, records=kept)], tmp_path / "shards")
    chosen = "brain_planes,probes,few_shot,activations"
    arguments = ("--data", tmp_path / "shards", "--out", tmp_path / "out", "--tasks", chosen)
    done = evaluate(release, *arguments)
    assert done.exit_code == 0, done.output
    found = report(tmp_path / "out")
    assert {name: list(parts) for name, parts in found["tasks"].items()} == {
        "probes": ["planes"],
        "few_shot": ["planes"],
        "activations": ["planes"],
    }
    lacking = ("probes, brain_planes", "few_shot, brain_planes", "activations, brain_planes")
    for name in ("brain_planes", *lacking):
        assert "split has no image labelled with any of trans-thalamic" in found["left_out"][name]
    # And no brain was there to be scored
    assert found["tasks"]["probes"]["planes"]["classes"] == ["abdomen", "femur", "thorax"]


def test_other_shards_than_those_of_training_are_pointed_out(
    release: Path, drawn: Path, tmp_path: Path
) -> None:
    # Given a release that says which shards it learned from
    manifest = json.loads((drawn / "manifest.json").read_text())
    told = {}
    for name, sha256 in (("same", manifest["sha256"]), ("other", "0" * 64)):
        folder = shutil.copytree(release, tmp_path / name)
        description = json.loads((folder / "model.json").read_text())
        description["origin"]["data_sha256"] = sha256
        (folder / "model.json").write_text(json.dumps(description))
        out = tmp_path / f"out of {name}"
        done = evaluate(folder, "--data", drawn, "--out", out, "--tasks", "planes")
        assert done.exit_code == 0, done.output
        told[name] = (out / "evaluation.md").read_text() + " ".join(done.output.split())
    assert "not the shards that the model was made from" not in told["same"]
    assert told["other"].count("not the shards that the model was made from") == 2


def test_a_bundles_evaluation_becomes_its_card(
    of_bundle: tuple[Path, Result], shipped: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(shipped, tmp_path / "bundle")
    found = report(of_bundle[0])
    write_card(bundle, found)
    card = (bundle / "MODEL_CARD.md").read_text()
    planes = found["tasks"]["planes"]
    ours = with_interval(planes["macro_f1"], planes["macro_f1_interval"])
    assert f"| zero-shot planes, macro-F1 | {ours} | 97.27 | - |" in card
    assert "Not measured: gestational age: a bundle has no text tower" in card
    assert "test 10 images of 3 patients" in card


def _without_test(drawn: Path, folder: Path) -> Path:
    shutil.copytree(drawn, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"] = [s for s in manifest["shards"] if s["split"] == "train"]
    manifest["splits"]["test"] = {"images": 0, "patients": 0}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


Case = Callable[[Path, Path, Path], list[object]]

REFUSED: list[tuple[str, Case]] = [
    ("MODEL .*gone does not exist", lambda b, d, t: [t / "gone", "--data", d]),
    ("neither a bundle .* nor a release", lambda b, d, t: [t, "--data", d]),
    ("it has no manifest.sha256", lambda b, d, t: [d, "--data", d]),
    ("manifest.json is missing", lambda b, d, t: [b, "--data", t / "gone"]),
    ("no images of split 'test'", lambda b, d, t: [b, "--data", _without_test(d, t / "s")]),
    (
        "--tasks must be some of planes, .*not plane",
        lambda b, d, t: [b, "--data", d, "--tasks", "plane"],
    ),
    ("--tasks must be some of .*not nothing", lambda b, d, t: [b, "--data", d, "--tasks", ","]),
    ("--prompts must be TASK=FILE", lambda b, d, t: [b, "--data", d, "--prompts", "x.json"]),
    (
        "the file lacks the classes abdomen",
        lambda b, d, t: [b, "--data", d, "--prompts", f"planes={_prompts(t)}"],
    ),
    (
        "--prompts needs a text tower",
        lambda b, d, t: [b, "--data", d, "--prompts", f"brain_planes={_prompts(t)}"],
    ),
    (
        "--tasks leaves brain_planes out",
        lambda b, d, t: [
            *(b, "--data", d, "--tasks", "planes"),
            *("--prompts", f"brain_planes={_prompts(t)}"),
        ],
    ),
    (
        "own.json must be ages in days",
        lambda b, d, t: [b, "--data", d, "--prompts", f"gestational_age={_prompts(t)}"],
    ),
    ("gone.csv does not exist", lambda b, d, t: [b, "--data", d, "--probe", t / "gone.csv"]),
    ("lacks the column label", lambda b, d, t: [b, "--data", d, "--probe", _table(t)]),
    (
        "--probe is for the task probes",
        lambda b, d, t: [b, "--data", d, "--tasks", "planes", "--probe", _table(t)],
    ),
    ("--device 'abacus' cannot be used", lambda b, d, t: [b, "--data", d, "--device", "abacus"]),
    (
        "nothing could be measured: gestational_age: a bundle has no text tower",
        lambda b, d, t: [b, "--data", d, "--tasks", "gestational_age"],
    ),
]


def _prompts(folder: Path) -> Path:
    (folder / "own.json").write_text(json.dumps(BRAIN_PLANE_PROMPTS.prompts))
    return folder / "own.json"


def _table(folder: Path) -> Path:
    (folder / "table.csv").write_text("file,class\na.png,1\n")
    return folder / "table.csv"


@pytest.mark.parametrize(("told", "case"), REFUSED, ids=[told[:30] for told, _ in REFUSED])
def test_bad_input_is_told_in_a_sentence(
    told: str, case: Case, shipped: Path, drawn: Path, tmp_path: Path
) -> None:
    done = evaluate(*case(shipped, drawn, tmp_path), "--out", tmp_path / "out")
    assert done.exit_code == 2
    text = " ".join(done.output.split())
    assert re.search(f"error: .*{told}", text), text
    assert not (tmp_path / "out" / "evaluation.json").exists()


@pytest.mark.data
def test_the_shipped_bundle_is_as_good_as_its_export_says(
    data_root: Path, shipped: Path, tmp_path: Path
) -> None:
    write_shards(read_source(data_root), tmp_path / "shards")
    out = tmp_path / "out"
    arguments = ("--data", tmp_path / "shards", "--out", out, "--tasks", "planes,brain_planes")
    assert evaluate(shipped, *arguments).exit_code == 0
    tasks = report(out)["tasks"]
    exported = json.loads((shipped / "manifest.json").read_text())["metrics"]["int8"]
    # 506 of the 523 images show a plane that is scored; rounding differs among processors
    assert tasks["planes"]["images"] == 506
    assert tasks["planes"]["macro_f1"] == pytest.approx(exported["planes_macro_f1"], abs=0.005)
    sub_planes = exported["brain_planes_macro_f1"]
    assert tasks["brain_planes"]["macro_f1"] == pytest.approx(sub_planes, abs=0.02)
