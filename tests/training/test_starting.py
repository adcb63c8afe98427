"""First weights: random, ImageNet, a run's, a published file's; and what may be done with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml

from training.config import ExperimentConfig, PublishedConfig, load_config
from training.models import (
    DualEncoder,
    ImageTower,
    ModelConfig,
    PublishedModel,
    load_mobile_fetalclip,
)
from training.models.untrained import as_published, untrained_model
from training.pretrain import main
from training.release import Origin, load_published, load_release, save_release
from training.shards import read_manifest
from training.starting import begin_tower, first_model, origin_of, origin_of_student
from training.teacher import load_teacher

from ..export import small

pytestmark = pytest.mark.usefixtures("one_thread")


def configured(folder: Path, values: dict[str, Any]) -> ExperimentConfig:
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(values))
    return load_config(path)


@pytest.fixture
def mobile(tiny_experiment: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A few steps of pretraining MobileFetalCLIP, small."""
    small.shrink(monkeypatch)
    return {
        **tiny_experiment,
        "batch_size": 18,
        "checkpoint_steps": 100,
        "stages": [{"epochs": 1, "image_size": 64}],
        "model": {"published": "mobile-fetalclip"},
    }


@pytest.fixture
def published(mobile: dict[str, Any], tmp_path: Path) -> Path:
    """A file in its layout, with random weights."""
    torch.manual_seed(0)
    path = tmp_path / "mobile_fetal_clip_weights.pt"
    torch.save(as_published(untrained_model("mobile-fetalclip")), path)
    return path


def test_a_run_can_go_on_from_another(tmp_path: Path, tiny_experiment: dict[str, Any]) -> None:
    torch.manual_seed(9)
    trained = DualEncoder(ModelConfig(**tiny_experiment["model"])).eval()
    with torch.no_grad():
        trained.log_scale.fill_(3.0)
    save_release(tmp_path, trained, {}, set(), Origin("distill", "CC-BY-NC-4.0", "fetalclip", "M."))
    config = configured(tmp_path, {**tiny_experiment, "start": str(tmp_path)})
    model = first_model(config)
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-3, atol=1e-3, msg=name)
    assert all(p.requires_grad for p in model.parameters())
    # What it began with binds it.
    origin = origin_of(config, model, "abc")
    assert origin == Origin("pretrain", "CC-BY-NC-4.0", "fetalclip", "M.", "abc")


def test_another_shape_is_refused(tmp_path: Path, tiny_experiment: dict[str, Any]) -> None:
    shape = ModelConfig(**{**tiny_experiment["model"], "embed_dim": 8})
    save_release(tmp_path, DualEncoder(shape).eval(), {}, set(), Origin("pretrain"))
    config = configured(tmp_path, {**tiny_experiment, "start": str(tmp_path)})
    with pytest.raises(ValueError, match="the experiment wants"):
        first_model(config)


