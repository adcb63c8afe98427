from __future__ import annotations

import copy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import typer
from PIL import Image, ImageDraw

from training.head_images import load_heads, mask_path, read_heads, read_mask
from training.head_release import HeadRelease, load_head, save_head
from training.models import DualEncoder, ImageTower, ModelConfig
from training.models.decoder import DecoderConfig, HeadDecoder
from training.release import Origin, load_release, save_release
from training.segmentation import Settings, head_loss, judge, main, see, teach

from .heads_folder import write_heads

TRAIN, TEST = 24, 4
CONFIG = ModelConfig(image_size=64, embed_dim=16, text_width=32, text_heads=2, text_layers=1)
SMALL = DecoderConfig(
    channels=(24, 40, 112, 320), widths=(16, 16, 16, 16), depths=(1, 1, 1, 1), expansion=1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_heads(tmp_path_factory.mktemp("heads"), TRAIN, TEST)


@pytest.fixture(scope="module")
def model() -> DualEncoder:
    torch.manual_seed(0)
    model = DualEncoder(CONFIG).eval().requires_grad_(False)
    model.image.load_imagenet()
    return model


class Taught(NamedTuple):
    decoder: HeadDecoder
    losses: list[float]
    before: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def taught(folder: Path, model: DualEncoder) -> Taught:
    before, losses = copy.deepcopy(model.image.state_dict()), []
    learned = load_heads(read_heads(folder, "train"), 77)
    settings = Settings(epochs=20, views=2, batch=8, rate=0.02)
    decoder = teach(
        model.image, learned, settings, config=SMALL, done=lambda e, n, loss, d: losses.append(loss)
    )
    return Taught(decoder, losses, before)


def test_a_decoder_learns_where_heads_are_and_the_tower_stays(
    folder: Path, model: DualEncoder, taught: Taught
) -> None:
    tower = model.image
    spec, figures = judge(tower, taught.decoder, load_heads(read_heads(folder, "test"), 64))
    assert np.mean(taught.losses[-3:]) < 0.5 * np.mean(taught.losses[:3])
    assert figures["dice"] > 0.85
    assert figures["withheld"] < TEST
    # Masks of whole pixels whose middles are within have their edge on the ellipse.
    assert abs(spec.rim_px) < 0.25
    # And planes are told as before, to the bit
    after = tower.state_dict()
    assert all(torch.equal(value, taught.before[name]) for name, value in after.items())
    assert not tower.training


def test_the_loss_is_of_edge_and_size() -> None:
    wanted = torch.zeros(2, 1, 16, 16)
    wanted[:, :, 4:12, 4:12] = 1
    right = torch.full((2, 1, 8, 8), -20.0)
    right[:, :, 2:6, 2:6] = 20
    larger = torch.full((2, 1, 8, 8), -20.0)
    larger[:, :, 1:7, 1:7] = 20
    nothing = torch.full((2, 1, 8, 8), -20.0)
    losses = [float(head_loss(each, wanted)) for each in (right, larger, nothing)]
    assert losses == sorted(losses)
    assert losses[0] < 0.6


def test_the_decoder_gives_a_map_at_stride_4(model: DualEncoder) -> None:
    maps = model.image.pyramid(torch.zeros(2, 1, 64, 64))
    assert [tuple(each.shape[1:]) for each in maps] == [
        (24, 16, 16),
        (40, 8, 8),
        (112, 4, 4),
        (320, 2, 2),
    ]
    assert HeadDecoder(SMALL)(maps).shape == (2, 1, 16, 16)


@pytest.mark.parametrize(
    "change", [{"depths": (1, 1)}, {"widths": (8, 8, 8, 0)}, {"expansion": 0}, {"channels": ()}]
)
def test_a_decoder_of_no_shape_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        DecoderConfig(**{**SMALL.to_dict(), **change})  # type: ignore[arg-type]


def released(folder: Path, tower: ImageTower) -> HeadRelease:
    torch.manual_seed(1)
    decoder, held = HeadDecoder(SMALL).eval(), frozenset({"hc18/7"})
    release = HeadRelease(decoder, {"edge_px": 0.5}, {"dice": 0.9}, "3 heads", held)
    save_head(folder, tower, release)
    return release


def test_a_decoder_on_disk_is_the_same_in_half_precision(
    tmp_path: Path, model: DualEncoder
) -> None:
    kept = released(tmp_path / "head", model.image)
    read = load_head(tmp_path / "head", model.image)
    images = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    wanted, found = (see(model.image, each.decoder, images) for each in (kept, read))
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0.01)
    assert (read.spec, read.validation, read.data) == (kept.spec, kept.validation, kept.data)
    assert read.held_out == {"hc18/7"}


def test_a_decoder_of_another_tower_is_refused(tmp_path: Path, model: DualEncoder) -> None:
    released(tmp_path / "head", model.image)
    other = copy.deepcopy(model.image)
    with torch.no_grad():
        next(other.parameters()).add_(0.01)
    with pytest.raises(ValueError, match="maps of another model"):
        load_head(tmp_path / "head", other)


