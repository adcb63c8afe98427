"""Distillation by the real command: a teacher in, a student in its space out."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import typer
import yaml
from rich.console import Console
from safetensors.torch import load_file, save_file
from scipy.special import log_softmax
from torch import Tensor, nn

from training.augment import draw_views
from training.config import Distillation, load_config
from training.distill import check_teacher, main
from training.facts import Facts, relations
from training.lanes import Draw, Lanes
from training.learner import Images
from training.losses import contrastive_loss
from training.models import DualEncoder, ModelConfig
from training.models.untrained import as_published, untrained_model
from training.objectives import Distilling, Known, Pairs
from training.prompts import BRAIN_PLANE_PROMPTS
from training.release import Origin, load_release, save_release
from training.session import Session, prepare, train_and_validation
from training.shards import read_examples, read_manifest
from training.teacher import FrozenText, Teacher, TeacherCache, load_teacher
from training.view_set import ViewSet

from ..export import small

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def teacher_run(tmp_path_factory: pytest.TempPathFactory, drawn: Path, experiment: Path) -> Path:
    """An untrained teacher with a text tower of two layers and embeddings of 24 numbers."""
    _, held = train_and_validation(drawn, load_config(experiment))
    torch.manual_seed(1)
    shape = ModelConfig(
        image_size=64, embed_dim=24, text_width=32, text_heads=2, text_layers=2, text_context=40
    )
    out = tmp_path_factory.mktemp("teacher")
    held_out = {example.group for example in held}
    save_release(out, DualEncoder(shape).eval(), {}, held_out, Origin("pretrain"))
    return out


def distilling(values: dict[str, Any]) -> dict[str, Any]:
    distillation = {"logits": 1.0, "features": 2.0, "off_diagonal_start": 2.0}
    return {**values, "distillation": {**distillation, "off_diagonal_end": -0.8}}


@pytest.fixture
def config(tmp_path: Path, tiny_experiment: dict[str, Any]) -> Path:
    path = tmp_path / "distill.yaml"
    path.write_text(yaml.safe_dump(distilling(tiny_experiment)))
    return path


class Distilled(NamedTuple):
    """A student's run, how it was configured, and what its teacher's text tower was asked."""

    run: Path
    config: Path
    cache: Path
    sentences: set[str]


@pytest.fixture(scope="module")
def distilled(
    tmp_path_factory: pytest.TempPathFactory, teacher_run: Path, experiment: Path, drawn: Path
) -> Iterator[Distilled]:
    folder = tmp_path_factory.mktemp("distilled")
    config, sentences, real = folder / "distill.yaml", set(), FrozenText.forward
    config.write_text(yaml.safe_dump(distilling(yaml.safe_load(experiment.read_text()))))

    def forward(tower: FrozenText, texts: Sequence[str]) -> Tensor:
        sentences.update(texts)
        return real(tower, texts)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FrozenText, "forward", forward)
        main(config, [teacher_run], folder / "run", drawn, folder / "cache")
    yield Distilled(folder / "run", config, folder / "cache", sentences)
    torch.set_num_threads(threads)


def test_the_student_speaks_the_teachers_language(
    distilled: Distilled, teacher_run: Path, drawn: Path
) -> None:
    teacher, student = load_release(teacher_run), load_release(distilled.run)
    assert student.config.embed_dim == 24
    learned_from = read_manifest(drawn)["sha256"]
    assert student.origin == Origin(
        "distill", teacher="tf_efficientnet_lite0", data_sha256=learned_from
    )
    # The text tower has not moved, so the prompts of both are the same.
    for name, embedding in teacher.embeddings.items():
        np.testing.assert_allclose(student.embeddings[name], embedding, atol=2e-3)
    assert teacher.text is not None
    assert student.text is not None
    for name, value in teacher.text.state_dict().items():
        assert torch.equal(value, student.text.state_dict()[name]), name
    with (distilled.run / "log.csv").open(newline="", encoding="utf-8") as file:
        log = list(csv.DictReader(file))
    assert {"contrastive", "logits", "features"} <= set(log[0])
    assert float(log[1]["features"]) < float(log[0]["features"])


def test_a_student_is_told_ages_and_pixel_sizes_too(distilled: Distilled) -> None:
    # HC18's heads of 150 to 220 mm, which are 127 to 169 days old by WHO's median
    told = [re.search(r"(\d+) weeks", text) for text in distilled.sentences]
    weeks = {int(found[1]) for found in told if found}
    assert len(weeks) > 2
    assert weeks <= set(range(18, 25))
    assert sum(bool(re.search(r"\d\.\d\d mm", text)) for text in distilled.sentences) > 5


def test_a_student_goes_on_from_a_run(
    config: Path, teacher_run: Path, drawn: Path, tmp_path: Path, tiny_experiment: dict[str, Any]
) -> None:
    # Given a run whose patients held out are those of the experiment, and one that learned of all
    begun = DualEncoder(ModelConfig(**tiny_experiment["model"])).eval()
    data = read_manifest(drawn)["sha256"]
    for name, held_out in (("fair", load_release(teacher_run).held_out), ("unfair", set())):
        (tmp_path / name).mkdir()
        save_release(
            tmp_path / name, begun, {}, held_out, Origin("pretrain", "CC0-1.0", data_sha256=data)
        )
    values = yaml.safe_load(config.read_text())
    for name in ("fair", "unfair"):
        (tmp_path / f"{name}.yaml").write_text(
            yaml.safe_dump({**values, "frozen_stages": 3, "start": str(tmp_path / name)})
        )
    # When a student begins with it
    main(tmp_path / "fair.yaml", [teacher_run], tmp_path / "run", drawn, tmp_path / "cache")
    # Then frozen stages are those of the run, and its licence binds the student
    student = load_release(tmp_path / "run")
    first, last = (
        m.backbone.blocks[k].state_dict() for m, k in ((begun.image, 2), (begun.image, 6))
    )
    for name, value in first.items():
        torch.testing.assert_close(
            student.tower.backbone.blocks[2].state_dict()[name], value, rtol=1e-3, atol=1e-3
        )
    assert any(
        not torch.allclose(student.tower.backbone.blocks[6].state_dict()[name], value, atol=1e-3)
        for name, value in last.items()
    )
    assert (student.origin.license, student.origin.teacher) == ("CC0-1.0", "tf_efficientnet_lite0")
    # And the other is refused
    with pytest.raises(typer.Exit):
        main(tmp_path / "unfair.yaml", [teacher_run], tmp_path / "no", drawn, tmp_path / "cache")


def test_the_configuration_says_how_far_common_sub_planes_are_favoured(
    config: Path, drawn: Path, tmp_path: Path
) -> None:
    values = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**values, "recognition": 1.0, "sub_plane_balance": 0.5}))
    session = prepare(
        config, tmp_path / "run", drawn, tmp_path, (), Console(quiet=True), distilling=True
    )
    labels = BRAIN_PLANE_PROMPTS.labels
    counts = [sum(e.facts.brain_plane == label for e in session.learn) for label in labels]
    expected = [0.5 * np.log(count / sum(counts)) for count in counts]
    np.testing.assert_allclose(session._sentences().offsets[-len(labels) :], expected)


def test_a_smaller_holdout_is_part_of_the_larger(config: Path, drawn: Path, tmp_path: Path) -> None:
    # Given an experiment that holds patients out, and a share in its place
    def session(holdout: float | None) -> Session:
        return prepare(
            config,
            tmp_path / "run",
            drawn,
            tmp_path,
            (),
            Console(quiet=True),
            distilling=True,
            holdout=holdout,
        )

    few, many = session(0.05), session(None)
    # Then the few are of the many, who may judge them, and all others are learned from
    assert few.held_out < many.held_out
    assert {e.group for e in many.learn} < {e.group for e in few.learn}
    with pytest.raises(ValueError, match="holdout must lie between 0 and 1"):
        session(1.0)


def test_a_student_cut_off_goes_on_to_the_same_weights(
    distilled: Distilled,
    teacher_run: Path,
    drawn: Path,
    tmp_path: Path,
    cut_off_at: Callable[[int], AbstractContextManager[None]],
) -> None:
    with cut_off_at(7):
        main(distilled.config, [teacher_run], tmp_path / "cut", drawn, distilled.cache)
    main(distilled.config, [teacher_run], tmp_path / "cut", drawn, distilled.cache)
    for name in ("image_tower.safetensors", "prompts.safetensors", "model.json", "log.csv"):
        whole, cut = distilled.run / name, tmp_path / "cut" / name
        assert whole.read_bytes() == cut.read_bytes(), name


class Recorder(nn.Module):
    """A teacher's tower that answers with the mean grey level, and counts what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen: list[Tensor] = []

    def forward(self, levels: Tensor) -> Tensor:
        self.seen.append(levels)
        means = levels.mean(dim=(1, 2, 3)).float() / 255
        return torch.stack([means.cos(), means.sin()], dim=1)


