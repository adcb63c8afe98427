"""Latency against accuracy: what is drawn, and files that are something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from benchmarks.plot import Point, draw, main, read_points


def timed(model: str, runtime: str, precision: str, milliseconds: float) -> dict[str, Any]:
    return {
        "name": f"{model}, {runtime}, {precision}",
        "model": model,
        "runtime": runtime,
        "precision": precision,
        "batch 1": {"median_ms": milliseconds},
    }


def judged(model: str, runtime: str, precision: str, score: float) -> dict[str, Any]:
    return {"name": f"{model}, {runtime}, {precision}", "planes_macro_f1": score}


TIMED = [
    timed("student", "openvino", "int8", 5.5),
    timed("student", "onnxruntime", "fp32", 9),
    timed("ViT-L/14", "open_clip eager", "fp32", 2600.0),
]
JUDGED = [judged("student", "openvino", "int8", 0.98), judged("student", "onnxruntime", "fp32", 1)]


def written(folder: Path, name: str, document: object) -> Path:
    path = folder / name
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_what_was_timed_meets_its_accuracy_by_name(tmp_path: Path) -> None:
    encoder = written(tmp_path, "encoder.json", {"rows": TIMED})
    retention = written(tmp_path, "retention.json", {"rows": JUDGED[::-1]})
    assert read_points(encoder, retention) == [
        Point("student", "openvino", "int8", 5.5, 0.98),
        Point("student", "onnxruntime", "fp32", 9.0, 1.0),
        Point("ViT-L/14", "open_clip eager", "fp32", 2600.0, None),
    ]


def test_points_and_lines_are_drawn(tmp_path: Path) -> None:
    points = [
        Point("student", "openvino", "int8", 5.5, 0.98),
        Point("ViT-L/14", "open_clip eager", "fp32", 2600.0, None),
    ]
    draw(points, tmp_path / "both.png")
    draw(points[:1], tmp_path / "one.png")
    # Blue is the runtime's, grey and broken the line of what was timed alone.
    blue, pictures = (31, 119, 180), {}
    for name in ("both", "one"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 300
            pictures[name] = picture.convert("RGB")
        colours = {colour for _, colour in pictures[name].getcolors(1 << 20) or []}
        assert blue in colours
    assert pictures["both"].tobytes() != pictures["one"].tobytes()


def test_the_recorded_results_can_be_drawn_by_the_command(repository: Path, tmp_path: Path) -> None:
    results = repository / "benchmarks" / "results"
    out = tmp_path / "new" / "encoder.png"
    words = [str(results / "encoder.json"), str(results / "retention.json"), "--out", str(out)]
    app = typer.Typer()
    app.command()(main)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    with Image.open(out) as drawn:
        assert drawn.width > 300


@pytest.mark.parametrize(
    ("encoder", "retention", "said"),
    [
        ("no JSON", {"rows": JUDGED}, "encoder.json holds no rows of a benchmark"),
        ({"rows": TIMED}, {"images": 3}, "retention.json holds no rows of a benchmark"),
        ({"rows": {}}, {"rows": JUDGED}, "encoder.json holds no rows of a benchmark, but dict"),
        ({"rows": [{"name": "a"}]}, {"rows": JUDGED}, "encoder.json has no model"),
        ({"rows": TIMED}, {"rows": [{"name": "a"}]}, "retention.json has no planes_macro_f1"),
        (
            {"rows": [{**TIMED[0], "batch 1": {}}]},
            {"rows": JUDGED},
            "encoder.json has no batch 1 / median_ms",
        ),
        ({"rows": TIMED[2:]}, {"rows": JUDGED}, "have no graph in common"),
    ],
)
def test_other_files_are_refused(
    tmp_path: Path, encoder: object, retention: object, said: str
) -> None:
    one, other = (
        written(tmp_path, "encoder.json", encoder),
        written(tmp_path, "retention.json", retention),
    )
    app = typer.Typer()
    app.command()(main)
    done = CliRunner().invoke(app, [str(one), str(other), "--out", str(tmp_path / "out.png")])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
    assert not (tmp_path / "out.png").exists()


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    retention = written(tmp_path, "retention.json", {"rows": JUDGED})
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        read_points(tmp_path / "none.json", retention)
