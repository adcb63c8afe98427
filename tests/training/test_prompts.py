"""Prompts name their class, keep the order of the scores, and come from a JSON as well."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetalclip_edge.results import BRAIN_PLANES, PLANES
from training.captions import describe
from training.facts import Facts
from training.models import ModelConfig
from training.prompts import (
    BRAIN_PLANE_PROMPTS,
    PLANE_PROMPTS,
    VERSION,
    PromptSet,
    gestational_age_prompts,
    load_prompts,
    parse_prompt_files,
    prompt_file_paths,
)

from open_clip.tokenizer import SimpleTokenizer  # isort: skip  (after training.models)

SIGNS = {
    "abdomen": ("abdom",),
    "brain": ("head", "brain"),
    "femur": ("femur", "thigh"),
    "thorax": ("thorax", "chest", "heart"),
    "cervix": ("cervix", "cervical"),
    "other": ("no standard plane", "non-standard", "outside the standard"),
    "trans-thalamic": ("thalam",),
    "trans-cerebellum": ("cerebell",),
    "trans-ventricular": ("ventric",),
}
TWO = {"brain": ["A head.", "A skull."], "femur": ["A bone."]}


def every(prompts: PromptSet) -> list[str]:
    return [text for texts in prompts.prompts.values() for text in texts]


def written(folder: Path, content: object) -> Path:
    path = folder / "mine.json"
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    path.write_text(text, "utf-8")
    return path


def test_prompts_come_in_the_order_of_the_scores() -> None:
    assert PLANE_PROMPTS.labels == PLANES
    assert BRAIN_PLANE_PROMPTS.labels == BRAIN_PLANES
    assert (PLANE_PROMPTS.name, BRAIN_PLANE_PROMPTS.name) == ("planes", "brain_planes")


def test_prompts_are_sentences_of_their_class() -> None:
    assert "Ultrasound of the fetal femur." in PLANE_PROMPTS.prompts["femur"]
    assert (
        "Prenatal scan of the fetal brain, plane through the cerebellum."
        in BRAIN_PLANE_PROMPTS.prompts["trans-cerebellum"]
    )
    for prompts in (PLANE_PROMPTS, BRAIN_PLANE_PROMPTS):
        for label, texts in prompts.prompts.items():
            assert len(texts) >= 10
            assert all(any(sign in text.lower() for sign in SIGNS[label]) for text in texts)
        assert len(every(prompts)) == len(set(every(prompts)))


@pytest.mark.parametrize("label", [*PLANES, *BRAIN_PLANES])
def test_every_prompt_is_a_caption_of_training(label: str) -> None:
    part = label if label in BRAIN_PLANES else None
    prompts = BRAIN_PLANE_PROMPTS if part else PLANE_PROMPTS
    rng = random.Random(2)
    facts = Facts("brain" if part else label, part)
    captions = {describe(facts, rng)[0] for _ in range(1500)}
    assert set(prompts.prompts[label]) <= captions


@pytest.mark.parametrize("pixel_size", [None, 0.5])
def test_every_prompt_of_an_age_is_a_caption_of_training(pixel_size: float | None) -> None:
    rng = random.Random(3)
    facts = Facts("brain", None, 165, pixel_size)
    captions = {describe(facts, rng)[0] for _ in range(15_000)}
    assert set(gestational_age_prompts(pixel_size).prompts["165"]) <= captions


def test_ages_go_from_14_weeks_to_38_weeks_and_6_days() -> None:
    prompts = gestational_age_prompts()
    assert prompts.name == "gestational_age"
    assert prompts.labels == tuple(str(days) for days in range(98, 273))
    assert prompts.prompts["99"] == (
        "Ultrasound image of the fetal head at 14 weeks and 1 day.",
        "Ultrasound of the fetal brain, 14 weeks and 1 day gestation.",
        "B-mode image of the fetal head in axial section, fetus of 14 weeks and 1 day.",
        "Obstetric ultrasound, fetal head at 14 weeks and 1 day.",
        "Prenatal scan of the fetal brain, 14 weeks and 1 day gestation.",
    )
    assert len(set(every(prompts))) == 175 * 5


def test_a_known_pixel_size_is_mentioned_with_two_decimals() -> None:
    prompts = gestational_age_prompts(0.4372)
    assert prompts.prompts["272"] == (
        "Ultrasound image of the fetal head at 38 weeks and 6 days, pixel size 0.44 mm.",
        "Ultrasound of the fetal brain, 38 weeks and 6 days gestation, 0.44 mm per pixel.",
        "B-mode image of the fetal head in axial section, fetus of 38 weeks and 6 days, "
        "0.44 mm/pixel.",
        "Obstetric ultrasound, fetal head at 38 weeks and 6 days, pixel size 0.44 mm.",
        "Prenatal scan of the fetal brain, 38 weeks and 6 days gestation, 0.44 mm per pixel.",
    )
    assert prompts == gestational_age_prompts(0.4355)
    assert prompts.sha256 != gestational_age_prompts(0.45).sha256


@given(st.floats(0.01, 5))
def test_the_template_is_the_same_for_every_age(pixel_size: float) -> None:
    prompts = gestational_age_prompts(pixel_size).prompts
    shapes = {
        tuple(re.sub(r"\d+ weeks and \d days?", "AGE", text) for text in texts)
        for texts in prompts.values()
    }
    assert len(shapes) == 1
    for days, texts in prompts.items():
        age = f"{int(days) // 7} weeks and {int(days) % 7} day"
        assert all(age in text for text in texts)


@pytest.mark.parametrize("pixel_size", [0.0, -0.2, 0.004, float("nan"), float("inf")])
def test_an_impossible_pixel_size_is_refused(pixel_size: float) -> None:
    message = "pixel_size_mm must be a number that is at least 0.01"
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        gestational_age_prompts(pixel_size)
    assert repr(pixel_size) in str(caught.value)


def test_prompts_fit_the_text_tower() -> None:
    tokenizer = SimpleTokenizer(context_length=2 * ModelConfig().text_context)
    sets = (PLANE_PROMPTS, BRAIN_PLANE_PROMPTS, gestational_age_prompts(1.23))
    texts = [text for prompts in sets for text in every(prompts)]
    assert int((tokenizer(texts) != 0).sum(dim=1).max()) <= 40


def test_the_hash_changes_with_a_word_and_with_the_order() -> None:
    prompts = PromptSet("planes", {"brain": ("A head.",), "femur": ("A bone.",)})
    # sha256sum of [["brain", ["A head."]], ["femur", ["A bone."]]]
    expected = "54e51b06d9da4bf17ca4fcdd5ba74256adac351afc571878de82c3c1ce4c06c3"
    assert prompts.sha256 == expected
    word = PromptSet("planes", {"brain": ("A skull.",), "femur": ("A bone.",)})
    order = PromptSet("planes", {"femur": ("A bone.",), "brain": ("A head.",)})
    assert len({prompts.sha256, word.sha256, order.sha256}) == 3


def test_other_sentences_are_another_version() -> None:
    # A lock, not a reference: when this fails, raise VERSION and write the new hashes here.
    sets = (PLANE_PROMPTS, BRAIN_PLANE_PROMPTS, gestational_age_prompts(0.5))
    assert VERSION == "2"
    assert [prompts.sha256[:12] for prompts in sets] == [
        "934545ee1a1b",
        "62c21815e5f3",
        "00cfa0a3f170",
    ]
    assert {prompts.version for prompts in sets} == {VERSION}


def test_prompts_are_read_in_the_order_of_the_labels(tmp_path: Path) -> None:
    prompts = load_prompts(written(tmp_path, TWO), "bones", ("femur", "brain"))
    assert prompts == PromptSet(
        "bones", {"femur": ("A bone.",), "brain": ("A head.", "A skull.")}, "mine.json"
    )
    assert prompts.labels == ("femur", "brain")


def test_without_labels_the_file_says_which_classes_there_are(tmp_path: Path) -> None:
    # FetalCLIP's classes of planes, as it publishes them; the sentences are not its own.
    classes = ["abdomen", "brain", "femur", "heart", "kidney", "lips_nose"]
    classes += ["profile_patient", "spine", "cervix"]
    path = written(tmp_path, {name: [f"Picture of {name}."] for name in classes})
    prompts = load_prompts(path, "planes")
    classes[3] = "thorax"
    assert prompts.labels == tuple(classes)
    assert prompts.prompts["thorax"] == ("Picture of heart.",)


def test_heart_is_thorax_unless_the_labels_have_a_heart(tmp_path: Path) -> None:
    path = written(tmp_path, {"heart": ["Four chambers."]})
    assert load_prompts(path, "planes", ["thorax"]).labels == ("thorax",)
    assert load_prompts(path, "organs", ["heart"]).labels == ("heart",)


@given(
    st.dictionaries(
        st.text(min_size=1).filter(lambda label: label != "heart"),
        st.integers(1, 3),
        min_size=1,
        max_size=5,
    )
)
def test_any_classes_and_sentences_are_read_as_they_stand(
    tmp_path_factory: pytest.TempPathFactory, sizes: dict[str, int]
) -> None:
    prompts = {
        label: tuple(f"Näher {number}: {label}, {n}." for n in range(size))
        for number, (label, size) in enumerate(sizes.items())
    }
    path = written(tmp_path_factory.mktemp("prompts"), prompts)
    assert load_prompts(path, "any") == PromptSet("any", prompts, "mine.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON in UTF-8"),
        ("[1, 2]", "must hold a JSON object of class -> list of prompts"),
        ("{}", "must hold a JSON object of class -> list of prompts"),
        ({**TWO, "femur": []}, "class 'femur' must have a list of at least one prompt, not []"),
        ({**TWO, "femur": "A bone."}, "class 'femur' must have a list of at least one prompt"),
        ({**TWO, "femur": {"a": "b"}}, "class 'femur' must have a list of at least one prompt"),
        ({**TWO, "femur": ["A bone.", 3]}, "class 'femur' has a prompt that is not a text: 3"),
        ({**TWO, "femur": [{"a": 1}]}, "class 'femur' has a prompt that is not a text"),
        ({**TWO, "femur": [" "]}, "class 'femur' has a prompt that is not a text: ' '"),
        ({"femur": ["A bone."]}, "lacks brain; the classes must be brain, femur"),
        ({**TWO, "spine": ["A spine."]}, "has unknown spine; the classes must be brain, femur"),
        (
            {"brain": ["A head."], "spine": ["A spine."], "kidney": ["A kidney."]},
            "lacks femur and has unknown spine, kidney;",
        ),
        (
            {**TWO, "femur": ["A bone.", "A bone."]},
            "class 'femur' repeats a prompt of class 'femur': 'A bone.'",
        ),
        (
            {**TWO, "femur": ["A skull."]},
            "class 'femur' repeats a prompt of class 'brain': 'A skull.'",
        ),
        ('{"brain": ["A."], "femur": ["B."], "brain": ["C."]}', "class 'brain' is given twice;"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, content: object, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_prompts(written(tmp_path, content), "bones", ("brain", "femur"))
    assert str(tmp_path / "mine.json") in str(caught.value)


def test_two_names_of_one_class_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {"thorax": ["A chest."], "heart": ["A heart."]})
    with pytest.raises(ValueError, match="'thorax' is given twice .heart is another name for it"):
        load_prompts(path, "planes")


def test_a_file_of_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes('{"brain": ["Schädel."]}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"mine\.json is not JSON in UTF-8"):
        load_prompts(path, "planes")


def own_brain_planes(folder: Path) -> Path:
    path = folder / "brain.json"
    # Not in the order of the scores.
    path.write_text(json.dumps({label: [f"A {label} view."] for label in sorted(BRAIN_PLANES)}))
    return path


def test_prompts_for_training_are_given_by_task(tmp_path: Path) -> None:
    planes = written(tmp_path, {label: [f"A {label}."] for label in sorted(PLANES)})
    brain = own_brain_planes(tmp_path)
    own = parse_prompt_files([f"brain_planes={brain}", f"planes={planes}"])
    assert own == {
        "planes": PromptSet("planes", {p: (f"A {p}.",) for p in PLANES}, "mine.json"),
        "brain_planes": PromptSet(
            "brain_planes", {p: (f"A {p} view.",) for p in BRAIN_PLANES}, "brain.json"
        ),
    }
    assert own["planes"].labels == PLANES
    assert own["brain_planes"].labels == BRAIN_PLANES
    assert parse_prompt_files([]) == {}


def test_a_file_name_may_hold_an_equals_sign(tmp_path: Path) -> None:
    path = own_brain_planes(tmp_path).rename(tmp_path / "v=2.json")
    assert prompt_file_paths([f"spines={path}"], ["spines"]) == {"spines": path}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("mine.json", "must be TASK=FILE.json with a task of planes, brain_planes, not 'mine.json"),
        ("spines=mine.json", "with a task of planes, brain_planes, not 'spines=mine.json'"),
        ("brain_planes", "must be TASK=FILE.json"),
        ("brain_planes=", "must be TASK=FILE.json"),
        ("=mine.json", "must be TASK=FILE.json"),
        ("", "must be TASK=FILE.json"),
        ("planes=brain.json", "brain.json lacks abdomen, brain, femur, thorax, cervix, other and"),
        ("planes=gone.json", "--prompts planes=gone.json: there is no file gone.json"),
        ("planes=.", "--prompts planes=.: there is no file ."),
        ("brain_planes=x.json", "gives brain_planes twice: brain.json and x.json; give one"),
    ],
)
def test_prompts_for_training_that_cannot_be_used_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    own_brain_planes(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        parse_prompt_files(["brain_planes=brain.json", value])
