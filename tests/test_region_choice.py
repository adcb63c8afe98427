"""`region="auto"` and region profiles, through streams and the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import fetalclip_edge as fe
from fetalclip_edge.errors import InvalidImageError
from fetalclip_edge.geometry import Geometry
from fetalclip_edge.results import Frame, PlaneScores, Region, Result, StreamState
from fetalclip_edge.sources import IterableSource

from .command_line import CommandLine
from .live_model import Asked
from .sectors.pictures import around, fan, iou, polygon, tissue_in, trapezoid, with_screen
from .test_geometry import Timed
from .test_head import SPEC, Edit, mapped

Pixels = NDArray[np.uint8]

PROFILE = """\
name: drawn
frame: {width: 800, height: 600}
region: [120, 40, 560, 480]
masked: [[120, 40, 60, 50]]
"""


def answered(source: Any, **options: Any) -> tuple[list[Result], list[Frame]]:
    asked = Asked()
    with fe.stream(source, model=asked, **options) as live:  # type: ignore[arg-type]
        return list(live), asked.frames


def screens(count: int) -> list[Pixels]:
    return [with_screen(tissue_in(fan(), seed))[0] for seed in range(count)]


def test_a_stream_finds_the_sector_and_keeps_it() -> None:
    results, frames = answered(IterableSource(iter(screens(12))), region="auto")
    assert {result.state for result in results} == {StreamState.LIVE}
    assert frames[-1].region is not None
    assert frames[-1].mask is not None
    assert iou(frames[-1].region, around(fan())) > 0.95
    assert frames[-1].mask is frames[-2].mask


def test_pictures_of_their_own_are_looked_at_one_by_one() -> None:
    pictures = [*screens(1), with_screen(tissue_in(trapezoid()))[0]]
    _, frames = answered(pictures, region="auto")
    for frame, shape in zip(frames, (fan, trapezoid), strict=True):
        assert frame.region is not None
        assert iou(frame.region, around(shape())) > 0.95


def test_what_the_source_says_comes_first() -> None:
    class Knowing(IterableSource):
        def read(self) -> Frame | None:
            frame = super().read()
            if frame is None:
                return None
            return Frame(frame.image, "gray", frame.index, 0, "it", region=Region(1, 2, 30, 40))

    _, frames = answered(Knowing(screens(2)), region="auto")
    assert {frame.region for frame in frames} == {Region(1, 2, 30, 40)}
    assert [frame.mask for frame in frames] == [None, None]


def test_where_nothing_is_found_the_frame_is_whole() -> None:
    _, frames = answered([np.zeros((60, 80), np.uint8)], region="auto")
    assert frames[0].region is None
    assert frames[0].mask is None


def test_a_single_image_is_answered_as_by_a_stream() -> None:
    model = fe.load()
    image = screens(1)[0]
    with fe.stream([image], model=model, region="auto") as live:
        [streamed] = live
    alone = model.analyze(image, region="auto")
    np.testing.assert_array_equal(alone.embedding, streamed.embedding)
    assert (alone.state, alone.domain_distance) == (streamed.state, streamed.domain_distance)
    assert model.analyze(image).embedding @ alone.embedding < 0.999


def test_a_single_image_without_ultrasound_is_whole() -> None:
    assert fe.load().analyze(np.zeros((60, 80), np.uint8), region="auto").state == "no_signal"
    with pytest.raises(InvalidImageError, match="not empty"):
        fe.load().analyze(np.zeros((0, 80), np.uint8), region="auto")


def test_another_word_than_auto_is_refused() -> None:
    image = np.zeros((60, 80), np.uint8)
    with pytest.raises(ValueError, match="a profile or \"auto\", not 'automatic'"):
        fe.stream([image], region="automatic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="region must be .* not 'automatic'"):
        fe.load().analyze(image, region="automatic")  # type: ignore[arg-type]


def test_the_head_stays_in_pixels_of_the_frame(
    edited_bundle: Edit, clip_images: list[Pixels]
) -> None:
    # Given a head in the middle of the ultrasound, and that in a corner of a larger screen
    head = clip_images[280]
    alone = fe.find_sector(head)
    assert alone is not None
    framed = np.zeros((head.shape[0] + 60, head.shape[1] + 140), np.uint8)
    framed[60:, :-140] = head
    cv2.putText(framed, "PATIENT A.", (20, 24), 0, 0.6, 230, 1, cv2.LINE_AA)

    def change(manifest: dict[str, Any]) -> None:
        manifest["head"] = SPEC
        manifest["thresholds"]["domain_distance"] = 1e9

    model = mapped(edited_bundle(change))
    # When the sector is found in the stream
    with fe.stream([framed], model=model, region="auto") as live:
        [result] = live
    # Then the outline is where the region's middle is, as the map has it
    assert result.head is not None
    assert result.head.outline is not None
    assert result.head.outline.x == pytest.approx(
        alone.region.x + alone.region.width / 2, abs=0.02 * head.shape[1]
    )
    assert result.head.outline.y == pytest.approx(
        60 + alone.region.y + alone.region.height / 2, abs=0.02 * head.shape[0]
    )


def test_a_profile_cuts_out_and_masks(tmp_path: Path) -> None:
    path = tmp_path / "drawn.yaml"
    path.write_text(PROFILE)
    profile = fe.read_profile(path)
    results, frames = answered(screens(2), region=profile)
    assert {frame.region for frame in frames} == {Region(120, 40, 560, 480)}
    assert frames[0].mask is not None
    assert not frames[0].mask[40:90, 120:180].any()
    assert {result.state for result in results} == {StreamState.LIVE}


def test_a_profile_of_another_size_is_not_applied() -> None:
    profile = fe.RegionProfile("drawn", 800, 600, Region(120, 40, 560, 480))
    results, frames = answered([np.zeros((60, 80), np.uint8)], region=profile)
    assert not frames
    assert results[0].state == StreamState.NO_SIGNAL
    assert results[0].reason == (
        "the picture is 80x60 now, and the profile 'drawn' was given for one of 800x600"
    )


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for number, screen in enumerate(screens(2)):
        cv2.imwrite(str(folder / f"{number}.png"), screen)
    return folder


def regions_asked(monkeypatch: pytest.MonkeyPatch) -> list[Frame]:
    """The frames that a model is asked for from now on."""
    asked: list[Frame] = []
    answer = fe.Model.analyze_frame

    def analyze_frame(self: fe.Model, frame: Frame) -> Result:
        asked.append(frame)
        return answer(self, frame)

    monkeypatch.setattr(fe.Model, "analyze_frame", analyze_frame)
    return asked


@pytest.mark.parametrize("command", [["analyze"], ["stream"]])
def test_the_commands_find_it(
    command: list[str], scans: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = regions_asked(monkeypatch)
    run = command_line(*command, scans, "--json", "--region", "auto")
    assert run.code == 0
    assert len(run.objects) == len(asked) == 2
    assert all(frame.region and iou(frame.region, around(fan())) > 0.95 for frame in asked)


def test_a_given_region_and_a_profile_by_the_command_line(
    scans: Path, tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = regions_asked(monkeypatch)
    path = tmp_path / "drawn.yaml"
    path.write_text(PROFILE)
    assert command_line("analyze", scans, "--json", "--region", "10,20,300,200").code == 0
    assert command_line("analyze", scans, "--json", "--region-profile", path).code == 0
    assert [frame.region for frame in asked] == [Region(10, 20, 300, 200)] * 2 + [
        Region(120, 40, 560, 480)
    ] * 2


def test_a_region_that_does_not_fit_is_told_for_each_image(
    scans: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(PROFILE.replace("800", "810"))
    run = command_line("analyze", scans, "--json", "--region-profile", path)
    assert run.code == 1
    assert [sorted(each) for each in run.objects] == [["error", "source"]] * 2
    assert "the profile 'drawn' was given for one of 810x600" in run.objects[0]["error"]
    outside = command_line("analyze", scans, "--json", "--region", "700,0,200,100")
    assert outside.code == 1
    assert "region" in outside.objects[0]["error"]


@pytest.mark.parametrize("command", ["analyze", "stream"])
def test_bad_options_end_with_one_line(
    command: str, scans: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    for arguments, said in (
        (["--region", "1,2,3"], "--region must be X,Y,WIDTH,HEIGHT in pixels, or auto"),
        (["--region", "auto", "--region-profile", "x.yaml"], "not both"),
        (["--region-profile", tmp_path / "none.yaml"], "there is no such file"),
    ):
        run = command_line(command, scans, *arguments)
        assert run.code == 2
        assert said in run.err
        assert len(run.err.splitlines()) == 1


def film(*masks: Pixels, times: int) -> IterableSource:
    """So many frames of each layout, one after the other."""
    return Timed(tissue_in(mask, seed % 10) for mask in masks for seed in range(times))


FAN, DEEP = fan(), trapezoid()
SHALLOW = polygon([(200, 60), (599, 60), (599, 459), (200, 459)])


def test_a_pixel_size_is_dropped_when_the_ultrasound_moves_on_the_screen(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Given a scanner whose depth is turned, and turned back, in frames of one size
    source = film(SHALLOW, DEEP, SHALLOW, times=300)
    _, frames = answered(source, region="auto", pixel_size_mm=0.2)
    sizes = [frame.pixel_size_mm for frame in frames]
    # Then nothing is measured by the old scale once the change was seen, until it is as it was
    assert sizes[:300] == [0.2] * 300
    assert sizes[340:600] == [None] * 260
    assert sizes[840:] == [0.2] * 60
    assert caplog.text.count("of the screen now, and the pixel size was given for") == 1


def test_what_was_seen_by_the_old_scale_is_forgotten() -> None:
    class Moody(Asked):
        def analyze_frame(self, frame: Frame) -> Result:
            brain = float(frame.pixel_size_mm is not None)
            scores = {"brain": brain, "femur": 1 - brain, "other": 0.0}
            plane = PlaneScores("x", 1, scores)
            return replace(super().analyze_frame(frame), plane=plane, domain_distance=0.5)

    source = film(SHALLOW, DEEP, times=60)
    with fe.stream(source, model=Moody(), region="auto", pixel_size_mm=0.2) as live:  # type: ignore[arg-type]
        brains = [result.plane.scores["brain"] for result in live]
    assert set(brains) == {0.0, 1.0}


@pytest.mark.parametrize("mask", [FAN, DEEP, SHALLOW], ids=["fan", "trapezoid", "rectangle"])
def test_a_probe_that_is_put_on_and_held_in_air_keeps_its_pixel_size(mask: Pixels) -> None:
    # Given a stream that begins with nothing but the near field, and goes dark again
    y, x = np.mgrid[:600, :800]
    deep = np.hypot(x - 400, y + 40) > 240 if mask is FAN else y > 160
    pictures = [np.where(deep & (i < 20 or i > 60), 0, tissue_in(mask, i % 10)) for i in range(130)]
    source = IterableSource(each.astype(np.uint8) for each in pictures)
    # When its sector grows, then the scale is what it was
    _, frames = answered(source, region="auto", pixel_size_mm=0.2)
    assert frames[10].region is not None
    assert frames[60].region is not None
    assert frames[60].region.height > 2 * frames[10].region.height
    assert {frame.pixel_size_mm for frame in frames} == {0.2}


@pytest.mark.parametrize("scale", [0.85, 1.2])
def test_a_curved_array_at_another_depth_is_another_layout(scale: float) -> None:
    # Given a sector of which more is seen, but whose probe is of another size on the screen
    def convex(radius: float, depth: float) -> Pixels:
        y, x = np.mgrid[:600, :800] + 0.5
        distance = np.hypot(x - 400, y - 70 + radius)
        angle = np.abs(np.arctan2(x - 400, y - 70 + radius))
        inside = (distance >= radius) & (distance <= radius + depth) & (angle <= 0.48)
        return (255 * inside).astype(np.uint8)

    source = film(convex(160, 300), convex(160 * scale, 420), times=60)
    _, frames = answered(source, region="auto", pixel_size_mm=0.2)
    assert [frames[i].pixel_size_mm for i in (0, 59, -1)] == [0.2, 0.2, None]


def test_a_source_that_was_lost_is_looked_at_anew() -> None:
    # Given a geometry that has settled, and the first frames after a break
    geometry = Geometry("auto", 0.2, film=True)

    def fitted(mask: Pixels, seed: int, epoch: int) -> Frame:
        image = tissue_in(mask, seed)
        return geometry.fit(Frame(image, "gray", seed, 0, "it", epoch=epoch))[0]

    for seed in range(10):
        before = fitted(SHALLOW, seed, 0)
    after = [fitted(DEEP, seed, 1) for seed in range(8)]
    # Then the sector is that of the new picture at once, and the scale is not that of the old one
    assert before.region is not None
    assert iou(before.region, around(SHALLOW)) > 0.95
    assert after[0].region is not None
    assert iou(after[0].region, around(DEEP)) > 0.95
    assert (before.pixel_size_mm, after[-1].pixel_size_mm) == (0.2, None)
