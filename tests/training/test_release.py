"""A trained model on disk: what is written is what is read, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from fetalclip_edge.results import BRAIN_PLANES, PLANES
from training.models import DualEncoder, ModelConfig
from training.prompts import PLANE_PROMPTS
from training.release import Origin, load_release, save_release
from training.teacher import FrozenText

TINY = ModelConfig(image_size=64, embed_dim=16, text_width=32, text_heads=2, text_layers=1)


def tiny_model() -> DualEncoder:
    torch.manual_seed(0)
    return DualEncoder(TINY).eval()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    origin = Origin("distill", "CC-BY-NC-4.0", "fetalclip", "Maani et al. 2025")
    save_release(tmp_path, tiny_model(), {"planes_f1": 0.5}, {"planes/2", "planes/1"}, origin)
    return tmp_path


def test_a_release_reads_as_written_but_for_half_precision(run: Path) -> None:
    model, release = tiny_model(), load_release(run)
    assert release.config == TINY
    assert release.validation == {"planes_f1": 0.5}
    assert release.held_out == {"planes/1", "planes/2"}
    assert release.origin == Origin("distill", "CC-BY-NC-4.0", "fetalclip", "Maani et al. 2025")
    assert release.scale == pytest.approx(1 / 0.07)
    assert release.preprocess.size == 64
    own = model.image.state_dict()
    assert own.keys() == release.tower.state_dict().keys()
    for name, value in release.tower.state_dict().items():
        expected = own[name].half().float() if own[name].is_floating_point() else own[name]
        assert torch.equal(value, expected), name
    assert not release.tower.training
    assert not any(p.requires_grad for p in release.tower.parameters())


def test_prompt_embeddings_are_the_normalised_mean_of_their_sentences(run: Path) -> None:
    model, release = tiny_model(), load_release(run)
    assert release.embeddings["planes"].shape == (len(PLANES), 16)
    assert release.embeddings["brain_planes"].shape == (len(BRAIN_PLANES), 16)
    for row, label in zip(release.embeddings["planes"], PLANES, strict=True):
        with torch.inference_mode():
            mean = model.text(PLANE_PROMPTS.prompts[label]).double().numpy().mean(axis=0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-5)
    assert release.prompts["planes"]["sha256"] == PLANE_PROMPTS.sha256


def test_nothing_that_runs_code_when_read_is_written(run: Path) -> None:
    assert sorted(path.name for path in run.iterdir()) == [
        "image_tower.safetensors",
        "model.json",
        "prompts.safetensors",
        "text_tower.safetensors",
    ]


def _change_json(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        document = json.loads((folder / "model.json").read_text())
        change(document)
        (folder / "model.json").write_text(json.dumps(document))

    return spoil


def _change_tensors(
    name: str, change: Callable[[dict[str, Any]], object]
) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        tensors = dict(load_file(folder / name))
        change(tensors)
        save_file(tensors, folder / name)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_change_json(lambda d: d.pop("held_out")), "model.json .*held_out"),
        (_change_json(lambda d: d.pop("prompts")), "model.json .*prompts"),
        (_change_json(lambda d: d.pop("origin")), "model.json .*origin"),
        (_change_json(lambda d: d["origin"].update(owner="me")), "model.json .*owner"),
        (_change_json(lambda d: d["model"].update(depth=3)), "model.json .*depth"),
        (_change_json(lambda d: d["model"].update(embed_dim=0)), "embed_dim"),
        (_change_json(lambda d: d["model"].update(embed_dim=32)), "image_tower.*projection"),
        (_change_json(lambda d: d["prompts"]["planes"]["labels"].reverse()), "names the classes"),
        (
            _change_tensors("image_tower.safetensors", lambda t: t.pop("projection.weight")),
            "image_tower.*projection.weight",
        ),
        (
            _change_tensors(
                "image_tower.safetensors", lambda t: t.update(more=np.zeros(3, np.float32))
            ),
            "image_tower.*more",
        ),
        (
            _change_tensors(
                "prompts.safetensors", lambda t: t.update(planes=np.zeros((6, 8), np.float32))
            ),
            "prompts.safetensors must hold",
        ),
        (
            _change_tensors("prompts.safetensors", lambda t: t.pop("brain_planes")),
            "prompts.safetensors must hold",
        ),
    ],
)
def test_a_release_that_does_not_fit_is_refused(
    run: Path, spoil: Callable[[Path], None], told: str
) -> None:
    spoil(run)
    with pytest.raises(ValueError, match=f"(?s){told}"):
        load_release(run)


@pytest.mark.parametrize("name", ["model.json", "image_tower.safetensors", "prompts.safetensors"])
def test_a_missing_file_is_not_found(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(FileNotFoundError):
        load_release(run)


@pytest.mark.parametrize("name", ["model.json", "image_tower.safetensors"])
def test_a_damaged_file_is_named(run: Path, name: str) -> None:
    (run / name).write_bytes(b"{ cut off")
    with pytest.raises(ValueError, match=name):
        load_release(run)


def test_the_text_tower_is_read_where_it_is(run: Path) -> None:
    model, release = tiny_model(), load_release(run)
    assert release.text is not None
    with torch.inference_mode():
        torch.testing.assert_close(
            release.text(["fetal head."]), model.text(["fetal head."]), atol=2e-3, rtol=0
        )
    (run / "text_tower.safetensors").unlink()
    assert load_release(run).text is None


def test_a_students_text_tower_is_its_teachers(tmp_path: Path) -> None:
    teacher = tiny_model()
    student = DualEncoder(TINY, text=FrozenText(teacher.text)).eval()
    save_release(tmp_path, student, {}, set(), Origin("distill"))
    stored = load_release(tmp_path).text
    assert stored is not None
    for name, value in stored.state_dict().items():
        assert torch.equal(value, teacher.text.state_dict()[name].half().float()), name


def test_published_text_towers_are_not_passed_on(tmp_path: Path) -> None:
    class Published(torch.nn.Module):
        def forward(self, texts: list[str]) -> torch.Tensor:
            return torch.nn.functional.normalize(torch.ones(len(texts), 16), dim=-1)

    student = DualEncoder(TINY, text=Published()).eval()
    save_release(tmp_path, student, {}, set(), Origin("distill", "CC-BY-NC-4.0"))
    assert not (tmp_path / "text_tower.safetensors").exists()
    assert load_release(tmp_path).text is None
