"""The simulated clip: what is known of it must be true, and it must behave like ultrasound."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner

from benchmarks import simulate
from benchmarks.phantom import Phantom, Pose, ellipse_perimeter_mm
from benchmarks.scanner import Probe, Scanner, Screen
from benchmarks.simulate import ClipSettings, ClipTruth, Simulation, read_truth, write_clip

SMALL = ClipSettings(seconds=1.0, fps=10, width=320, height=240)


@pytest.fixture(scope="module")
def small() -> Simulation:
    return Simulation(SMALL)


@pytest.fixture(scope="module")
def shipped(repository: Path) -> Path:
    return repository / "fetalclip_edge" / "assets" / "simulated_head.mp4"


@pytest.fixture(scope="module")
def shipped_frames(shipped: Path) -> list[NDArray[np.uint8]]:
    with av.open(str(shipped)) as container:
        return [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def homogeneous() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Scatterers of equal strength everywhere, 20 a square millimetre: as dense as the phantom."""
    rng = np.random.default_rng(7)
    count = 20 * 180 * 115
    x, y = rng.uniform(-90, 90, count), rng.uniform(-10, 105, count)
    echo = rng.choice((-1.0, 1.0), count) / np.sqrt(20)
    return x.astype(np.float32), y.astype(np.float32), echo.astype(np.float32)


def _head_mask(simulation: Simulation, seconds: float) -> NDArray[np.bool_]:
    pose = simulation.pose(seconds)
    return simulation.phantom.head.skull(*pose.to_head(*simulation.screen.points))[1]


def _in_sector(simulation: Simulation) -> NDArray[np.bool_]:
    probe = simulation.screen.probe
    x, y = simulation.screen.points
    reach = np.hypot(x, y + probe.radius_mm) - probe.radius_mm
    angle = np.arctan2(x, y + probe.radius_mm)
    return (reach >= 0) & (reach <= probe.depth_mm) & (np.abs(angle) <= probe.half_angle_rad)


# --- the head of known size


@pytest.mark.parametrize("stated_mm", [90.0, 200.0, 340.0])
def test_head_circumference_measured_on_the_skull_mask_is_the_stated_one(stated_mm: float) -> None:
    simulation = Simulation(ClipSettings(width=960, height=720, head_circumference_mm=stated_mm))
    mask = _head_mask(simulation, 8.0)

    # An ellipse's semi-axes are twice the deviations of the points within it.
    spread = np.cov(np.stack(np.nonzero(mask)).astype(np.float64))
    a, b = 2 * np.sqrt(np.linalg.eigvalsh(spread)) * simulation.screen.pixel_size_mm
    turn = np.linspace(0, 2 * np.pi, 10_001)
    measured = np.hypot(np.diff(a * np.cos(turn)), np.diff(b * np.sin(turn))).sum()

    assert measured == pytest.approx(stated_mm, rel=2e-3)


@given(st.floats(1, 200), st.floats(0.3, 1))
def test_perimeter_formula_agrees_with_the_length_of_a_fine_polygon(a: float, ratio: float) -> None:
    turn = np.linspace(0, 2 * np.pi, 20_001)
    polygon = np.hypot(np.diff(a * np.cos(turn)), np.diff(a * ratio * np.sin(turn))).sum()

    assert ellipse_perimeter_mm(a, a * ratio) == pytest.approx(polygon, rel=1e-4)


def test_bright_skull_lies_on_the_stated_ellipse(small: Simulation) -> None:
    # Given a picture of the head, when the brightest echo straight above its centre is looked for
    picture, pose = small.frame(0.8), small.pose(0.8)
    rows, columns = np.nonzero(_head_mask(small, 0.8))
    column = round(float(columns.mean()))
    half = picture[rows.min() - 8 : round(float(rows.mean())), column]
    bone = rows.min() - 8 + int(np.argmax(half))

    # then it lies within a pulse length of the outer edge of the bone
    edge = rows[columns == column].min()
    assert abs(bone - edge) * small.screen.pixel_size_mm < 2.0
    assert pose.probe_x_mm == pytest.approx(0, abs=3)


def test_depth_ticks_are_ten_millimetres_apart(small: Simulation) -> None:
    picture = small.frame(0.0)
    rows = np.nonzero(picture[:, -3] > 100)[0]

    assert len(rows) == 11
    pitch = float(np.polyfit(np.arange(11), rows, 1)[0])
    assert pitch * small.screen.pixel_size_mm == pytest.approx(10.0, rel=5e-3)


