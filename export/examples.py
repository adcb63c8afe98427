"""What a bundle is made from and measured on, told apart by patient, checked before any work."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from fetalclip_edge.results import BRAIN_PLANES
from training.datasets import Example
from training.shards import read_examples, read_manifest
from training.zero_shot import SCORED_PLANES

__all__ = ["BundleData", "data_set", "read_data"]


@dataclass(frozen=True, slots=True)
class BundleData:
    """The examples of a folder of shards, by what they are for.

    Attributes:
        learned: of patients that the model learned from, in the order of the shards.
        held: of the patients that training held out, those labelled with a plane.
        tests: test images of standard planes.
        heads: test images of HC18; none where the shards lack it.
        layouts: what the shards were made of, as their manifest names it.
        sha256: identifies the data set; all shards agree with it.
    """

    learned: list[Example]
    held: list[Example]
    tests: list[Example]
    heads: list[Example]
    layouts: tuple[str, ...]
    sha256: str


def read_data(folder: Path, held_out: Collection[str], learned_from: str | None) -> BundleData:
    """Read what a bundle needs from shards, or say what they lack.

    Args:
        folder: written by `python -m training.data`.
        held_out: the patients that training held out.
        learned_from: sha256 of the shards that the model was trained on, None where it is unknown.

    Raises:
        FileNotFoundError: there are no shards, or one is missing.
        ValueError: these are other shards, one is damaged, or they lack something to fit or to
            measure on.
    """
    manifest = read_manifest(folder)
    if learned_from not in (None, manifest["sha256"]):
        raise ValueError(
            f"{folder} are not the shards that the model was trained on ({manifest['sha256']}, not "
            f"{learned_from}): training may have seen their test patients"
        )
    test = read_examples(folder, "test", verify=True)
    tests = _of("planes", test)
    _demand_labels(tests, f"{folder} has no test image of FETAL_PLANES_DB")
    train = read_examples(folder, "train", verify=True)
    learned = [example for example in train if example.group not in held_out]
    held = [example for example in train if example.group in held_out]
    if not held:
        raise ValueError(f"{folder} has none of the patients that the model's training held out")
    held = [example for example in held if example.facts.plane is not None]
    _demand_labels(held, f"{folder} has, of the patients that training held out, no image")
    return BundleData(
        learned,
        held,
        tests,
        _of("hc18", test),
        tuple(source["layout"] for source in manifest["sources"]),
        manifest["sha256"],
    )


def data_set(example: Example) -> str:
    """The data set that an example is from, which its group begins with."""
    return example.group.partition("/")[0]


def _of(name: str, examples: Sequence[Example]) -> list[Example]:
    return [example for example in examples if data_set(example) == name]


def _demand_labels(examples: Sequence[Example], lack: str) -> None:
    found = {example.facts.plane for example in examples}
    parts = {example.facts.brain_plane for example in examples}
    for title, there, labels in (
        ("plane", found, SCORED_PLANES),
        ("brain sub-plane", parts, BRAIN_PLANES),
    ):
        if missing := [label for label in labels if label not in there]:
            raise ValueError(
                f"{lack} labelled with the {title} {', '.join(missing)}, so macro-F1 would be "
                "over fewer classes than it says; add FETAL_PLANES_DB to the sources of "
                "python -m training.data"
            )