def recording_teacher(sha256: str = "a") -> Teacher:
    return Teacher(
        name="t",
        image=Recorder(),
        text=nn.Identity(),
        text_shape={},
        scale=10.0,
        size=48,
        embed_dim=2,
        license="Apache-2.0",
        credit=None,
        held_out=None,
        data_sha256=None,
        sha256=sha256,
    )


@pytest.fixture
def images(drawn: Path) -> Images:
    examples = read_examples(drawn, "train")
    return Images.load(examples, range(len(examples)), 64)


def make_cache(
    folder: Path, images: Images, sha256: str = "a", precision: str = "no", **changed: Any
) -> TeacherCache:
    settings = {"canvas": 64, "views": 3, "seed": 0, "data_sha256": "d", **changed}
    views = ViewSet(images.examples, **settings)
    return TeacherCache(folder, recording_teacher(sha256), views, precision)


def test_the_teacher_sees_every_view_once_at_its_own_size(tmp_path: Path, images: Images) -> None:
    draws = [Draw(0, 1), Draw(5, 2), Draw(0, 1), Draw(7, 0)]
    first = make_cache(tmp_path, images)
    found = first.embeddings(images, draws)
    assert first.computed == 3
    views, _ = draw_views(
        images.pixels[[0, 5, 0, 7]], [(images.examples[d.index].name, d.view) for d in draws], 48, 0
    )
    means = views.double().mean(dim=(1, 2, 3)) / 255
    expected = torch.stack([means.cos(), means.sin()], dim=1).float()
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)  # kept in half precision

    again = make_cache(tmp_path, images)
    torch.testing.assert_close(again.embeddings(images, draws), found, rtol=0, atol=0)
    assert again.computed == 0
    assert again.embeddings(images, [Draw(1, 1)]).shape == (1, 2)
    assert again.computed == 1


