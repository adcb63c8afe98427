"""From a table of clips to a head in a bundle that answers; or to a clear refusal."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner, Result

import fetalclip_edge as fe
import training.attention as attention
import training.clip_embeddings as clip_embeddings
from export.manifest import write_checksums
from fetalclip_edge.bundle import DEFAULT_BUNDLE, ModelBundle
from fetalclip_edge.errors import BundleError
from training.clip_embeddings import read_frames
from training.heads import main

from ..headed_bundle import headed, linear_head

Pixels = NDArray[np.uint8]
FIGURES = {"auroc", "macro_f1", "sensitivity", "specificity", "ece"}


def command(*words: object) -> Result:
    app = typer.Typer()
    app.command()(main)
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done


def write_film(path: Path, pictures: list[Pixels]) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.height, video.width, video.pix_fmt = *pictures[0].shape, "yuv420p"
        for picture in pictures:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
        container.mux(video.encode())


def table(path: Path, rows: list[tuple[object, ...]], columns: str = "path,label,group") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns.split(","))
        writer.writerows(rows)
    return path


class Trained(NamedTuple):
    folder: Path
    head: Path
    table: Path
    done: Result


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, clip_images: list[Pixels]) -> Trained:
    """Heads that stand upright and that lie on their side, two of each of six patients."""
    folder = tmp_path_factory.mktemp("pictures")
    rows: list[tuple[object, ...]] = []
    for index in range(24):
        kind = ("upright", "lying")[index % 2]
        image = np.rot90(clip_images[120 + 7 * index][:320, :320], index % 2)
        name = f"p{index}.png"
        Image.fromarray(np.ascontiguousarray(image)).save(folder / name)
        rows.append((name, kind, f"patient {index // 4}"))
    (folder / "broken.png").write_bytes((folder / "p0.png").read_bytes()[:500])
    rows += [("broken.png", "lying", "patient 6"), ("gone.png", "upright", "patient 7")]
    written = table(folder / "labels.csv", rows)
    out = folder / "head"
    done = command(written, "--model", DEFAULT_BUNDLE, "--task", "lie", "--out", out, "--json")
    return Trained(folder, out, written, done)


def test_a_probe_is_trained_and_measured(pictures: Trained) -> None:
    assert pictures.done.exit_code == 0, pictures.done.output
    metrics = json.loads(pictures.done.stdout)
    assert set(metrics) >= FIGURES | {f"{name}_interval" for name in FIGURES}
    assert metrics["positive"] == "upright"
    told = json.loads((pictures.head / "head.json").read_text())
    assert told["metrics"] == metrics
    assert (told["task"], told["pooling"], told["labels"]) == ("lie", "none", ["lying", "upright"])
    assert told["encoder"]["sha256"] == ModelBundle.load().encoder_sha256
    assert told["encoder"]["precision"] == "int8"
    groups = [told["data"]["splits"][split]["groups"] for split in ("train", "validation", "test")]
    assert sum(groups) == 6
    assert metrics["groups"] == groups[2]
    assert "next: python -m training.heads" in pictures.done.stderr


def test_clips_that_cannot_be_read_are_listed_and_left_out(pictures: Trained) -> None:
    told = json.loads((pictures.head / "head.json").read_text())
    assert [each["name"] for each in told["left_out"]] == ["broken.png", "gone.png"]
    assert told["data"]["left_out"] == 2
    assert "left out broken.png" in pictures.done.stderr
    assert "no such file" in pictures.done.stderr


def test_embeddings_are_computed_once(pictures: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a head that was trained, and pictures that nobody may read again
    def only_the_broken(path: Path, most: int) -> list[Pixels]:
        assert path.name == "broken.png"
        return read_frames(path, most)

    monkeypatch.setattr(clip_embeddings, "read_frames", only_the_broken)
    before = (pictures.head / "head.safetensors").read_bytes()
    # When it is trained again
    words = (pictures.table, "--model", DEFAULT_BUNDLE, "--task", "lie", "--out", pictures.head)
    again = command(*words)
    # Then it is the same head
    assert again.exit_code == 0, again.output
    assert (pictures.head / "head.safetensors").read_bytes() == before


def test_a_damaged_embedding_is_made_anew(pictures: Trained, tmp_path: Path) -> None:
    out = tmp_path / "head"
    shutil.copytree(pictures.head, out)
    kept = sorted((out / "embeddings").iterdir())[0]
    whole = kept.read_bytes()
    kept.write_bytes(whole[:100])
    done = command(pictures.table, "--model", DEFAULT_BUNDLE, "--task", "lie", "--out", out)
    assert done.exit_code == 0, done.output
    assert load_file(kept)["embeddings"] == pytest.approx(
        np.frombuffer(whole[-4 * 256 :], np.float32)[None], abs=1e-6
    )


@pytest.fixture(scope="module")
def bundle(pictures: Trained) -> Path:
    out = pictures.folder / "bundle"
    done = command(pictures.head, "--add-to", DEFAULT_BUNDLE, "--out", out)
    assert done.exit_code == 0, done.output
    return out


def test_the_bundle_answers_with_the_head(pictures: Trained, bundle: Path) -> None:
    model = fe.load(bundle, "onnxruntime")
    tensors = load_file(pictures.head / "head.safetensors")
    told = json.loads((pictures.head / "head.json").read_text())
    image = np.asarray(Image.open(pictures.folder / "p0.png"))
    result = model.analyze(image)
    logits = tensors["weight"] @ result.embedding + tensors["bias"]
    assert list(result.probes["lie"].scores.values()) == pytest.approx(
        softmax(logits / told["temperature"]), abs=1e-5
    )
    assert result.probes["lie"].threshold == told["threshold"]


def test_the_bundle_tells_what_the_head_is_worth(pictures: Trained, bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    told = json.loads((pictures.head / "head.json").read_text())
    assert manifest["tasks"]["lie"]["metrics"] == told["metrics"]
    assert manifest["tasks"]["lie"]["data"] == told["data"]
    card = (bundle / "MODEL_CARD.md").read_text()
    assert card.startswith((DEFAULT_BUNDLE / "MODEL_CARD.md").read_text().rstrip())
    assert f"- lie (lying, upright; pooling none): On {told['metrics']['clips']} clips" in card
    # Names of files and patients stay where they were
    assert "broken.png" not in json.dumps(manifest)
    assert ModelBundle.load(bundle).encoder_sha256 == ModelBundle.load().encoder_sha256


def test_a_second_head_joins_the_first(pictures: Trained, bundle: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    shutil.copytree(pictures.head, second)
    described = json.loads((second / "head.json").read_text())
    (second / "head.json").write_text(json.dumps({**described, "task": "again"}))
    done = command(second, "--add-to", bundle, "--out", tmp_path / "both")
    assert done.exit_code == 0, done.output
    assert set(ModelBundle.load(tmp_path / "both").tasks) == {"lie", "again"}
    card = (tmp_path / "both" / "MODEL_CARD.md").read_text()
    assert card.count("## Added tasks") == 1
    assert card.count("pooling none") == 2


def foreign(folder: Path) -> None:
    described = json.loads((folder / "head.json").read_text())
    described["encoder"] |= {"sha256": "0" * 64, "name": "another 1.0"}
    (folder / "head.json").write_text(json.dumps(described))


def tampered(folder: Path) -> None:
    data = bytearray((folder / "head.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "head.safetensors").write_bytes(data)


def renamed(folder: Path) -> None:
    described = json.loads((folder / "head.json").read_text())
    (folder / "head.json").write_text(json.dumps({**described, "task": "../escape"}))


def halved(folder: Path) -> None:
    described = json.loads((folder / "head.json").read_text())
    del described["labels"]
    (folder / "head.json").write_text(json.dumps(described))


def unmeasured(folder: Path) -> None:
    described = json.loads((folder / "head.json").read_text())
    (folder / "head.json").write_text(json.dumps({**described, "metrics": {}}))


def pooled(folder: Path) -> None:
    described = json.loads((folder / "head.json").read_text())
    (folder / "head.json").write_text(json.dumps({**described, "pooling": "mean"}))


REFUSED: list[tuple[Callable[[Path], object], str]] = [
    (foreign, r"another encoder \(another 1.0\)"),
    (tampered, r"head\.safetensors differs from the checksum"),
    (renamed, "the name of a task must be"),
    (halved, "was not written by training.heads: look at labels"),
    (unmeasured, "was not written by training.heads: look at metrics"),
    (pooled, "task lie has the pooling mean"),
    (lambda folder: (folder / "head.json").write_text("{"), "is not JSON"),
    (lambda folder: (folder / "head.safetensors").unlink(), "is missing; make it with"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_a_head_that_does_not_fit_is_refused(
    pictures: Trained, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    head = tmp_path / "head"
    shutil.copytree(pictures.head, head, ignore=shutil.ignore_patterns("embeddings"))
    change(head)
    done = command(head, "--add-to", DEFAULT_BUNDLE, "--out", tmp_path / "new")
    assert done.exit_code == 2
    assert re.search(message, done.stderr)
    assert not (tmp_path / "new").exists()


def test_the_bundle_itself_is_never_written_over(pictures: Trained, bundle: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()
    done = command(pictures.head, "--add-to", bundle, "--out", bundle)
    assert done.exit_code == 2
    assert "is the bundle itself" in done.stderr
    done = command(pictures.head, "--add-to", bundle, "--out", pictures.folder)
    assert "exists and is not a bundle" in done.stderr
    assert (bundle / "manifest.json").read_bytes() == before


def test_the_device_refuses_a_head_of_another_encoder(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(bundle, other)
    manifest = json.loads((other / "manifest.json").read_bytes())
    manifest["preprocess"]["interpolation"] = "bilinear"
    write_checksums(other, manifest)
    with pytest.raises(BundleError, match=r"tasks\.lie was trained on the embeddings of another"):
        fe.load(other)


# Clips


def test_frames_are_spread_evenly_over_a_clip(tmp_path: Path) -> None:
    levels = [np.full((48, 64), 2 * index, np.uint8) for index in range(100)]
    write_film(tmp_path / "film.mkv", levels)
    found = [float(image.mean()) / 2 for image in read_frames(tmp_path / "film.mkv", 5)]
    assert found[0] == pytest.approx(0, abs=2)
    steps = np.diff(found)
    assert steps.min() > 15
    assert found[-1] > 85
    assert len(read_frames(tmp_path / "film.mkv", 500)) == 100


def test_folders_films_and_pictures_are_clips(tmp_path: Path, clip_images: list[Pixels]) -> None:
    rows: list[tuple[object, ...]] = []
    for index in range(12):
        kind = ("upright", "lying")[index % 2]
        images = [
            np.ascontiguousarray(np.rot90(clip_images[130 + 10 * index + i][:320, :320], index % 2))
            for i in range(3)
        ]
        name = f"clip{index}"
        if index % 3 == 0:
            write_film(tmp_path / f"{name}.mkv", images)
            name = f"{name}.mkv"
        elif index % 3 == 1:
            (tmp_path / name).mkdir()
            for i, image in enumerate(images):
                Image.fromarray(image).save(tmp_path / name / f"{i}.png")
        else:
            name = f"{name}.png"
            Image.fromarray(images[0]).save(tmp_path / name)
        rows.append((name, kind, index, ("train", "validation", "test")[index // 4]))
    written = table(tmp_path / "labels.csv", rows, "path,label,group,split")
    words = (written, "--model", DEFAULT_BUNDLE, "--task", "lie", "--frames", 2)
    done = command(*words, "--out", tmp_path / "head", "--positive", "lying")
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "head" / "head.json").read_text())
    assert told["pooling"] == "mean"
    assert told["labels"] == ["upright", "lying"]
    kept = [load_file(path)["embeddings"] for path in (tmp_path / "head/embeddings").iterdir()]
    assert Counter(len(frames) for frames in kept) == {2: 8, 1: 4}
    assert "for clips it answers in the task heart alone" in done.stderr
    # But a head of single pictures is not for them
    done = command(*words, "--out", tmp_path / "head", "--pooling", "none")
    assert (done.exit_code, "clips are pooled" in done.stderr) == (2, True)


def test_a_heart_is_trained_on_frames_of_the_thorax_alone(
    tmp_path: Path, clip_images: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a bundle that calls the brain of the clip a thorax, and clips of which half is stripes
    monkeypatch.setattr(attention, "_STEPS", 5)
    bundle = headed(tmp_path / "bundle", {}, linear_head(2), brain_is_thorax=True)
    stripes = np.repeat(np.arange(720) // 40 % 2 * 255, 960).reshape(720, 960).astype(np.uint8)
    rows: list[tuple[object, ...]] = []
    for index in range(12):
        folder = tmp_path / f"clip{index}"
        folder.mkdir()
        for i in range(3):
            image = np.roll(clip_images[200 + 4 * index + i], 9 * (index % 2), axis=1)
            if i >= 2 or index == 11:  # of each clip's own: no file may be in two splits
                image = np.roll(stripes, 3 * index + i)
            Image.fromarray(image).save(folder / f"{i}.png")
        kind = ("normal", "defect")[index % 2]
        rows.append((folder.name, kind, index, ("train", "validation", "test")[index // 4]))
    written = table(tmp_path / "labels.csv", rows, "path,label,group,split")
    words = (written, "--model", bundle, "--task", "heart", "--pooling", "attention")
    # When a heart is learned
    done = command(*words, "--out", tmp_path / "head", "--positive", "defect")
    # Then a clip without a thorax is left out, and the bundle answers
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "head" / "head.json").read_text())
    assert [each["name"] for each in told["left_out"]] == ["clip11"]
    assert (told["pooling"], told["labels"]) == ("attention", ["normal", "defect"])
    done = command(tmp_path / "head", "--add-to", bundle, "--out", tmp_path / "with_heart")
    assert done.exit_code == 0, done.output
    model = fe.load(tmp_path / "with_heart", "onnxruntime")
    assert model.heart is not None
    score = model.heart(model.embed(clip_images[200:210]))
    assert (score.frames, score.label in ("normal", "defect")) == (10, True)


# Refusals


BAD: list[tuple[dict[str, Any], str]] = [
    ({"--task": None}, "training needs --model and --task"),
    ({"--task": "My Task"}, "small letters, digits and _"),
    ({"--task": "heart", "--pooling": "none"}, "heart is answered for clips"),
    ({"--positive": "sideways"}, "the table has lying, upright"),
    ({"--model": "nowhere"}, "nowhere does not exist"),
    ({"--add-to": DEFAULT_BUNDLE}, "--model and --task are for training"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_options_are_told(
    pictures: Trained, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    given = {"--model": DEFAULT_BUNDLE, "--task": "lie", **options}
    words = [word for name, value in given.items() if value is not None for word in (name, value)]
    done = command(pictures.table, *words, "--out", tmp_path / "head")
    assert done.exit_code == 2
    assert message in done.stderr.replace("\n", " ")


def test_a_picture_that_is_in_a_folder_of_another_split_is_refused(
    pictures: Trained, tmp_path: Path
) -> None:
    # Given stills of their own, and a clip of the test that holds one of them
    for number in range(8):
        shutil.copy(pictures.folder / f"p{number}.png", tmp_path / f"p{number}.png")
    (tmp_path / "clip").mkdir()
    for name in ("p0.png", "p7.png"):
        shutil.copy(tmp_path / name, tmp_path / "clip" / name)
    splits = ("train", "train", "validation", "validation", "test", "test")
    rows: list[tuple[object, ...]] = [
        (f"p{number}.png", "ab"[number % 2], number, split) for number, split in enumerate(splits)
    ]
    rows.append(("clip", "b", 9, "test"))
    written = table(tmp_path / "labels.csv", rows, "path,label,group,split")
    words = (written, "--model", DEFAULT_BUNDLE, "--task", "lie", "--out", tmp_path / "head")
    done = command(*words)
    assert (done.exit_code, "are the same picture" in done.stderr) == (2, True), done.stderr


def test_the_same_picture_in_two_splits_is_refused(pictures: Trained, tmp_path: Path) -> None:
    for name in ("p0.png", "p1.png"):
        for copy in range(4):
            shutil.copy(pictures.folder / name, tmp_path / f"{copy}{name}")
    rows: list[tuple[object, ...]] = [
        (f"{copy}p{kind}.png", "ab"[kind], copy, ("train", "validation", "test", "train")[copy])
        for copy in range(4)
        for kind in range(2)
    ]
    written = table(tmp_path / "labels.csv", rows, "path,label,group,split")
    words = (written, "--model", DEFAULT_BUNDLE, "--task", "lie", "--out", tmp_path / "head")
    done = command(*words)
    assert (done.exit_code, "are the same picture" in done.stderr) == (2, True)


def test_when_nothing_can_be_read_nothing_is_trained(tmp_path: Path) -> None:
    rows = [(f"{i}.png", "ab"[i % 2], i) for i in range(12)]
    written = table(tmp_path / "labels.csv", rows)  # type: ignore[arg-type]
    words = (written, "--model", DEFAULT_BUNDLE, "--task", "lie", "--out", tmp_path / "head")
    done = command(*words)
    assert (done.exit_code, "none of the 12 clips can be used" in done.stderr) == (2, True)
    assert not (tmp_path / "head" / "head.json").exists()


# Real images


@pytest.mark.data
def test_planes_of_a_new_clinic(tmp_path: Path, data_root: Path) -> None:
    # Given some patients of four planes, as a clinic would hand them in
    with (data_root / "planes" / "labels.csv").open(newline="", encoding="utf-8") as file:
        every = [row for row in csv.DictReader(file) if row["split"] == "train"]
    splits = ("train", "train", "validation", "test")
    rows = []
    for plane in ("Fetal abdomen", "Fetal brain", "Fetal femur", "Fetal thorax"):
        for row in [row for row in every if row["plane"] == plane][:24]:
            split = splits[int(row["patient"]) % 4]
            path = data_root / "planes" / row["file"]
            rows.append((path, plane.split()[1], row["patient"], split))
    written = table(tmp_path / "clinic.csv", rows, "path,label,group,split")  # type: ignore[arg-type]
    # When a probe is trained on them
    words = (written, "--model", DEFAULT_BUNDLE, "--backend", "onnxruntime", "--task", "clinic")
    done = command(*words, "--out", tmp_path / "head", "--json")
    assert done.exit_code == 0, done.output
    metrics = json.loads(done.stdout)
    told = json.loads((tmp_path / "head" / "head.json").read_text())
    # Then its figures are scikit-learn's, on the embeddings of the device
    model = fe.load(None, "onnxruntime")
    labels = told["labels"]
    images = [np.asarray(Image.open(path).convert("L")) for path, *_ in rows]
    embeddings = model.embed(images)
    of = {name: np.array([row[3] == name for row in rows]) for name in set(splits)}
    truth = np.array([labels.index(row[1]) for row in rows])
    reference = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=told["training"]["c"], class_weight="balanced", max_iter=2000),
    ).fit(embeddings[of["train"]], truth[of["train"]])
    logits = reference.decision_function(embeddings[of["test"]]) / told["temperature"]
    scores, right = softmax(logits, axis=1), truth[of["test"]]
    assert metrics["auroc"] == pytest.approx(
        roc_auc_score(right, scores, multi_class="ovr"), abs=1e-6
    )
    found = scores.argmax(axis=1)
    assert metrics["macro_f1"] == pytest.approx(f1_score(right, found, average="macro"), abs=1e-6)
    assert metrics["macro_f1"] > 0.9
    assert metrics["clips"] == of["test"].sum()
