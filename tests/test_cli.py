from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.data import get_testdata_file

import fetalclip_edge as fe
from fetalclip_edge import cli
from fetalclip_edge.bundle import DEFAULT_BUNDLE
from fetalclip_edge.demo import DEMO_CLIP
from fetalclip_edge.results import BRAIN_PLANES, PLANES, Frame

from .command_line import CommandLine, Run

COMMAND = [sys.executable, "-m", "fetalclip_edge.cli"]
COMMANDS = ["demo", "analyze", "stream", "bench", "tune", "info"]
STATES = {"live", "frozen", "stale", "no_signal", "out_of_domain"}
ANSWER = {
    *("source", "state", "plane", "brain_plane", "gestational_age"),
    *("head_circumference_mm", "timing_ms"),
}


def shell(*arguments: object, cwd: Path | None = None, **options: Any) -> Run:
    """The command line in a process of its own."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, **options
    )
    assert "Traceback" not in done.stdout + done.stderr
    return Run(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def scans(tmp_path: Path, clip_images: list[NDArray[np.uint8]]) -> Path:
    """A folder of three images (two grey, one in colour), and one that is damaged."""
    folder = tmp_path / "scans"
    folder.mkdir()
    Image.fromarray(clip_images[0]).save(folder / "scan2.png")
    Image.fromarray(clip_images[200]).save(folder / "scan10.jpg")
    Image.fromarray(np.dstack([clip_images[250]] * 3)).save(folder / "scan1.bmp")
    (tmp_path / "damaged.png").write_bytes((folder / "scan2.png").read_bytes()[:2000])
    return folder


def write_video(
    path: Path,
    pictures: Iterable[NDArray[np.uint8]],
    codec: str = "mpeg4",
    pixel_format: str = "yuv420p",
) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, pixel_format
        for picture in pictures:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())


def assert_is_answer(answer: dict[str, Any], extra: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    assert set(answer) == ANSWER | extra
    assert answer["state"] in STATES
    plane = answer["plane"]
    assert set(plane) == {"label", "confidence", "scores"}
    assert set(plane["scores"]) == set(PLANES)
    assert sum(plane["scores"].values()) == pytest.approx(1, abs=1e-6)
    assert plane["confidence"] == plane["scores"][plane["label"]]
    highest = max(plane["scores"], key=lambda label: plane["scores"][label])
    abstains = answer["state"] in ("no_signal", "out_of_domain")
    assert plane["label"] == ("other" if abstains else highest)
    assert (answer["brain_plane"] is not None) == (highest == "brain")
    if answer["brain_plane"] is not None:
        assert set(answer["brain_plane"]) == {"label", "confidence", "scores"}
        assert set(answer["brain_plane"]["scores"]) == set(BRAIN_PLANES)
    age = answer["gestational_age"]
    assert age is None or set(age) == {"days", "low_days", "high_days", "method"}
    head = answer["head_circumference_mm"]
    assert head is None or head > 0
    assert {"preprocess", "inference", "interpret"} <= set(answer["timing_ms"])
    assert all(value >= 0 for value in answer["timing_ms"].values())


# analyze


def test_analyze_gives_one_object_an_image_in_input_order(
    command_line: CommandLine, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scans)
    paths = ["scan10.jpg", str(scans / "scan2.png"), "./scan1.bmp", "scan10.jpg"]
    run = command_line("analyze", *paths, "--json")
    assert (run.code, run.err) == (0, "")
    assert [answer["source"] for answer in run.objects] == paths
    for answer in run.objects:
        assert_is_answer(answer)


def test_details_are_told_when_asked(command_line: CommandLine, scans: Path) -> None:
    run = command_line("analyze", scans, "--json", "--details", "--chart", "hadlock")
    assert (run.code, run.err) == (0, "")
    for answer in run.objects:
        assert_is_answer(
            answer, {"head", "heart", "probes", "quality", "reason", "domain_distance"}
        )


def test_a_growth_chart_that_is_not_there_is_bad_usage(
    command_line: CommandLine, scans: Path
) -> None:
    run = command_line("analyze", scans, "--json", "--chart", "hadlok")
    assert run.code == 2
    assert "who, intergrowth, hadlock" in run.err


def test_analyze_agrees_with_python(command_line: CommandLine, scans: Path) -> None:
    (answer,) = command_line("analyze", scans / "scan2.png", "--json").objects
    result = fe.load().analyze(np.asarray(Image.open(scans / "scan2.png")))
    assert answer["plane"]["scores"] == pytest.approx(result.plane.scores, abs=1e-6)
    assert answer["state"] == str(result.state)


def test_what_cannot_be_read_is_told_in_its_place_and_the_run_goes_on(
    command_line: CommandLine, scans: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "empty folder").mkdir()
    good = [scans / "scan1.bmp", scans / "scan2.png"]
    bad = [
        tmp_path / "missing.png",
        tmp_path / "damaged.png",
        tmp_path / "empty.png",
        tmp_path / "text.png",
        tmp_path / "notes.txt",
        tmp_path / "missing.dcm",
        tmp_path / "empty folder",
        tmp_path / ("long" * 100 + ".png"),
    ]
    paths = [bad[0], good[0], *bad[1:], good[1]]
    run = command_line("analyze", *paths, "--json")
    assert run.code == 1
    assert [answer["source"] for answer in run.objects] == [str(path) for path in paths]
    for path, answer in zip(paths, run.objects, strict=True):
        if path in good:
            assert_is_answer(answer)
        else:
            assert set(answer) == {"source", "error"}
            assert answer["error"]
    assert run.err.startswith("error: 8 ")


def test_a_folder_stands_for_its_images_in_natural_order(
    command_line: CommandLine, scans: Path
) -> None:
    run = command_line("analyze", scans, "--json")
    assert run.code == 0
    names = [Path(answer["source"]).name for answer in run.objects]
    assert names == ["scan1.bmp", "scan2.png", "scan10.jpg"]


def test_a_flat_image_is_no_signal(command_line: CommandLine, tmp_path: Path) -> None:
    Image.new("L", (300, 200), 30).save(tmp_path / "flat.png")
    (answer,) = command_line("analyze", tmp_path / "flat.png", "--json").objects
    assert_is_answer(answer)
    assert (answer["state"], answer["plane"]["label"]) == ("no_signal", "other")


def test_a_dicom_file_whose_name_is_a_number_is_a_file(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(str(get_testdata_file("gdcm-US-ALOKA-16.dcm", download=False)), tmp_path / "1")
    monkeypatch.chdir(tmp_path)
    run = command_line("analyze", "1", "--json")
    assert run.code == 0
    (answer,) = run.objects
    assert answer["source"] == "1"
    assert_is_answer(answer)


def test_a_file_of_several_frames_gives_one_object_each(
    command_line: CommandLine, tmp_path: Path
) -> None:
    pictures = [np.full((48, 64, 3), level, dtype=np.uint8) for level in (40, 80, 120)]
    write_video(tmp_path / "short.mp4", pictures)
    run = command_line("analyze", tmp_path / "short.mp4", "--json")
    assert run.code == 0
    assert [answer["frame_index"] for answer in run.objects] == [0, 1, 2]
    for answer in run.objects:
        assert_is_answer(answer, {"frame_index", "pts_s"})


def test_a_file_name_that_is_no_utf8_is_answered(scans: Path, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Path(os.fsdecode(name)).write_bytes((scans / "scan2.png").read_bytes())
    for options in (["--json"], []):
        done = subprocess.run([*COMMAND, "analyze", name, *options], capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
        if options:
            assert os.fsencode(json.loads(done.stdout)["source"]) == name


def test_analyze_for_people_names_file_plane_and_state(
    command_line: CommandLine, scans: Path, tmp_path: Path
) -> None:
    Image.new("L", (300, 200), 30).save(tmp_path / "[flat].png")
    run = command_line("analyze", tmp_path / "[flat].png", tmp_path / "missing.png")
    assert run.code == 1
    first, second = run.out.splitlines()
    assert "[flat].png" in first
    assert "other" in first
    assert "no_signal" in first
    assert "missing.png" in second
    assert "no such file" in second


# Pixel sizes


@pytest.fixture
def sizes_seen(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """The pixel size of each frame that reached the model."""
    seen: list[float | None] = []
    original = fe.Model.analyze_frame

    def spy(self: fe.Model, frame: Frame) -> fe.Result:
        seen.append(frame.pixel_size_mm)
        return original(self, frame)

    monkeypatch.setattr(fe.Model, "analyze_frame", spy)
    return seen


def test_one_pixel_size_serves_all_images(
    command_line: CommandLine, scans: Path, sizes_seen: list[float | None]
) -> None:
    assert command_line("analyze", scans, "--json", "--pixel-size-mm", "0.25").code == 0
    assert sizes_seen == [0.25] * 3


def test_without_a_pixel_size_there_is_none(
    command_line: CommandLine, scans: Path, sizes_seen: list[float | None]
) -> None:
    assert command_line("analyze", scans, "--json").code == 0
    assert sizes_seen == [None] * 3


def test_a_csv_gives_pixel_sizes_by_path_or_base_name(
    command_line: CommandLine,
    scans: Path,
    tmp_path: Path,
    sizes_seen: list[float | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    # A byte order mark and another column, as spreadsheets write them; a path beats a base name.
    (tmp_path / "sizes.csv").write_text(
        "\ufeffnote,file,pixel_size_mm\n"
        "x,scan2.png,0.1\n"
        "x,scans/scan10.jpg,0.2\n"
        "x,scan10.jpg,0.9\n"
        "x,elsewhere.png,0.3\n"
    )
    paths = ["scans/scan10.jpg", "scans/scan2.png", "scans/scan1.bmp"]
    run = command_line("analyze", *paths, "--json", "--pixel-sizes", "sizes.csv")
    assert run.code == 0
    assert sizes_seen == [0.2, 0.1, None]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"", "file and pixel_size_mm"),
        (b"name,size\na.png,0.1\n", "file and pixel_size_mm"),
        (b"file,size\na.png,0.1\n", "pixel_size_mm"),
        (b"file,pixel_size_mm\na.png,wide\n", "line 2"),
        (b"file,pixel_size_mm\na.png,0.1\nb.png,-1\n", "line 3"),
        (b"file,pixel_size_mm\na.png\n", "line 2"),
        (b"file,pixel_size_mm\na.png,nan\n", "line 2"),
        (b"\xff\xfe\x00", "decode"),
        (b'file,pixel_size_mm\n"' + b"a" * 200_000, "limit"),
    ],
)
def test_a_csv_that_cannot_be_used_is_bad_input(
    command_line: CommandLine, scans: Path, tmp_path: Path, text: bytes, named: str
) -> None:
    (tmp_path / "sizes.csv").write_bytes(text)
    run = command_line("analyze", scans, "--json", "--pixel-sizes", tmp_path / "sizes.csv")
    assert (run.code, run.out) == (2, "")
    assert named in run.err


# stream


def test_stream_adds_index_time_and_drops(command_line: CommandLine) -> None:
    run = command_line("stream", DEMO_CLIP, "--json", "--max-frames", "6")
    assert (run.code, run.err) == (0, "")
    answers = run.objects
    for answer in answers:
        assert_is_answer(answer, {"frame_index", "pts_s", "dropped"})
        assert {"grab", "queue", "capture_to_result"} <= set(answer["timing_ms"])
    assert [answer["frame_index"] for answer in answers] == [0, 1, 2, 3, 4, 5]
    assert [answer["pts_s"] for answer in answers] == pytest.approx([i / 30 for i in range(6)])
    assert {answer["dropped"] for answer in answers} == {0}
    assert {answer["source"] for answer in answers} == {str(DEMO_CLIP)}


def test_stream_latest_plays_the_clip(command_line: CommandLine) -> None:
    run = command_line("stream", DEMO_CLIP, "--json", "--policy", "latest", "--max-frames", "4")
    assert run.code == 0
    indexes = [answer["frame_index"] for answer in run.objects]
    dropped = [answer["dropped"] for answer in run.objects]
    assert len(indexes) == 4
    assert indexes == sorted(set(indexes))
    assert dropped == sorted(dropped)


def test_a_dicom_cine_streams(command_line: CommandLine) -> None:
    path = get_testdata_file("color3d_jpeg_baseline.dcm", download=False)
    assert path is not None
    run = command_line("stream", path, "--json", "--max-frames", "5")
    assert (run.code, run.err) == (0, "")
    assert [answer["frame_index"] for answer in run.objects] == [0, 1, 2, 3, 4]
    for index, answer in enumerate(run.objects):
        assert_is_answer(answer, {"frame_index", "pts_s", "dropped"})
        assert answer["pts_s"] == pytest.approx(index * 0.033333)


def test_a_folder_streams_without_times(command_line: CommandLine, scans: Path) -> None:
    run = command_line("stream", scans, "--json")
    assert run.code == 0
    assert [answer["pts_s"] for answer in run.objects] == [None] * 3


def test_stream_for_people_ends_with_a_summary(command_line: CommandLine, scans: Path) -> None:
    run = command_line("stream", scans)
    assert run.code == 0
    assert "3 results of 3 frames" in run.out
    assert "capture to result" in run.out


def test_a_source_that_breaks_off_is_a_failure_after_its_frames(
    command_line: CommandLine, tmp_path: Path
) -> None:
    # Given two seconds of video whose header says so, and whose second half was cut off
    whole = tmp_path / "whole.mkv"
    pictures = np.random.default_rng(4).integers(0, 256, (50, 48, 64, 3), dtype=np.uint8)
    write_video(whole, pictures, codec="mjpeg", pixel_format="yuvj420p")
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    run = command_line("stream", tmp_path / "cut.mkv", "--json")
    assert run.code == 1
    assert 15 < len(run.objects) < 30
    assert run.err.startswith("error: ")
    assert "cut.mkv" in run.err


@pytest.mark.parametrize("options", [["--json"], []])
def test_ctrl_c_ends_a_stream_with_130(options: list[str]) -> None:
    arguments = [*COMMAND, "stream", str(DEMO_CLIP), "--policy", "latest", *options]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdout is not None
        # Given the first answer of a clip that plays for ten seconds
        assert process.stdout.readline()
        # When Ctrl-C is pressed
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=5)
    # Then it ends as shells expect, and people get their summary
    assert process.returncode == 130
    assert err == ""
    assert options or "results of" in out


def test_a_reader_that_has_enough_ends_it_quietly() -> None:
    arguments = [*COMMAND, "stream", str(DEMO_CLIP), "--json"]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(10) == 1
    assert err == ""


# Bad usage, bad input, failures


@pytest.mark.parametrize(
    "arguments",
    [
        ["analyze"],
        ["analyze", "a.png", "--nonsense"],
        ["analyze", "a.png", "--json", "--pixel-size-mm", "0"],
        ["analyze", "a.png", "--json", "--pixel-size-mm", "nan"],
        ["analyze", "a.png", "--json", "--pixel-size-mm", "wide"],
        ["analyze", "a.png", "--json", "--pixel-sizes", "missing.csv"],
        ["analyze", "a.png", "--json", "--pixel-sizes", "/"],
        ["analyze", "a.png", "--pixel-size-mm", "1", "--pixel-sizes", "sizes.csv"],
        ["analyze", "a.png", "--bundle", "missing"],
        ["analyze", "a.png", "--backend", "abacus"],
        ["analyze", "a.png", "--threads", "0"],
        ["stream"],
        ["stream", "missing.mp4", "--json"],
        ["stream", "", "--json"],
        ["stream", "gopher://probe/1", "--json"],
        ["stream", "/dev/video4711", "--json"],
        ["stream", str(DEMO_CLIP), "--json", "--policy", "newest"],
        ["stream", str(DEMO_CLIP), "--json", "--max-frames", "0"],
        ["stream", str(DEMO_CLIP), "--json", "--pixel-size-mm", "-1"],
        ["stream", str(DEMO_CLIP), "--json", "--backend", "abacus"],
        ["stream", str(DEMO_CLIP), "--json", "--bundle", "missing"],
        ["bench", "--frames", "0"],
        ["bench", "--rate", "0"],
        ["bench", "--rate", "nan"],
        ["bench", "--size", "wide"],
        ["bench", "--size", "0x10"],
        ["bench", "--size", "9999x10"],
        ["bench", "--backend", "abacus"],
        ["info", "--bundle", "missing"],
        ["info", "--backend", "abacus"],
        ["demo", "--bundle", "missing"],
        ["nonsense"],
    ],
)
def test_bad_usage_or_input_is_2_and_said_on_stderr(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = command_line(*arguments)
    assert (run.code, run.out) == (2, "")
    assert run.err.strip()


def test_a_damaged_bundle_is_bad_input_and_named(
    command_line: CommandLine, scans: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundle"))
    tensors = bytearray((bundle / "prompts.safetensors").read_bytes())
    tensors[-1] ^= 1
    (bundle / "prompts.safetensors").write_bytes(tensors)
    run = command_line("analyze", scans, "--json", "--bundle", bundle)
    assert (run.code, run.out) == (2, "")
    assert "prompts.safetensors" in run.err


def test_another_bundle_answers(
    command_line: CommandLine,
    scans: Path,
    edited_bundle: Callable[[Callable[[dict[str, Any]], object]], Path],
) -> None:
    bundle = edited_bundle(lambda manifest: manifest["thresholds"].update(domain_distance=1e-9))
    run = command_line("analyze", scans, "--json", "--bundle", bundle, "--backend", "onnxruntime")
    assert run.code == 0
    assert {answer["state"] for answer in run.objects} == {"out_of_domain"}
    for answer in run.objects:
        assert_is_answer(answer)


def test_a_graph_that_the_backend_cannot_use_is_1(
    command_line: CommandLine,
    edited_bundle: Callable[[Callable[[dict[str, Any]], object]], Path],
) -> None:
    bundle = edited_bundle(lambda manifest: manifest.update(embedding_dim=17))
    run = command_line("info", "--json", "--bundle", bundle)
    assert (run.code, run.out) == (1, "")
    assert "encoder.cpu.onnx" in run.err


def test_a_failure_of_the_runtime_is_1(
    command_line: CommandLine, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise MemoryError("no memory left")

    monkeypatch.setattr(cli, "analyze_paths", fail)
    run = command_line("analyze", scans, "--json")
    assert (run.code, run.out) == (1, "")
    assert run.err == "error: MemoryError: no memory left\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["analyze", "missing.png", "--json"], 1),
        (["stream", "missing.mp4", "--json"], 2),
        (["info", "--nonsense"], 2),
        (["--version"], 0),
        ([], 2),
    ],
)
def test_exit_codes_reach_the_shell(tmp_path: Path, arguments: list[str], code: int) -> None:
    assert shell(*arguments, cwd=tmp_path).code == code


def test_the_console_script_is_there() -> None:
    script = Path(sys.executable).parent / "fetalclip-edge"
    done = subprocess.run([script, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{fe.__version__}\n")


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command_line: CommandLine, command: str) -> None:
    run = command_line(command, "--help")
    assert run.code == 0
    assert f"Example: fetalclip-edge {command}" in run.out


def test_help_names_every_command_and_what_this_is_not(command_line: CommandLine) -> None:
    run = command_line("--help")
    assert run.code == 0
    assert all(command in run.out for command in COMMANDS)
    assert "Not a medical device" in run.out


# info


def test_info_says_what_is_in_use(command_line: CommandLine) -> None:
    run = command_line("info", "--json")
    assert (run.code, run.err) == (0, "")
    report = json.loads(run.out)
    manifest = json.loads((DEFAULT_BUNDLE / "manifest.json").read_bytes())
    assert report["fetalclip_edge"] == fe.__version__
    assert report["bundle"]["name"] == manifest["name"]
    assert report["backend"]["name"] == "onnxruntime"
    assert report["machine"]["cores"] == os.cpu_count()
    assert report["metrics"] == manifest["metrics"]
    assert report["intended_use"] == manifest["intended_use"]
    assert "onnxruntime" in report["backends"]


def test_info_for_people_says_the_same(command_line: CommandLine) -> None:
    run = command_line("info")
    assert run.code == 0
    assert json.loads((DEFAULT_BUNDLE / "manifest.json").read_bytes())["name"] in run.out
