"""The heart's score over the frames of a film, against sums worked out otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from scipy.special import softmax

import fetalclip_edge as fe
from fetalclip_edge.analysis import Unreadable, analyze_paths
from fetalclip_edge.demo import DEMO_CLIP
from fetalclip_edge.results import Frame, HeartScore, PlaneScores, Result, StreamState, Timing
from fetalclip_edge.sources import Source
from fetalclip_edge.tasks.class_head import Attention, ClassHead
from fetalclip_edge.tasks.heart import LEAST_FRAMES, WINDOW_S, HeartTask, HeartWindow

from ..headed_bundle import attention_head, entry, headed

IMAGE = np.zeros((4, 4), np.uint8)
HEAD = ClassHead(
    ("normal", "defect"),
    "attention",
    np.array([[1, -1], [-2, 2]], np.float32),
    np.array([0, 0.3], np.float32),
    0.7,
    None,
    Attention(np.eye(2, dtype=np.float32), np.zeros(2, np.float32), np.array([2, -1], np.float32)),
)


def frame(now_s: float | None, captured_s: float = 0.0) -> Frame:
    return Frame(IMAGE, "gray", 0, round(captured_s * 1e9), "film", now_s)


def answer(
    embedding: Sequence[float], plane: str = "thorax", state: StreamState = StreamState.LIVE
) -> Result:
    return Result(
        state=state,
        plane=PlaneScores(plane, 1.0, {plane: 1.0}),
        brain_plane=None,
        gestational_age=None,
        head=None,
        timing=Timing(1.0, 1.0, 1.0),
        embedding=np.array(embedding, np.float32),
        reason=None if state == StreamState.LIVE else "far from it",
    )


def expected(frames: np.ndarray) -> np.ndarray:
    """By the formula, in float64."""
    assert HEAD.attention is not None
    weights = softmax(np.tanh(frames) @ HEAD.attention.query)
    scores: np.ndarray = softmax((HEAD.weight @ (weights @ frames) + HEAD.bias) / 0.7)
    return scores


def scores(result: Result) -> list[float]:
    assert result.heart is not None
    return list(result.heart.scores.values())


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(200, 2))


def play(window: HeartWindow, frames: np.ndarray, rate: float = 10.0) -> list[Result]:
    return [window.update(answer(each), frame(i / rate)) for i, each in enumerate(frames)]


def test_a_clip_is_scored_by_all_its_frames(frames: np.ndarray) -> None:
    # More of them than the window's first table has rows
    results = play(HeartTask(HEAD).window(live=False, span_s=math.inf), frames)
    assert scores(results[-1]) == pytest.approx(expected(frames), abs=1e-5)
    assert results[-1].heart is not None
    assert results[-1].heart.frames == 200
    assert results[-1].heart.label == ("normal", "defect")[int(expected(frames).argmax())]


def test_a_stream_is_scored_by_its_last_seconds(frames: np.ndarray) -> None:
    results = play(HeartTask(HEAD).window(live=False), frames)
    last = int(WINDOW_S * 10) + 1
    for number in (120, 199):
        seen = frames[number + 1 - last : number + 1]
        assert scores(results[number]) == pytest.approx(expected(seen), abs=1e-5)


def test_fewer_frames_than_needed_are_not_scored(frames: np.ndarray) -> None:
    results = play(HeartTask(HEAD).window(live=False), frames[:LEAST_FRAMES])
    assert results[-2].heart == HeartScore(
        None, 0.0, {}, 7, "7 of the 8 frames of the thorax that are needed"
    )
    assert scores(results[-1]) == pytest.approx(expected(frames[:LEAST_FRAMES]), abs=1e-5)


def test_only_frames_of_the_thorax_count(frames: np.ndarray) -> None:
    window = HeartTask(HEAD).window(live=False)
    for i, each in enumerate(frames[:20]):
        result = window.update(answer(each, "thorax" if i % 2 else "abdomen"), frame(i / 10))
    assert result.heart is not None
    assert result.heart.frames == 10
    assert scores(result) == pytest.approx(expected(frames[1:20:2]), abs=1e-5)


def test_out_of_domain_nothing_is_said_nor_counted(frames: np.ndarray) -> None:
    window = HeartTask(HEAD).window(live=False)
    play(window, frames[:20])
    strange = window.update(answer([9, 9], "thorax", StreamState.OUT_OF_DOMAIN), frame(2.0))
    assert strange.heart == HeartScore(None, 0.0, {}, 20, "far from it")
    back = window.update(answer(frames[20]), frame(2.1))
    assert scores(back) == pytest.approx(expected(frames[:21]), abs=1e-5)


def test_a_frozen_picture_is_no_new_frame_and_does_not_run_out(frames: np.ndarray) -> None:
    window = HeartTask(HEAD).window(live=False)
    before = play(window, frames[:20])[-1]
    for i in range(20, 200):
        frozen = window.update(answer([9, 9]), frame(i / 10), still=True)
    assert frozen.heart == before.heart
    after = window.update(answer(frames[20]), frame(20.0))
    assert after.heart is not None
    assert after.heart.frames == 1


def test_a_recording_that_begins_anew_is_another_film(frames: np.ndarray) -> None:
    window = HeartTask(HEAD).window(live=False)
    play(window, frames[:50])
    again = play(window, frames[50:60])[-1]
    assert scores(again) == pytest.approx(expected(frames[50:60]), abs=1e-5)


def test_of_a_device_the_clock_counts(frames: np.ndarray) -> None:
    window = HeartTask(HEAD).window(live=True)
    for i, each in enumerate(frames):
        result = window.update(answer(each), frame(None, captured_s=i / 10))
    assert scores(result) == pytest.approx(expected(frames[-51:]), abs=1e-5)


def test_without_times_a_stream_has_no_last_seconds_but_a_clip_has_frames(
    frames: np.ndarray,
) -> None:
    stream = HeartTask(HEAD).window(live=False)
    clip = HeartTask(HEAD).window(live=False, span_s=math.inf)
    for each in frames[:20]:
        withheld = stream.update(answer(each), frame(None))
        scored = clip.update(answer(each), frame(None))
    assert withheld.heart == HeartScore(None, 0.0, {}, 0, "the source gives no times")
    assert scores(scored) == pytest.approx(expected(frames[:20]), abs=1e-5)


class Film(Source):
    """Noise, ten frames a second, of other sizes from the twentieth frame on."""

    name = "film"

    def __init__(self) -> None:
        self._index = -1

    def open(self) -> None: ...

    def read(self) -> Frame | None:
        self._index += 1
        size = 16 if self._index < 20 else 24
        image = np.random.default_rng(self._index).integers(0, 256, (size, size)).astype(np.uint8)
        if self._index == 30:
            return None
        return Frame(image, "gray", self._index, 0, "film", self._index / 10)

    def close(self) -> None: ...


class ThoraxModel:
    """Sees a thorax in every frame, with an embedding of its own."""

    heart = HeartTask(HEAD)

    def analyze_frame(self, frame: Frame) -> Result:
        return answer(np.random.default_rng(frame.index).normal(size=2).tolist())


def test_pictures_of_another_size_are_another_film() -> None:
    with fe.stream(Film(), model=ThoraxModel(), smoothing_s=0) as live:  # type: ignore[arg-type]
        hearts = [each.heart for each in live]
    assert [heart.frames for heart in hearts if heart] == [*range(1, 21), *range(1, 11)]
    rows = [np.random.default_rng(index).normal(size=2) for index in range(20, 30)]
    assert hearts[-1] is not None
    assert list(hearts[-1].scores.values()) == pytest.approx(expected(np.array(rows)), abs=1e-5)


@pytest.mark.parametrize("through", ["stream", "file"])
def test_copies_of_one_picture_are_one_frame(through: str, tmp_path: Path) -> None:
    # Given a recording of one picture, shorter than what tells a freeze, and then of another
    path = tmp_path / "cine.mkv"
    noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=30)
        video.height, video.width, video.pix_fmt = 64, 64, "gray"
        for index in range(13):
            picture = av.VideoFrame.from_ndarray(noise[index // 12], format="gray")
            container.mux(video.encode(picture))
        container.mux(video.encode())
    # When it is answered
    model: Any = ThoraxModel()
    if through == "file":
        results = list(analyze_paths(model, [str(path)]))
    else:
        with fe.stream(path, model=model, smoothing_s=0, policy="all") as live:
            results = list(live)
    # Then nothing beat in the first twelve
    frames = [each.heart.frames for each in results if each.heart]
    assert frames == [1] * 12 + [2]


# Through a bundle


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> fe.Model:
    """It calls the brain that the shipped clip shows a thorax, and knows what a heart is."""
    told = entry(labels=["normal", "defect"], pooling="attention", threshold=0.4)
    folder = tmp_path_factory.mktemp("heart") / "bundle"
    tensors = attention_head(2)
    return fe.load(headed(folder, {"heart": told}, tensors, brain_is_thorax=True), "onnxruntime")


@pytest.fixture(scope="module")
def cine(tmp_path_factory: pytest.TempPathFactory, clip_images: list[np.ndarray]) -> Path:
    """The shipped clip's last frames that move, at four a second."""
    path = tmp_path_factory.mktemp("cine") / "cine.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=4)
        video.height, video.width, video.pix_fmt = *clip_images[0].shape, "yuv420p"
        for image in clip_images[200:230]:
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="gray")))
        container.mux(video.encode())
    return path