@pytest.mark.parametrize(
    "changed", [{"sha256": "b"}, {"seed": 1}, {"precision": "bf16"}, {"data_sha256": "e"}]
)
def test_another_teacher_or_seed_has_a_cache_of_its_own(
    tmp_path: Path, images: Images, changed: dict[str, Any]
) -> None:
    make_cache(tmp_path, images).embeddings(images, [Draw(0, 0)])
    other = make_cache(tmp_path, images, **changed)
    other.embeddings(images, [Draw(0, 0)])
    assert other.computed == 1


def test_two_at_the_same_time_share_a_cache(tmp_path: Path, images: Images) -> None:
    one, other = make_cache(tmp_path, images), make_cache(tmp_path, images)
    found = one.embeddings(images, [Draw(0, 0), Draw(1, 2)])
    torch.testing.assert_close(other.embeddings(images, [Draw(1, 2)])[0], found[1])
    assert other.computed == 0
    assert len(list(tmp_path.iterdir())) == 1


def test_a_row_half_written_is_computed_again(tmp_path: Path, images: Images) -> None:
    first = make_cache(tmp_path, images)
    whole = first.embeddings(images, [Draw(0, 0)])
    first._kept[0, 0, 1] = 0
    second = make_cache(tmp_path, images)
    torch.testing.assert_close(second.embeddings(images, [Draw(0, 0)]), whole)
    assert second.computed == 1


