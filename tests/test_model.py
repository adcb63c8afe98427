from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import f1_score

import fetalclip_edge as fe
from fetalclip_edge.bundle import DEFAULT_BUNDLE
from fetalclip_edge.errors import BackendError
from fetalclip_edge.results import Frame, Region, Result, StreamState

PLANES = {"abdomen", "brain", "femur", "thorax", "cervix", "other"}
BRAIN_PLANES = {"trans-thalamic", "trans-cerebellum", "trans-ventricular"}
MANIFEST = json.loads((DEFAULT_BUNDLE / "manifest.json").read_bytes())
DIM = MANIFEST["embedding_dim"]

Pixels = NDArray[np.uint8]
Edit = Callable[[Callable[[dict[str, Any]], object]], Path]


@pytest.fixture(scope="module")
def model() -> fe.Model:
    return fe.load()


@pytest.fixture
def sure_model(edited_bundle: Edit) -> fe.Model:
    """The shipped model, but with no picture outside its domain."""
    return fe.load(
        edited_bundle(lambda manifest: manifest["thresholds"].update(domain_distance=1e9))
    )


@pytest.fixture
def doubting_model(edited_bundle: Edit) -> fe.Model:
    """The shipped model, but with every picture outside its domain."""
    return fe.load(
        edited_bundle(lambda manifest: manifest["thresholds"].update(domain_distance=1e-9))
    )


@pytest.fixture(scope="module")
def pictures(clip_images: list[Pixels]) -> list[Pixels]:
    """Twelve frames of the clip, of different crops so that no two are alike."""
    return [image[: 300 + 8 * i, 4 * i :] for i, image in enumerate(clip_images[::25])]


def assert_keeps_the_contract(result: Result) -> None:
    plane, brain = result.plane, result.brain_plane
    assert set(plane.scores) == PLANES
    assert sum(plane.scores.values()) == pytest.approx(1, abs=1e-6)
    assert plane.confidence == plane.scores[plane.label]
    highest = max(plane.scores, key=lambda label: plane.scores[label])
    assert (brain is not None) == (highest == "brain")
    if brain is not None:
        assert set(brain.scores) == BRAIN_PLANES
        assert sum(brain.scores.values()) == pytest.approx(1, abs=1e-6)
    if result.state == StreamState.LIVE:
        assert result.reason is None
        assert plane.label == highest
        if brain is not None:
            assert brain.label == max(brain.scores, key=lambda label: brain.scores[label])
            assert brain.confidence == brain.scores[brain.label]
    else:
        assert result.reason
        assert plane.label == "other"
        if brain is not None:
            assert (brain.label, brain.confidence) == (None, 0.0)
    assert result.embedding.dtype == np.float32
    assert result.embedding.shape == (DIM,)
    assert float(np.linalg.norm(result.embedding)) == pytest.approx(1, abs=1e-4)


# analyze


def test_analyze_keeps_the_contract(model: fe.Model, pictures: list[Pixels]) -> None:
    for picture in pictures:
        result = model.analyze(picture)
        assert_keeps_the_contract(result)
        assert result.state in (StreamState.LIVE, StreamState.OUT_OF_DOMAIN)
        assert (result.source, result.frame_index, result.pts_s, result.dropped) == (None,) * 4


@pytest.mark.parametrize("pixel_size_mm", [None, 0.2, 1, np.float32(0.15)])
def test_a_pixel_size_is_accepted(
    model: fe.Model, pictures: list[Pixels], pixel_size_mm: float | None
) -> None:
    assert_keeps_the_contract(model.analyze(pictures[0], pixel_size_mm=pixel_size_mm))


@pytest.mark.parametrize("pixel_size_mm", [0, -0.2, math.nan, math.inf])
def test_a_pixel_size_that_is_none_is_refused(
    model: fe.Model, pictures: list[Pixels], pixel_size_mm: float
) -> None:
    with pytest.raises(ValueError, match="pixel_size_mm"):
        model.analyze(pictures[0], pixel_size_mm=pixel_size_mm)


