"""Distillation by the real command: a teacher in, a student in its space out."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
import yaml
from torch import Tensor, nn

from training.augment import draw_views
from training.config import Distillation
from training.distill import main
from training.facts import Facts, relations
from training.lanes import Draw, Lanes
from training.learner import Images
from training.losses import contrastive_loss
from training.models import DualEncoder, ModelConfig
from training.objectives import Distilling, Known, Pairs
from training.release import Origin, load_release, save_release
from training.shards import read_examples
from training.teacher import FrozenText, Teacher, TeacherCache, load_teacher

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def teacher_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained teacher with a text tower of two layers and embeddings of 24 numbers."""
    torch.manual_seed(1)
    shape = ModelConfig(
        image_size=64, embed_dim=24, text_width=32, text_heads=2, text_layers=2, text_context=40
    )
    out = tmp_path_factory.mktemp("teacher")
    save_release(out, DualEncoder(shape).eval(), {}, {"planes/1"}, Origin("pretrain"))
    return out


@pytest.fixture
def config(tmp_path: Path, tiny_experiment: dict[str, Any]) -> Path:
    path = tmp_path / "distill.yaml"
    distillation = {"logits": 1.0, "features": 2.0, "off_diagonal_start": 2.0}
    values = {**tiny_experiment, "distillation": {**distillation, "off_diagonal_end": -0.8}}
    path.write_text(yaml.safe_dump(values))
    return path


def test_the_student_speaks_the_teachers_language(
    config: Path, teacher_run: Path, drawn: Path, tmp_path: Path
) -> None:
    main(config, teacher_run, tmp_path / "run", drawn, tmp_path / "cache")
    teacher, student = load_release(teacher_run), load_release(tmp_path / "run")
    assert student.config.embed_dim == 24
    assert student.origin == Origin("distill", "Apache-2.0", "tf_efficientnet_lite0", None)
    # The text tower has not moved, so the prompts of both are the same.
    for name, embedding in teacher.embeddings.items():
        np.testing.assert_allclose(student.embeddings[name], embedding, atol=2e-3)
    assert teacher.text is not None
    assert student.text is not None
    for name, value in teacher.text.state_dict().items():
        assert torch.equal(value, student.text.state_dict()[name]), name
    with (tmp_path / "run" / "log.csv").open(newline="", encoding="utf-8") as file:
        log = list(csv.DictReader(file))
    assert {"contrastive", "logits", "features"} <= set(log[0])
    assert float(log[1]["features"]) < float(log[0]["features"])


def test_a_student_cut_off_goes_on_to_the_same_weights(
    config: Path, teacher_run: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.trainer import Trainer

    real = Trainer._one_step

    def cut_off(trainer: Trainer) -> dict[str, float]:
        losses = real(trainer)
        if trainer.step == 7:
            raise KeyboardInterrupt
        return losses

    main(config, teacher_run, tmp_path / "whole", drawn, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_one_step", cut_off)
        with pytest.raises(KeyboardInterrupt):
            main(config, teacher_run, tmp_path / "cut", drawn, tmp_path / "cache")
    main(config, teacher_run, tmp_path / "cut", drawn, tmp_path / "cache")
    for name in ("image_tower.safetensors", "prompts.safetensors", "model.json", "log.csv"):
        whole, cut = tmp_path / "whole" / name, tmp_path / "cut" / name
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
    return Teacher("t", Recorder(), nn.Identity(), {}, 10.0, 48, 2, "Apache-2.0", None, sha256)


@pytest.fixture
def images(drawn: Path) -> Images:
    examples = read_examples(drawn, "train")
    return Images.load(examples, range(len(examples)), 64)


def make_cache(folder: Path, images: Images, sha256: str = "a", seed: int = 0) -> TeacherCache:
    teacher = recording_teacher(sha256)
    return TeacherCache(folder, teacher, images.examples, canvas=64, views=3, seed=seed)


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
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)  # bfloat16, then half

    again = make_cache(tmp_path, images)
    torch.testing.assert_close(again.embeddings(images, draws), found, rtol=0, atol=0)
    assert again.computed == 0
    assert again.embeddings(images, [Draw(1, 1)]).shape == (1, 2)
    assert again.computed == 1


@pytest.mark.parametrize("changed", [{"sha256": "b"}, {"seed": 1}])
def test_another_teacher_or_seed_has_a_cache_of_its_own(
    tmp_path: Path, images: Images, changed: dict[str, Any]
) -> None:
    make_cache(tmp_path, images).embeddings(images, [Draw(0, 0)])
    other = make_cache(tmp_path, images, **changed)
    other.embeddings(images, [Draw(0, 0)])
    assert other.computed == 1


def test_a_cache_of_another_shape_is_refused(tmp_path: Path, images: Images) -> None:
    make_cache(tmp_path, images).embeddings(images, [Draw(0, 0)])
    [file] = tmp_path.rglob("*.npy")
    np.save(file, np.zeros((2, 2), dtype=np.float16))
    with pytest.raises(ValueError, match="is not a teacher's cache"):
        make_cache(tmp_path, images).embeddings(images, [Draw(0, 0)])


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


def test_losses_are_weighted_and_repulsion_comes_with_time() -> None:
    settings = Distillation(0.5, 3.0, off_diagonal_start=2.0, off_diagonal_end=-1.0)
    assert [settings.off_diagonal_at(done) for done in (0, 0.5, 1)] == [2.0, 0.5, -1.0]
    facts = [Facts("femur"), Facts("brain")]
    known = Known(torch.from_numpy(relations(facts, facts)), torch.eye(2))
    images, captions = torch.tensor([[0.6, 0.8], [0.0, 1.0]]), torch.eye(2)
    pairs = Pairs(images, captions, torch.tensor(10.0))
    early, late = (
        Distilling(settings, None, 10.0)(pairs, known, done)  # type: ignore[arg-type]
        for done in (0.0, 1.0)
    )
    assert float(early["features"]) == pytest.approx(3 * (0.4 + 0.0) / 2)
    expected = contrastive_loss(images, captions, pairs.scale, known.relations)
    assert float(early["contrastive"]) == pytest.approx(float(expected))
    # Image 0 looks more like caption 1, which repulsion does not punish but reward.
    assert float(early["logits"]) > float(late["logits"])


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
    for path, teacher, told in (
        (experiment, teacher_run, "use training.pretrain"),
        (config, mute, "a teacher must embed captions"),
        (config, tmp_path / "nowhere.pt", "nowhere.pt"),
        (config, foreign, "FetalCLIP"),
    ):
        with pytest.raises(typer.Exit) as exit_:
            main(path, teacher, tmp_path / "out", drawn, tmp_path / "cache")
        assert exit_.value.exit_code == 2
        assert told in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_the_students_of_published_weights_are_bound_by_their_licence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_teacher(tmp_path / "FetalCLIP_weights.pt")
