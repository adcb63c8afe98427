"""Settings of a calibration, from YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibration.gate import Gate
from calibration.settings import Settings, load_settings, save_settings


def written(folder: Path, text: str) -> Path:
    path = folder / "calibration.yaml"
    path.write_text(text)
    return path


def test_what_a_file_says_is_taken_and_the_rest_keeps_its_default(tmp_path: Path) -> None:
    path = written(tmp_path, "frames: 64\nmethod: modelopt-max\ngate:\n  mean_cosine: 0.98\n")
    assert load_settings(path) == Settings(
        frames=64, method="modelopt-max", gate=Gate(mean_cosine=0.98)
    )
    assert load_settings(written(tmp_path, "")) == Settings()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("frames: 8", "frames must be at least 16, not 8"),
        ("frames: many", "frames is of the wrong type: 'many'"),
        ("colour: red", "unknown keys colour"),
        (
            "method: guess",
            "method must be one of onnxruntime, modelopt-max, modelopt-entropy, torch-max",
        ),
        ("method: 3", "method is of the wrong type: 3"),
        ("in_float: stem", "in_float is of the wrong type: 'stem'"),
        ("gate:\n  limit: 3", "gate: unknown keys limit"),
        ("gate:\n  agreement: 7", "agreement must lie between 0 and 1"),
        ("layers_in_float: -1", "must not be negative"),
        ("distill_epochs: -1", "distill_epochs must not be negative"),
        ("method: onnxruntime\ndistill_epochs: 2", "distill_epochs needs a method of torch-max"),
        ("- a", "must hold keys and values"),
        ("a: [", "is not YAML"),
    ],
)
def test_bad_settings_are_refused_by_name(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        load_settings(written(tmp_path, text))


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    settings = Settings(seed=3, in_float=("stem", "head"), gate=Gate(macro_f1_drop=0.1))
    save_settings(tmp_path / "settings.yaml", settings)
    assert load_settings(tmp_path / "settings.yaml") == settings