BAD_IMAGES = [
    (None, TypeError),
    ("scan.png", TypeError),
    (5, TypeError),
    (Image.new("L", (8, 8)), TypeError),
    (np.zeros((8, 8)), TypeError),
    (np.zeros((8, 8), dtype=np.uint16), TypeError),
    (np.zeros((8, 8), dtype=bool), TypeError),
    (np.zeros((0, 8), dtype=np.uint8), ValueError),
    (np.zeros(8, dtype=np.uint8), ValueError),
    (np.zeros((8, 8, 1), dtype=np.uint8), ValueError),
    (np.zeros((8, 8, 4), dtype=np.uint8), ValueError),
    (np.zeros((1, 1, 8, 8, 3), dtype=np.uint8), ValueError),
]


@pytest.mark.parametrize(("image", "error"), BAD_IMAGES)
@pytest.mark.parametrize("call", ["analyze", "embed"])
def test_what_is_no_image_is_refused(
    model: fe.Model, call: str, image: Any, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        getattr(model, call)(image)
    assert isinstance(caught.value, fe.FetalCLIPEdgeError)
    assert "image" in str(caught.value)


@pytest.mark.parametrize("level", [0, 7, 128, 255])
@pytest.mark.parametrize("shape", [(200, 300), (200, 300, 3), (1, 1)])
def test_a_flat_picture_is_no_signal(model: fe.Model, level: int, shape: tuple[int, ...]) -> None:
    result = model.analyze(np.full(shape, level, dtype=np.uint8))
    assert_keeps_the_contract(result)
    assert result.state == StreamState.NO_SIGNAL
    assert result.plane.label == "other"
    assert "flat" in (result.reason or "")


def test_noise_of_a_capture_card_is_no_signal(model: fe.Model) -> None:
    noise = np.random.default_rng(1).integers(16, 19, (480, 640), dtype=np.uint8)
    assert model.analyze(noise).state == StreamState.NO_SIGNAL


def test_a_flat_region_of_a_busy_screen_is_no_signal(model: fe.Model, clip_images: Any) -> None:
    screen = clip_images[0].copy()
    screen[100:200, 100:220] = 40
    frame = Frame(screen, "gray", 3, 0, "screen", 1.5, Region(100, 100, 120, 100))
    result = model.analyze_frame(frame)
    assert result.state == StreamState.NO_SIGNAL
    assert (result.source, result.frame_index, result.pts_s) == ("screen", 3, 1.5)


def test_when_abstaining_the_label_is_other_and_the_scores_stay(
    sure_model: fe.Model, doubting_model: fe.Model, pictures: list[Pixels]
) -> None:
    for picture in pictures:
        sure, doubting = sure_model.analyze(picture), doubting_model.analyze(picture)
        assert sure.state == StreamState.LIVE
        assert doubting.state == StreamState.OUT_OF_DOMAIN
        assert_keeps_the_contract(sure)
        assert_keeps_the_contract(doubting)
        assert doubting.plane.label == "other"
        assert doubting.plane.scores == sure.plane.scores
        assert (doubting.brain_plane is None) == (sure.brain_plane is None)


def test_a_head_is_a_brain_plane_with_its_sub_plane(
    sure_model: fe.Model, clip_images: list[Pixels]
) -> None:
    # The clip ends on a simulated head at rest; see benchmarks/simulate.py.
    result = sure_model.analyze(clip_images[-1])
    assert result.plane.label == "brain"
    assert result.brain_plane is not None
    assert result.brain_plane.label in BRAIN_PLANES


def test_colour_order_and_grey_give_one_answer(model: fe.Model, pictures: list[Pixels]) -> None:
    grey = pictures[0]
    same = model.analyze(np.dstack([grey] * 3))
    np.testing.assert_array_equal(same.embedding, model.analyze(grey).embedding)

    rgb = np.dstack([grey, np.roll(grey, 9, 1), 255 - grey])
    frame = Frame(np.ascontiguousarray(rgb[..., ::-1]), "bgr", 0, 0, "test")
    as_rgb, as_bgr = model.analyze(rgb), model.analyze_frame(frame)
    np.testing.assert_array_equal(as_rgb.embedding, as_bgr.embedding)
    assert as_rgb.plane == as_bgr.plane


def test_a_region_is_the_crop(model: fe.Model, clip_images: list[Pixels]) -> None:
    frame = Frame(clip_images[0], "gray", 0, 0, "test", None, Region(40, 30, 300, 200))
    crop = np.ascontiguousarray(clip_images[0][30:230, 40:340])
    np.testing.assert_array_equal(
        model.analyze_frame(frame).embedding, model.analyze(crop).embedding
    )


def test_a_region_outside_the_frame_is_refused(model: fe.Model, clip_images: Any) -> None:
    frame = Frame(clip_images[0], "gray", 0, 0, "test", None, Region(0, 0, 9999, 10))
    with pytest.raises(ValueError, match="region"):
        model.analyze_frame(frame)


@pytest.mark.parametrize("output", ["embedding", "domain_features"])
def test_numbers_that_are_not_finite_are_the_backends_error(
    model: fe.Model, clip_images: list[Pixels], monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    # Given a backend one of whose outputs overflowed
    encode = model.backend.encode

    def overflowing(inputs: Any) -> dict[str, NDArray[np.float32]]:
        outputs = encode(inputs)
        outputs[output][0, 3] = np.nan
        return outputs

    monkeypatch.setattr(model.backend, "encode", overflowing)
    # When it is asked, then no score is made of them
    with pytest.raises(BackendError, match="onnxruntime gave numbers that are not finite"):
        model.analyze(clip_images[200])


def test_several_threads_get_the_answers_of_one(model: fe.Model, pictures: list[Pixels]) -> None:
    alone = [model.analyze(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(model.analyze, pictures * 4))
    for expected, found in zip(alone * 4, together, strict=True):
        np.testing.assert_array_equal(found.embedding, expected.embedding)
        assert found.plane == expected.plane


def test_the_image_is_not_written_to(model: fe.Model, pictures: list[Pixels]) -> None:
    picture = pictures[0].copy()
    picture.flags.writeable = False
    model.analyze(picture)
    np.testing.assert_array_equal(picture, pictures[0])


# embed


def test_embeddings_are_float32_of_length_one(model: fe.Model, pictures: list[Pixels]) -> None:
    embeddings = model.embed(pictures)
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (12, DIM)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-4)
    assert len(np.unique(embeddings.round(4), axis=0)) == 12


def test_many_images_are_embedded_as_one_by_one(model: fe.Model, pictures: list[Pixels]) -> None:
    together = model.embed(pictures)
    one_by_one = np.vstack([model.embed(picture) for picture in pictures])
    np.testing.assert_allclose(together, one_by_one, atol=1e-6)
    np.testing.assert_allclose(together[3], model.analyze(pictures[3]).embedding, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "number"),
    [
        ((32, 40), 1),
        ((32, 40, 3), 1),
        ((5, 32, 40), 5),
        ((9, 32, 40, 3), 9),
        ((0, 32, 40), 0),
    ],
)
def test_the_shape_tells_one_image_from_a_stack(
    model: fe.Model, shape: tuple[int, ...], number: int
) -> None:
    images = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    assert model.embed(images).shape == (number, DIM)


def test_nothing_embeds_to_nothing(model: fe.Model) -> None:
    assert model.embed([]).shape == (0, DIM)


def test_a_generator_of_images_is_taken(model: fe.Model, pictures: list[Pixels]) -> None:
    found = model.embed(picture for picture in pictures[:3])  # type: ignore[arg-type]
    np.testing.assert_allclose(found, model.embed(pictures[:3]), atol=1e-6)


# load


def test_loading_says_what_runs(model: fe.Model) -> None:
    assert model.bundle.name == MANIFEST["name"]
    assert model.backend.name == "onnxruntime"
    assert model.backend.precision == "int8"
    assert model.backend.version == ort.__version__


def test_two_threads_answer_as_one_does(model: fe.Model, pictures: list[Pixels]) -> None:
    two = fe.load(threads=2)
    np.testing.assert_allclose(two.embed(pictures[0]), model.embed(pictures[0]), atol=1e-6)


@pytest.mark.parametrize("backend", ["tensorflow", "", "ONNXRuntime"])
def test_an_unknown_backend_is_refused(backend: str) -> None:
    with pytest.raises(ValueError, match="choose one of auto, .*onnxruntime"):
        fe.load(backend=backend)


def test_the_precision_asked_for_is_taken_or_refused() -> None:
    assert fe.load(backend="onnxruntime", precision="int8").backend.precision == "int8"
    with pytest.raises(ValueError, match="no fp4 graph for 'onnxruntime'"):
        fe.load(backend="onnxruntime", precision="fp4")


def test_no_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="threads"):
        fe.load(threads=0)


