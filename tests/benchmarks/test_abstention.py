"""Figures of calibration and abstention, against some worked out by hand."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks import abstention, strangers
from benchmarks.abstention import Seen, calibration, domain, report
from benchmarks.abstention_page import as_markdown
from benchmarks.strangers import gather
from fetalclip_edge.results import BrainPlaneScores, PlaneScores

from ..moments import result


def seen(
    kind: str,
    group: str,
    distance: float | None,
    confidence: float = 0.9,
    says: str | None = None,
    brain_plane: str | None = None,
) -> Seen:
    said = says or kind
    state = "no_signal" if distance is None else "live" if distance <= 1 else "out_of_domain"
    answer = replace(
        result(said, confidence, state, domain_distance=distance),
        plane=PlaneScores(said, confidence, {said: confidence, "nothing": 1 - confidence}),
        brain_plane=BrainPlaneScores("trans-thalamic", 0.6, {"trans-thalamic": 0.6, "x": 0.4})
        if said == "brain"
        else None,
    )
    return Seen(kind, group, answer, brain_plane)


def test_calibration_of_four_answers() -> None:
    # Given two answers of 0.9, one of them right, and two of 0.6, both right
    found = calibration(
        np.array([0.9, 0.9, 0.6, 0.6]),
        np.array([True, False, True, True]),
        ["a", "b", "a", "b"],
    )
    # Then the gaps are 0.4 in either bin
    assert found["expected_calibration_error"]["value"] == pytest.approx(0.4)
    assert (found["images"], found["patients"]) == (4, 2)
    assert (found["accuracy"], found["mean_confidence"]) == (0.75, 0.75)
    lower, upper = found["reliability"]
    assert (lower["from"], lower["to"]) == (9 / 15, 10 / 15)
    assert (lower["images"], lower["confidence"], lower["accuracy"]) == (2, 0.6, 1.0)
    assert (upper["images"], upper["confidence"], upper["accuracy"]) == (2, 0.9, 0.5)
    # Of patient a alone (0.1 and 0.4, the mean 0.25) to b alone (0.9 and 0.4: 0.65)
    assert found["expected_calibration_error"]["interval"] == pytest.approx([0.25, 0.65])


FETAL = [
    seen("brain", "p1", 0.2, brain_plane="trans-thalamic"),
    seen("brain", "p2", 0.4, brain_plane="trans-cerebellum"),
    seen("femur", "p3", 0.9),
    seen("abdomen", "p4", 1.2),
]


def test_distance_of_others_against_that_of_fetal_frames() -> None:
    # Given a photograph farther than three of the four frames, one farther than all, and no picture
    strangers = [seen("photo", "s1", 1.1), seen("photo", "s2", 3.0), seen("blank", "s3", None)]
    found = domain(FETAL, strangers)
    # Then 7 of 8 pairs are in order for the photographs, and 11 of 12 in all
    photo, blank = found["kinds"]["photo"], found["kinds"]["blank"]
    assert photo["auroc"]["value"] == pytest.approx(7 / 8)
    assert blank["auroc"]["value"] == 1
    assert found["pooled"]["auroc"]["value"] == pytest.approx(11 / 12)
    assert photo["withheld"]["value"] == blank["withheld"]["value"] == 1
    assert found["accepted"]["all planes"]["share"]["value"] == 0.75
    assert found["accepted"]["abdomen"]["share"]["value"] == 0
    assert found["accepted"]["brain"]["pictures"] == 2
    # And there is an interval where there are several sources
    low, high = photo["auroc"]["interval"]
    assert low <= 7 / 8 <= high == 1
    assert blank["auroc"]["interval"] is None


def test_the_report_keeps_other_frames_apart() -> None:
    apart = [seen("cervix", "p5", 2.0, says="other"), seen("other", "p6", 0.5)]
    strangers = [seen("noise", "s1", 2.0), seen("noise", "s2", 3.0)]
    planes = [*FETAL, seen("thorax", "p7", 0.1, 0.7, says="brain")]
    found = report([*planes, *apart], strangers)
    assert found["domain"]["accepted"]["all planes"]["pictures"] == 5
    assert found["apart"]["cervix"]["withheld"]["value"] == 1
    assert found["apart"]["other"]["withheld"]["value"] == 0
    assert found["calibration"]["planes"]["images"] == 5
    # Four answers of 0.9 are right, one of 0.7 is wrong
    error = found["calibration"]["planes"]["expected_calibration_error"]["value"]
    assert error == pytest.approx((4 * 0.1 + 0.7) / 5)
    # Two brains have a sub-plane, of which 0.6 was given to the right one of one
    parts = found["calibration"]["brain_planes"]
    assert (parts["images"], parts["accuracy"]) == (2, 0.5)
    assert parts["expected_calibration_error"]["value"] == pytest.approx(0.1)


def test_the_page_says_which_floors_hold() -> None:
    figures: dict[str, Any] = {
        **report([*FETAL, seen("cervix", "p5", 2.0)], [seen("noise", "s1", 0.1)] * 2),
        "bundle": {"name": "a model", "version": "1.0"},
        "backend": {"name": "onnxruntime", "version": "1", "precision": "int8"},
    }
    page = as_markdown(figures)
    assert "| expected calibration error, planes | 0.1000" in page
    assert "at most 0.03 | **not held** |" in page
    assert "| AUROC of the distance, all others | 0.0000 | 0.97 | **not held** |" in page
    figures["floors"] = {"planes_ece": 0.2, "auroc": 0.0, "accepted": 0.7}
    assert "not held" not in as_markdown(figures)


def test_the_interval_is_of_the_same_area(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given draws in which everyone comes once
    monkeypatch.setattr(abstention, "_DRAWS", 1)
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Everyone())
    rng = np.random.RandomState(0)
    fetal = [seen("brain", f"p{n}", d) for n, d in enumerate(rng.normal(0.8, 0.2, 40).round(1))]
    strangers = [seen("photo", f"s{n}", d) for n, d in enumerate(rng.normal(1, 0.2, 30).round(1))]
    # Then, ties and all, the area is scikit-learn's
    found = domain(fetal, strangers)["pooled"]["auroc"]
    assert found["interval"] == pytest.approx([found["value"]] * 2, abs=1e-12)
    assert 0.5 < found["value"] < 1


class Everyone:
    """In place of a random generator: draws all, each once."""

    def integers(self, low: int, high: int, size: int) -> np.ndarray:
        return np.arange(size)


def test_strangers_are_of_many_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a package with one picture, in place of scikit-image with its thirty
    package, folder = tmp_path / "skimage", tmp_path / "pictures"
    (package / "data").mkdir(parents=True)
    folder.mkdir()
    cv2.imwrite(
        str(package / "data" / "moon.png"), np.arange(10000, dtype=np.uint8).reshape(100, 100)
    )
    spec = ModuleSpec("skimage", None, origin=str(package / "__init__.py"))
    monkeypatch.setattr(strangers, "find_spec", lambda name: spec)
    # When others are gathered
    first = gather(folder)
    # Then there are of all kinds, and of a photograph the whole and four pieces
    assert [one.source for one in first].count("photographs: moon") == 5
    assert {one.kind for one in first} == {
        *("adult heart ultrasound", "adult pelvis ultrasound", "photographs"),
        *("screens", "test cards", "noise", "blank"),
    }
    # Neither a screen nor a test card is one colour
    drawn = [one for one in first if one.kind in ("screens", "test cards")]
    for one in drawn[::8]:
        image = cv2.imread(str(one.path))
        assert image is not None
        assert image.std() > 10


def test_a_package_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install scikit-image"):
        gather(tmp_path)


def test_command_says_what_is_wrong(tmp_path: Path, repository: Path) -> None:
    shipped = repository / "fetalclip_edge" / "bundles" / "default"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.abstention", str(shipped), "--data", str(tmp_path)],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "labels.csv" in done.stderr
    assert "Traceback" not in done.stderr