@pytest.mark.parametrize("said", ["the same data", "nothing", "other data"])
def test_a_run_that_learned_from_those_held_out_is_no_start(
    said: str,
    drawn: Path,
    tmp_path: Path,
    tiny_experiment: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    same = str(read_manifest(drawn)["sha256"])
    learned_from = {"the same data": same, "nothing": None, "other data": "another"}[said]
    model = DualEncoder(ModelConfig(**tiny_experiment["model"])).eval()
    save_release(tmp_path, model, {}, {"planes/1"}, Origin("pretrain", data_sha256=learned_from))
    path = tmp_path / "experiment.yaml"
    # Too large a batch: what passes ends there.
    path.write_text(yaml.safe_dump({**tiny_experiment, "start": str(tmp_path), "batch_size": 500}))
    with pytest.raises(typer.Exit):
        main(path, tmp_path / "run", drawn)
    told = " ".join(capsys.readouterr().err.split())
    assert ("held out here, so validation would be worth nothing" in told) == (said != "other data")
    assert ("batch_size must be at most" in told) == (said == "other data")


def without_text(folder: Path, shape: ModelConfig, origin: Origin) -> DualEncoder:
    """A trained image tower whose text tower has not been kept."""
    torch.manual_seed(9)
    trained = DualEncoder(shape).eval()
    save_release(folder, trained, {}, {"planes/1"}, origin)
    (folder / "text_tower.safetensors").unlink()
    return trained


def test_a_run_without_its_text_tower_lends_its_backbone(
    tmp_path: Path, tiny_experiment: dict[str, Any]
) -> None:
    shape = ModelConfig(**{**tiny_experiment["model"], "embed_dim": 8})
    trained = without_text(tmp_path, shape, Origin("pretrain"))
    config = configured(tmp_path, {**tiny_experiment, "start": str(tmp_path), "frozen_stages": 2})
    model = first_model(config)
    assert isinstance(model, DualEncoder)
    assert model.image.projection.out_features == tiny_experiment["model"]["embed_dim"] != 8
    for name, value in trained.image.backbone.state_dict().items():
        begun = model.image.backbone.state_dict()[name]
        torch.testing.assert_close(begun, value, rtol=1e-3, atol=1e-3, msg=name)
    learns = {name.split(".")[1] for name, p in model.image.named_parameters() if p.requires_grad}
    assert learns == {"blocks", "conv_head", "bn2", "weight"}


def test_a_student_starts_from_a_backbone_that_fits(
    tmp_path: Path, tiny_experiment: dict[str, Any]
) -> None:
    shape = ModelConfig(**{**tiny_experiment["model"], "backbone": "tf_efficientnet_lite1"})
    without_text(tmp_path, shape, Origin("pretrain"))
    distillation = {"logits": 1.0, "features": 1.0}
    config = configured(
        tmp_path, {**tiny_experiment, "start": str(tmp_path), "distillation": distillation}
    )
    tower = ImageTower(ModelConfig(**tiny_experiment["model"]))
    with pytest.raises(ValueError, match=r"_lite1 .*, the experiment wants tf_efficientnet_lite0"):
        begin_tower(tower, config)


OURS, FETALCLIP, ANOTHER = (
    Origin("distill", teacher="teacher"),
    Origin("distill", "CC-BY-NC-4.0", "fetalclip", "Maani et al."),
    Origin("distill", "GPL-3.0", "another", "Somebody"),
)


@pytest.mark.parametrize(
    ("began", "taught", "bound"),
    [
        (OURS, OURS, OURS),
        (OURS, FETALCLIP, FETALCLIP),
        (FETALCLIP, FETALCLIP, FETALCLIP),
        (FETALCLIP, OURS, replace(FETALCLIP, teacher="teacher")),
    ],
)
def test_a_student_is_bound_by_its_teacher_and_by_its_start(
    began: Origin,
    taught: Origin,
    bound: Origin,
    tmp_path: Path,
    tiny_experiment: dict[str, Any],
) -> None:
    without_text(tmp_path, ModelConfig(**tiny_experiment["model"]), began)
    config = configured(tmp_path, {**tiny_experiment, "start": str(tmp_path)})
    assert origin_of_student(config, taught) == bound
    from_imagenet = configured(tmp_path, tiny_experiment)
    assert origin_of_student(from_imagenet, taught) == taught


def test_two_licences_that_both_bind_are_refused(
    tmp_path: Path, tiny_experiment: dict[str, Any]
) -> None:
    without_text(tmp_path, ModelConfig(**tiny_experiment["model"]), FETALCLIP)
    config = configured(tmp_path, {**tiny_experiment, "start": str(tmp_path)})
    with pytest.raises(ValueError, match=r"CC-BY-NC-4\.0 and GPL-3\.0 cannot go into one"):
        origin_of_student(config, ANOTHER)


def test_random_weights_are_the_seeds(tmp_path: Path, tiny_experiment: dict[str, Any]) -> None:
    config = configured(tmp_path, {**tiny_experiment, "start": "random"})
    one, same = first_model(config).state_dict(), first_model(config).state_dict()
    imagenet = first_model(configured(tmp_path, tiny_experiment)).state_dict()
    name = "image.backbone.conv_stem.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], imagenet[name])


def test_published_architectures_are_pretrained_into_their_authors_layout(
    mobile: dict[str, Any],
    published: Path,
    drawn: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump({**mobile, "start": str(published)}))
    main(path, tmp_path / "run", drawn)
    before, after = (
        load_mobile_fetalclip(published),
        load_mobile_fetalclip(tmp_path / "run" / "weights.pt"),
    )
    moved = [
        name
        for name, value in after.state_dict().items()
        if not torch.equal(value, before.state_dict()[name])
    ]
    assert {name.split(".")[0] for name in moved} == {"image", "text", "logit_scale"}
    found = load_published(tmp_path / "run")
    assert found is not None
    assert found[1].license == "CC-BY-NC-4.0"
    # It may go on, and remains what it was.
    again = configured(tmp_path, {**mobile, "start": str(tmp_path / "run")})
    torch.testing.assert_close(first_model(again).logit_scale, after.logit_scale)
    origin = origin_of(again, after, "abc")
    assert origin == replace(found[1], data_sha256="abc")
    teacher = load_teacher(tmp_path / "run")
    assert (teacher.name, teacher.embed_dim, teacher.size) == ("mobile-fetalclip", 16, 64)
    assert teacher.held_out == found[2]
    assert len(found[2]) > 0
    assert "next: python -m training.distill" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ValueError, match=r"weights\.pt --architecture mobile-fetalclip"):
        load_release(tmp_path / "run")