def test_depth_scale_begins_and_ends_with_the_middle_beam(small: Simulation) -> None:
    ticks = np.nonzero(small.frame(0.0)[:, -3] > 100)[0]
    middle = np.nonzero(_in_sector(small)[:, SMALL.width // 2])[0]

    assert abs(middle[0] - ticks[0]) <= 1
    assert abs(middle[-1] - ticks[-1]) <= 1


@pytest.mark.parametrize("size", [(960, 720), (640, 480), (500, 480)])
def test_points_forty_millimetres_apart_are_shown_so(size: tuple[int, int]) -> None:
    # Given two points 40 mm apart at a depth of 50 mm, when they are imaged
    scanner, screen = Scanner(Probe()), Screen(Probe(), *size)
    x, y = np.array([-20, 20], np.float32), np.array([50, 50], np.float32)
    beams = np.abs(next(scanner.baseband(x, y, np.ones(2, np.float32))))
    picture = screen.draw(255 * beams / beams.max())
    picture[:, -48:] = picture[:40] = 0  # scale and notice

    # then their blobs are that far apart, level with the tick of 50 mm
    centres = []
    for half in (picture[:, : size[0] // 2], picture[:, size[0] // 2 :]):
        moments = cv2.moments(half)
        centres.append((moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]))
    (left, level), (right, _) = centres
    apart = right + size[0] // 2 - left
    ticks = np.nonzero(screen.draw(beams)[:, -4:].max(axis=1) > 100)[0]
    assert apart * screen.pixel_size_mm == pytest.approx(40.0, abs=0.15)
    assert level == pytest.approx(ticks[5], abs=1)
    assert screen.to_pixels(-20.0, 50.0) == pytest.approx((left, level), abs=0.7)


@settings(max_examples=50)
@given(
    st.floats(-120, 20),
    st.floats(-0.1, 0.1),
    st.floats(-0.02, 0.03),
    st.floats(-5, 5),
    st.floats(-0.5, 0.5),
)
def test_motion_is_rigid_for_the_head(
    probe_x: float, tilt: float, squeeze: float, head_x: float, angle: float
) -> None:
    pose = Pose(probe_x, tilt, squeeze, head_x, 55.0, angle)
    u, v = np.array([0, 30, 0], np.float32), np.array([0, 0, 20], np.float32)

    x, y = pose.from_head(u, v)
    back = pose.to_head(x, y)

    np.testing.assert_allclose(back, (u, v), atol=1e-3)
    assert np.hypot(x[1] - x[0], y[1] - y[0]) == pytest.approx(30, abs=1e-3)
    assert np.hypot(x[2] - x[0], y[2] - y[0]) == pytest.approx(20, abs=1e-3)


# --- the physics


def test_envelope_of_homogeneous_tissue_is_rayleigh(
    homogeneous: tuple[NDArray[np.float32], ...],
) -> None:
    # Mean over deviation of a Rayleigh variable: sqrt(pi / (4 - pi)) = 1.913 (Wagner et al. 1983).
    for signal in Scanner(Probe()).baseband(*homogeneous):
        envelope = np.abs(signal)
        assert envelope.mean() / envelope.std() == pytest.approx(1.913, abs=0.05)


def test_gain_is_level_over_depth(homogeneous: tuple[NDArray[np.float32], ...]) -> None:
    bands = [np.abs(band) ** 2 for band in Scanner(Probe()).baseband(*homogeneous)]
    by_depth = np.mean(bands, axis=0).mean(axis=1)[:800].reshape(4, -1).mean(axis=1)

    np.testing.assert_allclose(by_depth, 1.0, rtol=0.1)


def test_speckle_is_coarser_across_than_along_and_widens_with_depth(
    homogeneous: tuple[NDArray[np.float32], ...],
) -> None:
    probe = Probe()
    power = np.abs(next(Scanner(probe).baseband(*homogeneous))) ** 2

    def correlation(block: NDArray[np.float32], down: int, right: int) -> float:
        first = block[: block.shape[0] - down, : block.shape[1] - right]
        return float(np.corrcoef(first.ravel(), block[down:, right:].ravel())[0, 1])

    def across(top: int) -> float:  # at a distance of 1.2 mm
        beams = round(1.2 / ((probe.radius_mm + (top + 80) * probe.sample_mm) * probe.beam_rad))
        return correlation(power[top : top + 160], 0, beams)

    along = correlation(power[360:520], round(1.2 / probe.sample_mm), 0)
    assert along < 0.1 < across(360) < across(640)


def test_speckle_moves_with_the_tissue(homogeneous: tuple[NDArray[np.float32], ...]) -> None:
    # Given tissue seen before and after it moved by whole pixels, right and down
    probe = Probe()
    scanner, screen = Scanner(probe), Screen(probe, 480, 360)
    right, down = 9, 6
    x, y, echo = homogeneous
    moved = x + right * screen.pixel_size_mm, y + down * screen.pixel_size_mm
    before, after = (
        screen.scan_convert(np.abs(next(scanner.baseband(px, py, echo))))
        for px, py in ((x, y), (np.float32(moved[0]), np.float32(moved[1])))
    )

    # when a patch is compared with the same place and with the displaced place
    patch = before[180:230, 200:270].ravel()
    same = np.corrcoef(patch, after[180:230, 200:270].ravel())[0, 1]
    followed = np.corrcoef(
        patch, after[180 + down : 230 + down, 200 + right : 270 + right].ravel()
    )[0, 1]

    assert followed > 0.9
    assert abs(same) < 0.3


def test_grazed_bone_throws_a_deeper_shadow_than_bone_met_squarely() -> None:
    phantom, scanner, pose = Phantom(200.0, 1.0, 0), Scanner(Probe()), Pose()
    gain = np.cumsum(phantom.gain_db_per_mm(pose, *scanner.points), axis=0)
    x, y = scanner.points
    below = np.argmin(np.abs(y[:, x.shape[1] // 2] - 92))
    middle, edge = gain[below, x.shape[1] // 2], gain[below].min()

    assert (middle - edge) * scanner.probe.sample_mm > 6  # decibels


# --- the clip


def test_same_seed_gives_the_same_picture_in_any_order(small: Simulation) -> None:
    again = Simulation(SMALL)
    late, early = again.frame(0.8), again.frame(0.3)

    np.testing.assert_array_equal(small.frame(0.3), early)
    np.testing.assert_array_equal(small.frame(0.8), late)


def test_another_seed_gives_another_picture(small: Simulation) -> None:
    other = Simulation(ClipSettings(1.0, 10, 320, 240, seed=1))

    assert np.abs(small.frame(0.8).astype(int) - other.frame(0.8)).mean() > 1


@pytest.mark.parametrize("stated_mm", [120.0, 200.0, 300.0])
def test_head_comes_into_view_and_stays_whole(stated_mm: float) -> None:
    simulation = Simulation(ClipSettings(width=320, height=240, head_circumference_mm=stated_mm))
    truth, sector = simulation.truth("x.mp4"), _in_sector(simulation)
    fps = simulation.settings.fps

    for frame in range(0, int(0.2 * truth.frames), 10):
        assert not (_head_mask(simulation, frame / fps) & sector).any()
    for frame in range(truth.head_from_frame, truth.freeze_from_frame + 1, 10):
        head = _head_mask(simulation, frame / fps)
        assert head.any()
        assert not (head & ~sector).any()


def test_outside_the_sector_is_black(small: Simulation) -> None:
    outside = ~cv2.dilate(_in_sector(small).astype(np.uint8), np.ones((5, 5))).astype(bool)
    outside[:, -32:] = False  # the depth scale
    outside[:16, :80] = False  # the notice

    assert small.frame(0.5)[outside].max() == 0


def test_write_clip_stores_its_truth_in_the_comment(tmp_path: Path) -> None:
    done: list[int] = []
    path = tmp_path / "clip.mp4"
    truth = write_clip(path, SMALL, done.append)

    with av.open(str(path)) as container:
        stored = json.loads(container.metadata["comment"])
        video = container.streams.video[0]
        assert (video.codec_context.name, video.width, video.height) == ("h264", 320, 240)
        assert sum(1 for _ in container.decode(video)) == 10
    assert stored["simulated"] is True
    assert stored["head_circumference_mm"] == 200.0
    assert ClipTruth(**stored) == truth == read_truth(path)
    assert done == list(range(1, 11))


def test_two_writes_give_the_same_bytes(tmp_path: Path) -> None:
    short = ClipSettings(0.3, 10, 320, 240)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_clip(tmp_path / folder / "clip.mp4", short)

    assert (tmp_path / "a/clip.mp4").read_bytes() == (tmp_path / "b/clip.mp4").read_bytes()


def test_read_truth_refuses_a_file_of_another_origin(tmp_path: Path) -> None:
    path = tmp_path / "other.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode(None))

    with pytest.raises(ValueError, match=r"other\.mp4 was not written by"):
        read_truth(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("seconds", 0.0), ("fps", 0), ("width", 100), ("seed", -1), ("head_circumference_mm", 500.0)],
)
def test_settings_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        ClipSettings(**{name: value})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.avi"], "x.avi"),
        (["x.mp4", "--size", "big"], "WIDTHxHEIGHT"),
        (["x.mp4", "--size", "321x240"], "even"),
        (["x.mp4", "--fps", "0"], "fps is 0"),
    ],
)
def test_command_explains_bad_usage(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(simulate.app, arguments)

    assert result.exit_code == 2
    assert message in result.output


def test_command_writes_a_clip(tmp_path: Path) -> None:
    path = tmp_path / "head.mp4"
    arguments = [str(path), "--seconds", "0.1", "--fps", "10", "--size", "320x240", "--seed", "5"]

    result = CliRunner().invoke(simulate.app, arguments)

    assert result.exit_code == 0, result.output
    assert read_truth(path).seed == 5
    assert read_truth(path).command == (
        "python -m benchmarks.simulate head.mp4 --seconds 0.1 --fps 10 --size 320x240 "
        "--seed 5 --head-circumference-mm 200"
    )


# --- the clip that is shipped


def test_shipped_clip_is_small_and_says_that_it_is_simulated(shipped: Path) -> None:
    assert shipped.stat().st_size <= 1_500_000
    truth = read_truth(shipped)
    assert truth.simulated is True
    assert truth.command.startswith("python -m benchmarks.simulate simulated_head.mp4 ")
    assert truth.head_circumference_mm == 200.0
    assert truth.frames == 300


def test_shipped_clip_decodes_alike_with_pyav_and_opencv(
    shipped: Path, shipped_frames: list[NDArray[np.uint8]]
) -> None:
    assert len(shipped_frames) == read_truth(shipped).frames
    capture = cv2.VideoCapture(str(shipped))
    count = 0
    while capture.grab():
        count += 1
        if count == 200:
            first = cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2GRAY)
    capture.release()
    assert count == len(shipped_frames)
    assert np.abs(first.astype(int) - shipped_frames[199]).max() <= 3


def test_shipped_clip_is_frozen_from_the_stated_frame_and_never_before(
    shipped: Path, shipped_frames: list[NDArray[np.uint8]]
) -> None:
    start = read_truth(shipped).freeze_from_frame
    frozen = shipped_frames[start]

    assert all(np.array_equal(frozen, frame) for frame in shipped_frames[start:])
    for before, after in pairwise(shipped_frames[: start + 1]):
        assert np.abs(before.astype(int) - after).mean() > 0.5


def test_shipped_clip_is_what_the_generator_makes(
    shipped: Path, shipped_frames: list[NDArray[np.uint8]]
) -> None:
    truth = read_truth(shipped)
    simulation = Simulation(ClipSettings())
    assert simulation.truth(shipped.name) == truth

    picture = simulation.frame(200 / 30)

    assert cv2.PSNR(picture, shipped_frames[200]) > 32
    assert (picture[8:36, 12:110] > 100).mean() > 0.05  # the word SIMULATED


@pytest.mark.data
def test_grey_levels_of_the_head_lie_among_real_ones(data_root: Path) -> None:
    # Given real heads of about the same size, and the simulated one at the same scale
    # (0.26 mm a pixel is the median of those)
    with (data_root / "hc18" / "labels.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["split"] == "train"]
    rows = [r for r in rows if 185 < float(r["head_circumference_mm"]) < 215]
    pairs = [
        [cv2.imread(str(data_root / "hc18" / r[k]), 0) for k in ("file", "mask")] for r in rows
    ]
    simulation = Simulation(ClipSettings())
    shrink = simulation.screen.pixel_size_mm / 0.26
    pairs.append(
        [
            cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
            for picture in (simulation.frame(8.0), _head_mask(simulation, 8.0) * np.uint8(255))
        ]
    )

    # when mean, deviation and brightest percentile of what lies well within are measured
    def levels(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> list[float]:
        brain = image[cv2.erode(np.uint8(mask > 127), np.ones((25, 25))) > 0]
        return [float(brain.mean()), float(brain.std()), float(np.percentile(brain, 95))]

    *real, ours = (levels(*pair) for pair in pairs)

    # then they are like those of most real ones
    assert len(real) > 30
    low, high = np.percentile(real, [5, 95], axis=0)
    assert (low <= ours).all()
    assert (ours <= high).all()
