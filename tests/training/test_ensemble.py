"""Several teachers as one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from training.config import load_config
from training.distill import main
from training.ensemble import as_one, sample_captions, sentence_basis
from training.facts import Facts
from training.models import DualEncoder, ModelConfig
from training.release import Origin, load_release, save_release
from training.session import train_and_validation
from training.shards import read_manifest
from training.teacher import Teacher, load_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

SENTENCES = ["Ultrasound of the fetal femur.", "Fetal head.", "Gestational age 20 weeks."]


def shape(embed_dim: int, backbone: str) -> ModelConfig:
    text = {"text_width": 32, "text_heads": 2, "text_layers": 1, "text_context": 40}
    return ModelConfig(image_size=64, embed_dim=embed_dim, backbone=backbone, **text)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, drawn: Path, experiment: Path) -> list[Path]:
    """Two untrained teachers of other sizes, scales and patients held out."""
    _, held = train_and_validation(drawn, load_config(experiment))
    groups = {example.group for example in held}
    data = str(read_manifest(drawn)["sha256"])
    made = []
    for seed, (length, backbone, scale) in enumerate(
        [(24, "tf_efficientnet_lite0", 3.0), (16, "tf_efficientnet_lite1", 2.0)]
    ):
        torch.manual_seed(seed)
        model = DualEncoder(shape(length, backbone)).eval()
        with torch.no_grad():
            model.log_scale.fill_(scale)
        made.append(tmp_path_factory.mktemp("teacher"))
        origin = Origin("pretrain", data_sha256=data)
        save_release(made[-1], model, {}, groups | {f"planes/{seed}"}, origin)
    return made


@pytest.fixture(scope="module")
def teachers(folders: list[Path]) -> list[Teacher]:
    return [load_teacher(folder) for folder in folders]


def levels() -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (4, 1, 64, 64), generator=rng).float()


def sayings() -> list[str]:
    """Captions of every kind, more than embeddings are long."""
    kinds = [Facts("brain", part, 150.0, 0.2) for part in ("trans-thalamic", "trans-ventricular")]
    return [*SENTENCES, *sample_captions([*kinds, Facts("femur"), Facts("abdomen")], 200)]


def together_of(
    teachers: list[Teacher], sentences: list[str] | None = None, length: int = 40
) -> Teacher:
    basis = sentence_basis(teachers, sentences or sayings(), length)
    return as_one(teachers, basis)


def test_logits_are_the_mean_of_the_teachers_logits(teachers: list[Teacher]) -> None:
    # Given two teachers and a few pictures and sentences
    images = levels()
    together = together_of(teachers)
    with torch.inference_mode():
        # When they answer, alone and as one
        seen, said = together.image(images), together.text(SENTENCES)
        logits = together.scale * seen @ said.T
        each = [t.scale * t.image(images) @ t.text(SENTENCES).T for t in teachers]
    # Then the one says the mean, with embeddings of length one
    torch.testing.assert_close(logits, (each[0] + each[1]) / 2, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(said.norm(dim=1), torch.ones(3))
    assert together.embed_dim == seen.shape[1] == 40
    assert together.name == "tf_efficientnet_lite0 + tf_efficientnet_lite1"
    assert together.text.too_long(["word " * 60, "word"]) == 1  # type: ignore[operator]


def test_a_short_embedding_still_says_what_sentences_can_say(teachers: list[Teacher]) -> None:
    # Given sentences that span fewer directions than there are
    sentences = SENTENCES * 5
    # When embeddings are cut to as many
    short = together_of(teachers, sentences, 3)
    with torch.inference_mode():
        seen, told = short.image(levels()), short.text(SENTENCES)
        whole = together_of(teachers)
        logits = whole.image(levels()) @ whole.text(SENTENCES).T
    # Then each picture still ranks the sentences as before
    assert short.embed_dim == 3
    assert told.shape == (3, 3)
    torch.testing.assert_close(told @ told.T, whole.text(SENTENCES) @ whole.text(SENTENCES).T)
    torch.testing.assert_close(
        nn.functional.normalize(seen @ told.T), nn.functional.normalize(logits)
    )


def test_half_precision_leaves_lengths_at_one(teachers: list[Teacher]) -> None:
    together = together_of(teachers)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        seen = together.image(levels())
    # What is kept on disk is taken for whole by its length.
    torch.testing.assert_close(seen.norm(dim=1), torch.ones(4), rtol=0, atol=1e-4)


def test_the_strictest_licence_binds_and_all_are_credited(teachers: list[Teacher]) -> None:
    bound = [
        replace(t, license=license_, credit=credit)
        for t, license_, credit in zip(
            [*teachers, teachers[0]],
            ["Apache-2.0", "CC-BY-NC-4.0", "CC-BY-NC-4.0"],
            [None, "Maani et al.", "Maani et al."],
            strict=True,
        )
    ]
    together = together_of(bound)
    assert (together.license, together.credit) == ("CC-BY-NC-4.0", "Maani et al.")
    assert together.name == "2 tf_efficientnet_lite0 + tf_efficientnet_lite1"
    with pytest.raises(ValueError, match="CC-BY-NC-4.0 and GPL-3.0 cannot go into one model"):
        together_of([bound[1], replace(bound[0], license="GPL-3.0")])


def test_teachers_of_several_sizes_are_refused(teachers: list[Teacher]) -> None:
    with pytest.raises(ValueError, match=r"not of \[64, 96\] pixels"):
        together_of([teachers[0], replace(teachers[1], size=96)])


def test_a_student_learns_the_language_of_all(
    folders: list[Path],
    drawn: Path,
    tmp_path: Path,
    tiny_experiment: dict[str, Any],
    cut_off_at: Callable[[int], AbstractContextManager[None]],
) -> None:
    values = {**tiny_experiment, "distillation": {"logits": 1.0, "features": 1.0}}
    path = tmp_path / "distill.yaml"
    path.write_text(yaml.safe_dump(values))
    # A student whose run is cut off goes on with the same teacher
    with cut_off_at(7):
        main(path, folders, tmp_path / "run", drawn, tmp_path / "cache")
    main(path, folders, tmp_path / "run", drawn, tmp_path / "cache")
    student = load_release(tmp_path / "run")
    # Its embedding is as long as it says, or as theirs are together
    assert student.config.embed_dim == min(tiny_experiment["model"]["embed_dim"], 40)
    assert student.origin.teacher == "tf_efficientnet_lite0 + tf_efficientnet_lite1"
    # And prompts lie to one another as the teachers have them, on average
    scales = np.array([np.exp(3.0), np.exp(2.0)])
    each = [load_release(folder).embeddings["planes"] for folder in folders]
    mean = sum(w * e @ e.T for w, e in zip(scales / scales.sum(), each, strict=True))
    own = student.embeddings["planes"]
    np.testing.assert_allclose(own @ own.T, mean, atol=0.05)