def test_random_weights_of_a_published_architecture_are_ones_own(
    tmp_path: Path, mobile: dict[str, Any]
) -> None:
    config = configured(tmp_path, {**mobile, "start": "random"})
    assert config.model == PublishedConfig("mobile-fetalclip")
    model = first_model(config)
    assert isinstance(model, PublishedModel)
    assert all(p.requires_grad for p in model.parameters())
    assert origin_of(config, model, "abc").license == "Apache-2.0"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model": {"published": "clip"}}, "published must be fetalclip or mobile-fetalclip"),
        ({"start": "imagenet"}, "start must be"),
        ({"start": "random", "stages": [{"epochs": 1, "image_size": 32}]}, "image_size must be"),
        (
            {"start": "random", "distillation": {"logits": 1.0, "features": 1.0}},
            "a student must be of our own shapes",
        ),
        (
            {
                "start": "random",
                "stages": [{"epochs": 1, "image_size": 32}, {"epochs": 1, "image_size": 64}],
            },
            "wants stages of 64 pixels alone",
        ),
        ({"model": {"published": "fetalclip", "depth": 3}}, "unknown keys depth"),
    ],
)
def test_a_published_architecture_that_cannot_be_is_refused(
    tmp_path: Path, mobile: dict[str, Any], changed: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        configured(tmp_path, {**mobile, **changed})


def test_a_start_that_is_not_there_is_told(
    mobile: dict[str, Any], drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump({**mobile, "start": "nowhere.pt"}))
    with pytest.raises(typer.Exit) as exit_:
        main(path, tmp_path / "run", drawn)
    assert exit_.value.exit_code == 2
    assert "nowhere.pt" in capsys.readouterr().err


def test_a_folder_of_our_own_shapes_is_no_published_model(
    tmp_path: Path, tiny_experiment: dict[str, Any]
) -> None:
    shape = ModelConfig(**tiny_experiment["model"])
    save_release(tmp_path, DualEncoder(shape).eval(), {}, set(), Origin("pretrain"))
    assert load_published(tmp_path) is None
    assert load_release(tmp_path).config == shape
