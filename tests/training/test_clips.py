"""Tables of clips: what they must say, and how patients are divided."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from training.clips import read_clips


def table(path: Path, rows: list[str], columns: str = "path,label,group") -> Path:
    path.write_text("\n".join([columns, *rows]) + "\n", encoding="utf-8")
    return path


def patients(number: int, label: str, first: int = 0) -> list[str]:
    """Two clips of each patient."""
    return [
        f"{label}{patient}_{clip}.png,{label},{label}{patient}"
        for patient in range(first, first + number)
        for clip in range(2)
    ]


def test_without_splits_a_fifth_of_the_patients_is_for_each_test(tmp_path: Path) -> None:
    clips = read_clips(table(tmp_path / "t.csv", patients(10, "a") + patients(15, "b")))
    of_split = defaultdict(set)
    for clip in clips:
        of_split[clip.split].add((clip.label, clip.group))
    assert {split: len(groups) for split, groups in of_split.items()} == {
        "train": 15,
        "validation": 5,
        "test": 5,
    }
    assert len(set.union(*of_split.values())) == 25  # nobody is in two of them
    assert all({label for label, _ in groups} == {"a", "b"} for groups in of_split.values())
    assert clips[0].path == tmp_path / "a0_0.png"


def test_splits_that_are_given_stay(tmp_path: Path) -> None:
    rows = [f"{row},train" for row in patients(3, "a") + patients(3, "b")]
    rows += [f"{row},val" for row in patients(1, "a", 3) + patients(1, "b", 3)]
    rows += [f"{row},test" for row in patients(1, "a", 4)]
    clips = read_clips(table(tmp_path / "t.csv", rows, "path,label,group,split"))
    assert [clip.split for clip in clips] == ["train"] * 12 + ["validation"] * 4 + ["test"] * 2


def test_validation_comes_out_of_train_where_there_is_none(tmp_path: Path) -> None:
    rows = [f"{row},train" for row in patients(5, "a") + patients(5, "b")]
    rows += [f"{row},test" for row in patients(1, "a", 5)]
    clips = read_clips(table(tmp_path / "t.csv", rows, "path,label,group,split"))
    moved = {clip.group for clip in clips if clip.split == "validation"}
    assert {group[0] for group in moved} == {"a", "b"}
    assert moved.isdisjoint(clip.group for clip in clips if clip.split != "validation")
    assert [clip.split for clip in clips[-2:]] == ["test", "test"]


GOOD = [f"{row},train" for row in patients(4, "a") + patients(4, "b")]
WRONG = [
    ("path,label", ["x.png,a"], "lacks the columns group"),
    ("path,label,group", [], "has no rows"),
    ("path,label,group", patients(5, "a"), "has the label 'a' alone"),
    ("path,label,group", ["x.png,,1"], "line 2: label is empty"),
    ("path,label,group", [*patients(5, "a"), "x.png,b,7"], "label 'b' has 1 patients"),
    ("path,label,group,split", [*GOOD, "x.png,a,9,exam"], "split must be one of"),
    ("path,label,group,split", [*GOOD, "x.png,a,a0,test"], "group 'a0' is in the splits train and"),
    ("path,label,group,split", [*GOOD, "a0_0.png,a,9,test"], "a0_0.png is given twice"),
    ("path,label,group,split", GOOD, "no clips in test"),
    (
        "path,label,group,split",
        [*GOOD, "x.png,c,9,validation", "y.png,a,8,test"],
        "no clip labelled 'c' in train",
    ),
]


@pytest.mark.parametrize(("columns", "rows", "message"), WRONG)
def test_a_wrong_table_is_refused(
    tmp_path: Path, columns: str, rows: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_clips(table(tmp_path / "t.csv", rows, columns))


def test_a_table_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"t\.csv does not exist"):
        read_clips(tmp_path / "t.csv")
