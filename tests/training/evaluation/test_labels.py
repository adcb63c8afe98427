"""A user's table of labels: how it is read, split and pooled, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.evaluation.labels import pool_clips, read_labels

ROWS = [
    "a0.png,normal,1,Ann,train",
    "a1.png,normal,1,Ann,train",
    "b0.png,defect,1,Bea,train",
    "c0.png,defect,2,Cleo,test",
]
HEADER = "file,label,clip,patient,split"


def table(folder: Path, *lines: str) -> Path:
    for line in lines[1:]:
        name = line.split(",")[0]
        if name.endswith(".png"):
            Image.new("RGB", (8, 6), (10, 20, 30)).save(folder / name)
    path = folder / "heart.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_frames_of_a_clip_are_averaged_and_clips_of_two_patients_kept_apart(tmp_path: Path) -> None:
    labels = read_labels(table(tmp_path, HEADER, *ROWS))
    embeddings = np.array([[1, 0], [0, 1], [1, 1], [5, 5]], np.float32)
    # When clips are pooled: both Ann's and Bea's are called 1
    train, test = (pool_clips(embeddings, labels.images, split) for split in ("train", "test"))
    # Then Ann's two frames are one sample, Bea's one is another
    assert train.features.tolist() == [[0.5, 0.5], [1, 1]]
    assert train.labels.tolist() == ["normal", "defect"]
    assert train.groups.tolist() == ["Ann", "Bea"]
    assert test.features.tolist() == [[5, 5]]
    assert labels.notes == ()


def test_images_are_read_beside_the_table_in_grey(tmp_path: Path) -> None:
    labels = read_labels(table(tmp_path, HEADER, *ROWS))
    image = labels.images[0].open()
    # By ITU-R 601: 0.299 * 10 + 0.587 * 20 + 0.114 * 30 = 18.15
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("L", (8, 6), 18)


def test_without_a_split_a_quarter_of_the_patients_is_for_testing(tmp_path: Path) -> None:
    rows = [f"{i}.png,{'ab'[i // 2 % 2]},p{i // 2}" for i in range(64)]
    labels = read_labels(table(tmp_path, "file,label,patient", *rows))
    test = {image.patient for image in labels.images if image.split == "test"}
    train = {image.patient for image in labels.images if image.split == "train"}
    assert len(test) == 8
    assert len(train) == 24
    assert labels.notes == ("no column split: 8 of 32 patients are the test split",)


def test_without_patients_every_clip_stands_for_one_and_the_report_says_so(tmp_path: Path) -> None:
    labels = read_labels(table(tmp_path, "file,label,split", "a.png,x,train", "b.png,y,test"))
    assert [image.patient for image in labels.images] == ["file a.png", "file b.png"]
    assert labels.notes == ("no column patient: every clip counts as a patient of its own",)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["file,class", "a.png,x"], "heart.csv lacks the column label; it needs file, label"),
        (["image", "a.png"], "lacks the column file and label"),
        (["file,label"], "has no rows"),
        (["file,label", "a.png,"], "line 2: label is empty"),
        (["file,label,split", "a.png,x,val"], "line 2: split must be train or test, not 'val'"),
        ([HEADER, *ROWS, "a2.png,defect,1,Ann,train"], "has the labels 'normal' and 'defect'"),
        ([HEADER, *ROWS, "a2.png,normal,3,Ann,test"], "patient Ann is in both splits"),
        (["file,label", "gone.jpg,x"], "line 2: .*gone.jpg does not exist"),
        ([HEADER, *ROWS, "a0.png,defect,9,Dan,test"], "a0.png is given twice"),
        (["file,label", "heart.csv,x"], "line 2: .*heart.csv is not an image"),
        (["file;label", "a;x"], "with commas between them"),
        (["file,label", '"a.png,x'], "not a CSV in UTF-8"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(
    tmp_path: Path, lines: list[str], told: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        read_labels(table(tmp_path, *lines))


def test_a_label_of_one_patient_cannot_be_split(tmp_path: Path) -> None:
    lines = ["file,label,patient", "a.png,x,1", "b.png,x,2", "c.png,y,3"]
    with pytest.raises(ValueError, match="label y has one patient alone"):
        read_labels(table(tmp_path, *lines))


def test_a_missing_table_and_a_broken_image_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.csv does not exist"):
        read_labels(tmp_path / "none.csv")
    labels = read_labels(table(tmp_path, "file,label,split", "a.png,x,train"))
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a\.png cannot be decoded"):
        labels.images[0].open()


def test_a_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "heart.csv").write_bytes("file,label\na.png,schön\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"heart\.csv is not a CSV in UTF-8"):
        read_labels(tmp_path / "heart.csv")
