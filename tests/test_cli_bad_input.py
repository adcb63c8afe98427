"""What a first user gives by mistake, and what the command line makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

import fetalclip_edge as fe
from fetalclip_edge.analysis import read_pixel_sizes
from fetalclip_edge.errors import SourceError


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "fetalclip_edge.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "scans" / "picture.png"
    path.parent.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path.write_bytes(cv2.imencode(".png", noise)[1].tobytes())
    return path


def test_a_stream_without_a_readable_frame_is_bad_input(tmp_path: Path) -> None:
    # Given an empty image file
    (tmp_path / "empty.png").touch()
    # When it is streamed
    done = run("stream", tmp_path / "empty.png", "--json")
    # Then nothing is answered and the exit code says so
    assert done.returncode == 2
    assert done.stdout == ""
    assert "error: " in done.stderr
    assert "empty.png" in done.stderr


def test_a_stream_with_some_unreadable_frames_fails_at_the_end(picture: Path) -> None:
    (picture.parent / "zzz.png").touch()
    done = run("stream", picture.parent, "--json")
    assert done.returncode == 1
    [line] = done.stdout.splitlines()
    assert json.loads(line)["source"] == str(picture)
    assert "1 of the frames could not be read" in done.stderr


def test_a_pipe_is_reported_and_the_run_goes_on(tmp_path: Path, picture: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    done = run("analyze", pipe, picture, "--json")
    first, second = map(json.loads, done.stdout.splitlines())
    assert "no regular file" in first["error"]
    assert second["source"] == str(picture)
    assert done.returncode == 1


def test_a_folder_stands_for_its_dicom_files_too(picture: Path) -> None:
    # Given a folder with an image, a DICOM file without a suffix, and a note
    spec = find_spec("pydicom")
    assert spec is not None
    [package] = spec.submodule_search_locations or []
    cine = Path(package) / "data" / "test_files" / "examples_ybr_color.dcm"
    (picture.parent / "A1").write_bytes(cine.read_bytes())
    (picture.parent / "note.txt").write_text("no picture")
    # When the folder is analysed
    done = run("analyze", picture.parent, "--json")
    # Then there is an answer for each of its 30 frames, in order, and one for the image
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["frame_index"] for answer in answers[:30]] == list(range(30))
    assert answers[30]["source"] == str(picture)
    assert len(answers) == 31
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"file;pixel_size_mm\na.png;0.1\n", ["lacks the column", "file;pixel_size_mm"]),
        ("file,pixel_size_mm\né.png,0.1\n".encode("latin-1"), ["UTF-8", "sizes.csv"]),
    ],
)
def test_a_table_of_pixel_sizes_says_what_is_wrong(
    tmp_path: Path, picture: Path, content: bytes, words: list[str]
) -> None:
    table = tmp_path / "sizes.csv"
    table.write_bytes(content)
    done = run("analyze", picture, "--pixel-sizes", table)
    assert done.returncode == 2
    assert all(word in done.stderr for word in words)


def test_rows_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    table = tmp_path / "sizes.csv"
    table.write_text("file,pixel_size_mm\na.png,0.1\nb.png,0.3\na.png,0.10\n")
    assert read_pixel_sizes(table) == {"a.png": 0.1, "b.png": 0.3}
    table.write_text("file,pixel_size_mm\na.png,0.1\nb.png,0.3\na.png,0.2\n")
    with pytest.raises(ValueError, match=r"sizes\.csv, line 4: .* a\.png is 0\.2, and was 0\.1"):
        read_pixel_sizes(table)


def test_thousands_of_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="threads must be 1 to 256, not 20000"):
        fe.load(threads=20_000)
    assert run("info", "--json", "--bundle", "nowhere").returncode == 2


def test_a_capture_that_did_not_open_is_an_error() -> None:
    with pytest.raises(SourceError, match="is not open"), fe.stream(cv2.VideoCapture("none.mp4")):
        pass


def test_a_region_of_three_numbers_is_an_error() -> None:
    with pytest.raises(ValueError, match="region must be"):
        fe.stream([np.zeros((8, 8), np.uint8)], region=(0, 0, 4))  # type: ignore[arg-type]


def test_none_among_arrays_is_unreadable_and_the_rest_is_answered() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    with fe.stream(iter([grey, None, grey])) as live:
        results = list(live)
    assert [result.frame_index for result in results] == [0, 2]
    assert live.stats().unreadable == 1
