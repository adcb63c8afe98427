"""Scoring of answers, against figures worked out by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy import score


def row(name: str, plane: str, brain_plane: str = "") -> dict[str, str]:
    return {
        "file": f"images/{name}",
        "patient": name,
        "plane": plane,
        "brain_plane": brain_plane,
        "split": "test",
    }


def answer(name: str, plane: str, brain_plane: str | None = None, state: str = "live") -> Any:
    brain = None if brain_plane is None else {"scores": {brain_plane: 0.9, "none of them": 0.1}}
    return {
        "source": f"/somewhere/{name}",
        "state": state,
        "plane": {"label": plane, "scores": {plane: 0.8, "nothing": 0.2}},
        "brain_plane": brain,
    }


LABELS = [
    row("a", "Fetal abdomen"),
    row("b", "Fetal brain", "Trans-thalamic"),
    row("c", "Fetal brain", "Trans-cerebellum"),
    row("d", "Fetal femur"),
    row("e", "Fetal thorax"),
    row("f", "Other"),
]


def test_macro_f1_when_one_image_of_five_is_wrong() -> None:
    # Given an abdomen taken for a thorax, and all else right
    answers = [
        answer("a", "thorax"),
        answer("b", "brain", "trans-thalamic"),
        answer("c", "brain", "trans-cerebellum"),
        answer("d", "femur"),
        answer("e", "thorax", state="out_of_domain"),
    ]
    # When they are scored
    report = score(answers, LABELS)
    # Then F1 is 0 for the abdomen, 2/3 for the thorax, 1 for the rest
    assert report["images"] == 5
    assert report["planes_f1"] == pytest.approx(
        {"abdomen": 0, "brain": 1, "femur": 1, "thorax": 2 / 3}
    )
    assert report["planes_macro_f1"] == pytest.approx((0 + 1 + 1 + 2 / 3) / 4)
    # And the trans-ventricular plane, which is absent, counts as not found
    assert report["brain_planes_macro_f1"] == pytest.approx(2 / 3)
    assert report["abstained"] == pytest.approx(1 / 5)
    low, high = report["planes_macro_f1_interval"]
    assert low <= report["planes_macro_f1"] <= high


def test_an_image_without_an_answer_is_an_error() -> None:
    with pytest.raises(ValueError, match="no answer.*images/a"):
        score([], LABELS)


def test_an_unreadable_image_is_an_error() -> None:
    names = ("a", "b", "c", "d", "e")
    with pytest.raises(ValueError, match="unreadable.*a"):
        score([{"source": name, "error": "cut off"} for name in names], LABELS)


def test_command_says_what_is_wrong(tmp_path: Path, repository: Path) -> None:
    answers, labels = tmp_path / "answers.jsonl", tmp_path / "labels.csv"
    answers.write_text(json.dumps(answer("a", "abdomen")))
    labels.write_text("file,patient,plane,brain_plane,split\nb.png,1,Fetal brain,,test\n")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.accuracy", str(answers), "--labels", str(labels)],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "no answer" in done.stderr
    assert "Traceback" not in done.stderr