@pytest.fixture(scope="module")
def film(model: fe.Model, cine: Path) -> list[Result]:
    answers = list(analyze_paths(model, [str(cine)]))
    assert not any(isinstance(each, Unreadable) for each in answers)
    return [each for each in answers if isinstance(each, Result)]


def test_analyze_scores_the_clip(model: fe.Model, film: list[Result]) -> None:
    seen = [each.embedding for each in film if each.plane.label == "thorax"]
    assert len(seen) > LEAST_FRAMES
    heart = film[-1].heart
    assert heart is not None
    assert heart.frames == len(seen)
    assert model.heart is not None
    assert heart.scores == pytest.approx(model.heart(np.stack(seen)).scores, abs=1e-5)
    assert heart.label == ("defect" if heart.scores["defect"] >= 0.4 else "normal")
    told = film[-1].to_dict(details=True)["heart"]
    assert told["frames"] == len(seen)
    assert set(told) == {"label", "confidence", "scores", "frames", "reason"}
    assert "heart" not in film[-1].to_dict()


def test_stream_scores_the_last_seconds(model: fe.Model, cine: Path, film: list[Result]) -> None:
    with fe.stream(cine, model=model, policy="all", smoothing_s=0) as live:
        results = list(live)
    assert all(each.state == "live" for each in results)
    times = [each.pts_s or 0.0 for each in film]
    recent = [
        each.embedding
        for each, now_s in zip(film, times, strict=True)
        if each.plane.label == "thorax" and now_s >= times[-1] - WINDOW_S
    ]
    assert model.heart is not None
    assert LEAST_FRAMES <= len(recent) < len(film)
    assert results[-1].heart is not None
    assert results[-1].heart.frames == len(recent)
    assert results[-1].heart.scores == pytest.approx(model.heart(np.stack(recent)).scores, abs=1e-5)


def test_a_single_picture_has_no_heart(model: fe.Model, clip_images: list[np.ndarray]) -> None:
    assert model.analyze(clip_images[0]).heart is None


def test_the_shipped_bundle_says_nothing_of_the_heart() -> None:
    model = fe.load()
    assert model.heart is None
    with fe.stream(DEMO_CLIP, model=model, policy="all") as live:
        result = next(live)
    assert result.heart is None
    assert result.to_dict(details=True)["heart"] is None


def test_a_short_clip_is_withheld(model: fe.Model) -> None:
    assert model.heart is not None
    score = model.heart(np.zeros((3, model.bundle.embedding_dim), np.float32))
    assert (score.label, score.frames) == (None, 3)