def test_more_views_than_the_disk_holds_are_refused(tmp_path: Path, images: Images) -> None:
    with pytest.raises(ValueError, match="lower `views`"):
        make_cache(tmp_path, images, views=10**12)
    assert not list(tmp_path.iterdir())


def test_frozen_text_remembers_and_does_not_learn() -> None:
    torch.manual_seed(0)
    shape = ModelConfig(embed_dim=8, text_context=24, text_width=16, text_heads=2, text_layers=1)
    tower = DualEncoder(shape).text
    with torch.no_grad():
        expected = tower.eval()(["fetal head", "femur", "fetal head"])
    frozen = FrozenText(tower).train()
    torch.testing.assert_close(frozen(["fetal head", "femur", "fetal head"]), expected)
    assert not frozen.tower.training
    assert not any(p.requires_grad for p in frozen.parameters())
    frozen.tower = None  # type: ignore[assignment]
    torch.testing.assert_close(frozen(["femur"])[0], expected[1])


def test_losses_are_weighted_and_repulsion_comes_with_time(tmp_path: Path, images: Images) -> None:
    settings = Distillation(0.5, 3.0, off_diagonal_start=2.0, off_diagonal_end=-1.0)
    assert [settings.off_diagonal_at(done) for done in (0, 0.5, 1)] == [2.0, 0.5, -1.0]
    facts = [Facts("femur"), Facts("brain")]
    known = Known(torch.from_numpy(relations(facts, facts)), torch.eye(2), torch.zeros(2, 9))
    looks, captions = torch.tensor([[0.6, 0.8], [0.0, 1.0]]), torch.eye(2)
    pairs = Pairs(looks, captions, torch.tensor(10.0))
    early, late = (
        Distilling(settings, make_cache(tmp_path, images))(pairs, known, done)
        for done in (0.0, 1.0)
    )
    assert float(early["features"]) == pytest.approx(3 * (0.4 + 0.0) / 2)
    expected = contrastive_loss(looks, captions, pairs.scale, known.relations)
    assert float(early["contrastive"]) == pytest.approx(float(expected))
    # The teacher's scale is 10: it gives its own pair 1 / (1 + exp(-10)) and the other the rest.
    own, other = 1 / (1 + np.exp(-10)), 1 / (1 + np.exp(10))
    logits = 10 * np.array([[0.6, 0.8], [0.0, 1.0]])
    for losses, off_diagonal in ((early, 2.0), (late, -1.0)):
        total = 0.0
        for axis in (0, 1):
            chances = log_softmax(logits, axis=axis)
            weights = np.where(np.eye(2) == 1, own, off_diagonal * other)
            total -= (weights * chances).sum() / 2
        assert float(losses["logits"]) == pytest.approx(0.5 * total / 2, rel=1e-4)


def test_a_plan_of_few_views_repeats_them(images: Images) -> None:
    plan = Lanes(images.examples, lanes=1, batch_size=33, views=3, seed=0)
    drawn = {draw for step in range(60) for draw in plan.batch(step, 0)}
    assert len(drawn) == 3 * len(images.examples)