def test_a_missing_or_damaged_decoder_says_what_to_do(tmp_path: Path, model: DualEncoder) -> None:
    with pytest.raises(FileNotFoundError, match=r"training\.segmentation"):
        load_head(tmp_path, model.image)
    released(tmp_path, model.image)
    (tmp_path / "decoder.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="does not fit"):
        load_head(tmp_path, model.image)
    (tmp_path / "head.json").write_text("{}")
    with pytest.raises(ValueError, match="not what save_head wrote"):
        load_head(tmp_path, model.image)


def test_an_outline_as_hc18_publishes_it_is_filled(tmp_path: Path) -> None:
    image = Image.new("L", (80, 60))
    image.save(tmp_path / "7_HC.png")
    ImageDraw.Draw(image).ellipse((10, 10, 60, 50), outline=255)
    image.save(tmp_path / "7_HC_Annotation.png")
    mask = read_mask(mask_path(tmp_path / "7_HC.png"))
    assert mask.shape == (60, 80)
    assert (mask > 0).sum() == pytest.approx(np.pi * 25.5 * 20.5, rel=0.01)
    assert mask[30, 35] == 255
    assert mask[0, 0] == 0


def test_an_image_without_a_mask_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"7_HC\.png has no mask"):
        mask_path(tmp_path / "images" / "7_HC.png")


def test_the_command_writes_a_decoder(
    folder: Path,
    tmp_path: Path,
    model: DualEncoder,
    taught: Taught,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a decoder that has learned already
    monkeypatch.setattr("training.segmentation.teach", lambda *_, **__: taught.decoder)
    run, out = tmp_path / "run", tmp_path / "head"
    run.mkdir()
    held = [f"hc18/{number:03d}" for number in range(4)]
    save_release(run, model, {"planes_f1": 0.5}, held, Origin("pretrain"))
    main(run, data=folder, out=out, epochs=1, views=2, seed=0)
    release = load_head(out, load_release(run).tower)
    assert release.data == "20 heads of HC18, judged by 4 of other examinations"
    assert release.validation["heads"] == 4
    assert set(release.spec) >= {"edge_px", "rim_px", "error_relative"}


def test_the_heads_that_the_twin_held_out_judge(
    folder: Path,
    tmp_path: Path,
    model: DualEncoder,
    taught: Taught,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a run that learned from nearly all, and its twin
    monkeypatch.setattr("training.segmentation.teach", lambda *_, **__: taught.decoder)
    for name, number in (("run", 1), ("twin", 6)):
        (tmp_path / name).mkdir()
        held = [f"hc18/{i:03d}" for i in range(number)]
        save_release(tmp_path / name, model, {"planes_f1": 0.5}, held, Origin("pretrain"))
    run, twin, out = (tmp_path / name for name in ("run", "twin", "head"))
    # When a decoder is taught
    main(run, data=folder, out=out, epochs=1, views=2, seed=0, judged_by=twin)
    # Then it learns from none of the twin's
    release = load_head(out, load_release(run).tower)
    assert release.data == "18 heads of HC18, judged by 6 of other examinations"
    # And a run with no more held out is no twin
    with pytest.raises(typer.Exit) as stop:
        main(twin, data=folder, out=out, epochs=1, views=2, seed=0, judged_by=run)
    assert stop.value.exit_code == 2


def test_a_decoder_goes_on_from_another(folder: Path, model: DualEncoder, taught: Taught) -> None:
    learned = load_heads(read_heads(folder, "train"), 77)
    still = Settings(epochs=1, views=1, batch=8, rate=0.0, weight_decay=0.0)
    same = teach(model.image, learned, still, config=SMALL, start=taught.decoder)
    before = dict(taught.decoder.named_parameters())
    for name, value in same.named_parameters():
        torch.testing.assert_close(value, before[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("full", "kept", "told"),
    [(False, 4, "is of another shape"), (True, 3, "may have learned from 1 of the 4 patients")],
)
def test_a_start_that_does_not_fit_is_refused(
    folder: Path,
    tmp_path: Path,
    model: DualEncoder,
    taught: Taught,
    capsys: pytest.CaptureFixture[str],
    full: bool,
    kept: int,
    told: str,
) -> None:
    run, start = tmp_path / "run", tmp_path / "start"
    run.mkdir()
    held = [f"hc18/{number:03d}" for number in range(4)]
    decoder = taught.decoder
    if full:
        shape = model.image.pyramid(torch.zeros(1, 1, 64, 64))
        decoder = HeadDecoder(DecoderConfig(channels=tuple(maps.shape[1] for maps in shape)))
    save_release(run, model, {"planes_f1": 0.5}, held, Origin("pretrain"))
    spec, figures = judge(model.image, taught.decoder, load_heads(read_heads(folder, "test"), 64))
    learned = HeadRelease(decoder, spec.to_dict(), figures, "heads", frozenset(held[:kept]))
    save_head(start, model.image, learned)
    with pytest.raises(typer.Exit) as stop:
        main(run, data=folder, out=tmp_path / "out", epochs=1, views=1, seed=0, start=start)
    assert stop.value.exit_code == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_run_that_held_no_head_out_is_refused(
    folder: Path, tmp_path: Path, model: DualEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    save_release(tmp_path, model, {"planes_f1": 0.5}, ["planes/1"], Origin("pretrain"))
    with pytest.raises(typer.Exit) as stop:
        main(tmp_path, data=folder, out=tmp_path / "head", epochs=1, views=1, seed=0)
    assert stop.value.exit_code == 2
    assert "0 heads of examinations" in " ".join(capsys.readouterr().err.split())