def test_a_missing_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        fe.load(tmp_path / "nothing")


# Against ONNX Runtime and Pillow by hand


def embed_by_hand(session: ort.InferenceSession, picture: Pixels) -> NDArray[np.float32]:
    spec = MANIFEST["preprocess"]
    assert (spec["color"], spec["dtype"], spec["interpolation"]) == ("gray", "uint8", "bicubic")
    image = Image.fromarray(picture).convert("L")
    side = max(image.size)
    square = Image.new("L", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    size = spec["size"]
    levels = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
    name = session.get_inputs()[0].name
    (embedding,) = session.run(["embedding"], {name: levels[None, None]})
    return np.asarray(embedding[0], dtype=np.float32)


@pytest.fixture(scope="module")
def session() -> ort.InferenceSession:
    graph = MANIFEST["graphs"]["onnxruntime"]["int8"]
    return ort.InferenceSession(DEFAULT_BUNDLE / graph, providers=["CPUExecutionProvider"])


def test_embeddings_are_those_of_the_graph_on_pillows_pixels(
    model: fe.Model, session: ort.InferenceSession, clip_images: list[Pixels]
) -> None:
    # Frames of a head, which the model knows; in colour too, from three moments.
    grey = [image[: 540 - 2 * i, 3 * i :] for i, image in enumerate(clip_images[150:255:10])]
    colour = np.dstack([clip_images[200], clip_images[220], clip_images[240]])
    for picture in [*grey, colour]:
        expected = embed_by_hand(session, picture)
        cosine = float(model.embed(picture)[0] @ expected / np.linalg.norm(expected))
        assert cosine > 0.999


# On real ultrasound


@pytest.mark.data
def test_native_images_embed_as_on_pillows_pixels(
    model: fe.Model, session: ort.InferenceSession, data_root: Path
) -> None:
    paths = sorted((data_root / "native").glob("*.[pj][np]g"))
    assert len(paths) == 40
    for path in paths:
        picture = np.asarray(Image.open(path).convert("L"))
        expected = embed_by_hand(session, picture)
        cosine = float(model.embed(picture)[0] @ expected / np.linalg.norm(expected))
        assert cosine > 0.999


@pytest.mark.data
def test_planes_and_sub_planes_of_unseen_patients_are_recognised(
    model: fe.Model, data_root: Path
) -> None:
    with (data_root / "planes" / "labels.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    truth, found, parts, found_parts = [], [], [], []
    for row in rows:
        plane = row["plane"].split()[-1].lower()
        if plane not in ("abdomen", "brain", "femur", "thorax"):
            continue
        result = model.analyze(np.asarray(Image.open(data_root / "planes" / row["file"])))
        scores = result.plane.scores
        truth.append(plane)
        found.append(max(scores, key=lambda label: scores[label]))
        part = row["brain_plane"].lower()
        if part.startswith("trans-"):
            brain = result.brain_plane
            parts.append(part)
            found_parts.append(
                max(brain.scores, key=lambda part: brain.scores[part]) if brain else ""
            )
    assert (len(truth), len(parts)) == (506, 229)
    labels = ["abdomen", "brain", "femur", "thorax"]
    assert f1_score(truth, found, labels=labels, average="macro") >= 0.985
    labels = ["trans-cerebellum", "trans-thalamic", "trans-ventricular"]
    assert f1_score(parts, found_parts, labels=labels, average="macro") >= 0.76