def test_bad_teachers_and_configurations_end_with_a_message_and_code_2(
    config: Path,
    teacher_run: Path,
    experiment: Path,
    drawn: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mute = tmp_path / "mute"
    mute.mkdir()
    for name in ("model.json", "image_tower.safetensors", "prompts.safetensors"):
        (mute / name).write_bytes((teacher_run / name).read_bytes())
    foreign = tmp_path / "weights.pt"
    content = io.BytesIO()
    torch.save({"some": torch.zeros(2)}, content)
    foreign.write_bytes(content.getvalue())
    wise = tmp_path / "wise"
    shutil.copytree(teacher_run, wise)
    description = json.loads((wise / "model.json").read_text())
    (wise / "model.json").write_text(json.dumps({**description, "held_out": []}))
    small = tmp_path / "small.yaml"
    values = yaml.safe_load(config.read_text())
    small.write_text(
        yaml.safe_dump(
            {
                **values,
                "canvas": 32,
                "stages": [{"epochs": 1, "image_size": 32}],
                "model": {**values["model"], "image_size": 32},
            }
        )
    )
    for path, teacher, architecture, told in (
        (experiment, teacher_run, "fetalclip", "use training.pretrain"),
        (config, mute, "fetalclip", "a teacher must embed captions"),
        (config, tmp_path / "nowhere.pt", "fetalclip", "nowhere.pt"),
        (config, foreign, "fetalclip", "FetalCLIP"),
        (config, foreign, "FetalCLIP", "--architecture must be fetalclip or mobile-fetalclip"),
        (config, wise, "fetalclip", "the teacher learned from"),
        (small, teacher_run, "fetalclip", "canvas must be at least the 64 pixels"),
    ):
        with pytest.raises(typer.Exit) as exit_:
            main(path, [teacher], tmp_path / "out", drawn, tmp_path / "cache", architecture)
        assert exit_.value.exit_code == 2
        assert told in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out" / "experiment.json").exists()


def test_a_teacher_from_other_data_is_not_refused(
    config: Path, teacher_run: Path, drawn: Path, tmp_path: Path
) -> None:
    """Whom it learned from, nobody can tell."""
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(teacher_run, elsewhere)
    description = json.loads((elsewhere / "model.json").read_text())
    description["held_out"] = []
    description["origin"]["data_sha256"] = "another"
    (elsewhere / "model.json").write_text(json.dumps(description))
    session = prepare(
        config, tmp_path / "run", drawn, tmp_path, (), Console(quiet=True), distilling=True
    )
    check_teacher(session, load_teacher(elsewhere))
    description["origin"]["data_sha256"] = session.data_sha256
    (elsewhere / "model.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="would be worth nothing"):
        check_teacher(session, load_teacher(elsewhere))


def test_another_teacher_does_not_take_over_a_run(
    distilled: Distilled,
    teacher_run: Path,
    drawn: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(distilled.run, tmp_path / "run")
    (tmp_path / "run" / "model.json").unlink()  # as if it had been killed just before
    other = tmp_path / "other"
    shutil.copytree(teacher_run, other)
    weights = load_file(other / "text_tower.safetensors")
    first = next(iter(weights))
    save_file({**weights, first: weights[first] + 0.5}, other / "text_tower.safetensors")
    with pytest.raises(typer.Exit) as exit_:
        main(distilled.config, [other], tmp_path / "run", drawn, tmp_path / "cache")
    assert exit_.value.exit_code == 2
    assert "prompts or teacher" in " ".join(capsys.readouterr().err.split())


def test_a_student_of_published_weights_is_bound_by_their_licence(
    config: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.shrink(monkeypatch)
    torch.manual_seed(0)
    weights = tmp_path / "mobile_fetal_clip_weights.pt"
    tensors = as_published(untrained_model("mobile-fetalclip"))
    halves = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    torch.save(halves, weights)
    values = {**yaml.safe_load(config.read_text()), "views": 1}
    config.write_text(yaml.safe_dump({**values, "stages": [{"epochs": 1, "image_size": 64}]}))
    main(config, [weights], tmp_path / "run", drawn, tmp_path / "cache", "mobile-fetalclip")
    student = load_release(tmp_path / "run")
    assert student.config.embed_dim == 16
    assert student.origin.license == "CC-BY-NC-4.0"
    assert student.origin.teacher == "mobile-fetalclip"
    assert "arXiv 2603.05421" in str(student.origin.teacher_credit)
    assert student.text is None
    assert not (tmp_path / "run" / "text_tower.safetensors").exists()
    assert student.embeddings["planes"].shape == (6, 16)
