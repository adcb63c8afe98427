"""Published layouts, written as their publishers write them, and read back."""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.facts import Facts
from training.sources import LeftOut, Record, age_from_circumference, read_source

# Byte order mark, trailing blank in "Train ", empty columns at the end, Windows line ends.
FETAL_PLANES_DB = (
    "\ufeffImage_name;Patient_num;Plane;Brain_plane;Operator;US_Machine;Train ;;\r\n"
    "Patient00001_Plane1_1_of_2;1;Other;Not A Brain;Other;Aloka;1;;\r\n"
    "Patient00001_Plane3_1_of_1;1;Fetal brain;Trans-thalamic;Op. 1;Voluson E6;1\r\n"
    "Patient01000_Plane2_1_of_1;1000;Fetal abdomen;Not A Brain;Op. 2;Voluson S10;0 \r\n"
    ";;;;;;;;\r\n"
)

HC18 = (
    "filename,pixel size(mm),head circumference (mm)\n"
    "000_HC.png,0.0691358041432,44.3\n"
    "003_HC.png,0.0912911675193,175.1\n"
    "003_2HC.png,0.0896592279503,176.0\n"
    "007_HC.png,0.1,180\n"
)


def fetal_planes_db(root: Path, table: str = FETAL_PLANES_DB) -> Path:
    (root / "Images").mkdir(parents=True)
    (root / "FETAL_PLANES_DB_data.csv").write_bytes(table.encode())
    return root


def hc18(root: Path, table: str = HC18) -> Path:
    (root / "training_set").mkdir(parents=True)
    (root / "test_set").mkdir()
    (root / "training_set_pixel_size_and_HC.csv").write_text(table)
    (root / "test_set_pixel_size.csv").write_text("filename,pixel size(mm)\n000_HC.png,0.2\n")
    return root


def who_median_mm(days: float) -> float:
    t = days / 7
    b = (2.09924879247164, 0.253373656106037, -0.00605647816678282, 5.14256072059917e-5)
    return math.exp(b[0] + b[1] * t + b[2] * t**2 + b[3] * t**3)


def test_fetal_planes_db_is_read_as_published(tmp_path: Path) -> None:
    root = fetal_planes_db(tmp_path)
    (data_set,) = read_source(root)
    image = root / "Images" / "Patient00001_Plane3_1_of_1.png"
    assert data_set.layout == "FETAL_PLANES_DB"
    assert data_set.records[1] == Record(
        image,
        "planes/Images/Patient00001_Plane3_1_of_1.png",
        Facts("brain", "trans-thalamic"),
        "planes/1",
        "train",
        scanner="Voluson E6",
    )
    assert [(r.facts, r.group, r.split) for r in (data_set.records[0], data_set.records[2])] == [
        (Facts("other"), "planes/1", "train"),
        (Facts("abdomen"), "planes/1000", "test"),
    ]
    assert len(data_set.records) == 3


def test_hc18_is_read_as_published(tmp_path: Path) -> None:
    root = hc18(tmp_path)
    (data_set,) = read_source(root)
    small, first, second, _ = data_set.records
    assert first.path == root / "training_set" / "003_HC.png"
    assert first.name == "hc18/training_set/003_HC.png"
    assert (first.group, second.group) == ("hc18/003", "hc18/003")
    assert (first.facts.plane, first.facts.pixel_size_mm) == ("brain", 0.0912911675193)
    assert first.head_circumference_mm == 175.1
    age = first.facts.gestational_age_days
    assert age is not None
    assert who_median_mm(age - 0.51) <= 175.1 <= who_median_mm(age + 0.51)
    # 44.3 mm lies below the chart.
    assert small.facts.gestational_age_days is None
    assert [left.file for left in data_set.left_out] == ["hc18/test_set"]
    assert isinstance(data_set.left_out[0], LeftOut)
    assert "no head circumference" in data_set.left_out[0].reason
    assert any("fifth" in note for note in data_set.notes)


def test_a_fifth_of_hc18s_subjects_is_for_the_test_whatever_else_is_there(tmp_path: Path) -> None:
    lines = HC18.splitlines()[:1] + [
        f"{subject:03d}_{image}.png,0.1,180" for subject in range(806) for image in ("HC", "2HC")
    ]
    (every,) = read_source(hc18(tmp_path / "all", "\n".join(lines)))
    splits = {record.group: record.split for record in every.records}
    assert len(splits) == 806
    # Both images of a subject agree, and four standard deviations around a fifth.
    assert all(splits[record.group] == record.split for record in every.records)
    assert 115 <= sum(split == "test" for split in splits.values()) <= 207
    (few,) = read_source(hc18(tmp_path / "few", "\n".join(lines[:1] + lines[400:440])))
    assert all(splits[record.group] == record.split for record in few.records)
    # Never to change, so that models can be compared. By printf hc18/$s | sha256sum, and bc.
    assert {g for g in sorted(splits)[:20] if splits[g] == "test"} == {
        "hc18/002",
        "hc18/012",
        "hc18/017",
    }


def test_hc18_may_be_unpacked_into_a_folder_of_its_name(tmp_path: Path) -> None:
    root = hc18(tmp_path)
    (plain,) = read_source(root)
    (root / "training_set" / "training_set").mkdir()
    (nested,) = read_source(root)
    assert nested.records[0].path == root / "training_set" / "training_set" / "000_HC.png"
    assert [r.name for r in nested.records] == [r.name for r in plain.records]


def test_the_publishers_table_stands_for_its_folder(tmp_path: Path) -> None:
    root = fetal_planes_db(tmp_path)
    assert read_source(root / "FETAL_PLANES_DB_data.csv") == read_source(root)


def test_a_folder_that_holds_two_data_sets_gives_both(tmp_path: Path) -> None:
    fetal_planes_db(tmp_path / "both")
    (tmp_path / "both" / "training_set").mkdir()
    (tmp_path / "both" / "training_set_pixel_size_and_HC.csv").write_text(HC18)
    assert [data_set.layout for data_set in read_source(tmp_path / "both")] == [
        "FETAL_PLANES_DB",
        "HC18",
    ]


@pytest.mark.data
def test_the_subset_has_the_counts_and_labels_of_its_tables(data_root: Path) -> None:
    planes, heads = read_source(data_root)
    counts = {
        (data_set.layout, split): sum(record.split == split for record in data_set.records)
        for data_set in (planes, heads)
        for split in ("train", "test")
    }
    assert list(counts.values()) == [1123, 523, 646, 148]
    for data_set, folder, patient in ((planes, "planes", "patient"), (heads, "hc18", "subject")):
        with (data_root / folder / "labels.csv").open(newline="") as file:
            for record, row in zip(data_set.records, csv.DictReader(file), strict=True):
                assert record.path == data_root / folder / row["file"]
                assert record.path.is_file()
                assert record.name == f"{folder}/{row['file']}"
                assert (record.group, record.split) == (f"{folder}/{row[patient]}", row["split"])
                assert record.scanner == row.get("us_machine")
                if folder == "planes":
                    assert record.facts.plane == row["plane"].lower().split()[-1]
                    assert record.facts.brain_plane == (row["brain_plane"].lower() or None)
                else:
                    assert record.facts.pixel_size_mm == float(row["pixel_size_mm"])
                    assert record.head_circumference_mm == float(row["head_circumference_mm"])


def test_captions_need_no_more_than_image_and_caption(tmp_path: Path) -> None:
    (tmp_path / "clinic.csv").write_text('image,caption\na/1.png,"A head, in thalamic view"\n')
    (data_set,) = read_source(tmp_path / "clinic.csv")
    assert data_set.records == [
        Record(
            tmp_path / "a" / "1.png",
            "captions/clinic/a/1.png",
            Facts(None, caption="A head, in thalamic view"),
            "captions/clinic/a/1.png",
            "train",
        )
    ]


def test_captions_may_give_patient_split_and_scanner(tmp_path: Path) -> None:
    (tmp_path / "clinic.csv").write_text(
        "split\tcaption\timage\tpatient\tnote\tscanner\n"
        "test\tA femur\t1.png\t7\tx\tClarius C3\n"
        "test\tA head\t2.png\t7\tx\t\n"
    )
    record, other = read_source(tmp_path / "clinic.csv")[0].records
    assert (record.group, record.split) == ("captions/clinic/7", "test")
    assert (record.scanner, other.scanner) == ("Clarius C3", None)


words = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).map(str.strip)


@given(
    st.lists(words.filter(bool), min_size=1, max_size=8),
    st.sampled_from(",;\t"),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_whatever_stands_in_a_caption_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    captions: list[str],
    delimiter: str,
    line_end: str,
    byte_order_mark: bool,
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=line_end)
    writer.writerows([("image", "caption")] + [(f"{i}.png", c) for i, c in enumerate(captions)])
    path = tmp_path_factory.mktemp("captions") / "captions.csv"
    path.write_bytes(("\ufeff" * byte_order_mark + text.getvalue()).encode())
    assert [record.facts.caption for record in read_source(path)[0].records] == captions


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda b: b"image,caption\n" + b))
def test_any_file_is_read_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "any.csv"
    path.write_bytes(content)
    try:
        told = [record.facts.caption for record in read_source(path)[0].records]
    except ValueError as error:
        told = [str(error) if str(path) in str(error) else None]
    assert told
    assert all(told)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("1;Fetal brain", "1;Fetal elbow", r"data\.csv, line 3: Plane must .*not 'Fetal elbow'"),
        ("Trans-thalamic", "Sagittal", r"line 3: Brain_plane must be one of .*not 'Sagittal'"),
        ("S10;0", "S10;yes", r"line 4: Train must be one of '1', '0', not 'yes'"),
        ("Patient01000_Plane2_1_of_1", " ", r"line 4: Image_name is empty"),
        (";1000;", ";;", r"line 4: Patient_num is empty"),
        ("Brain_plane;", "Brain;", r"lacks the columns Brain_plane; it has Image_name, "),
        ("Op. 1", "Op; 1", r"line 3: Train must be"),
        ("Op. 1;", 'Op. 1;"', r"data\.csv, line \d: unexpected end of data"),
        ("E6;1", "E6;1;;;x", r"line 3: 10 values for 9 columns; put quotes"),
    ],
)
def test_a_bad_row_of_fetal_planes_db_is_named(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    assert old in FETAL_PLANES_DB
    root = fetal_planes_db(tmp_path, FETAL_PLANES_DB.replace(old, new))
    with pytest.raises(ValueError, match=told):
        read_source(root)


@pytest.mark.parametrize("number", ["-0.1", "0", "nan", "inf", "", "0,1", "wide"])
@pytest.mark.parametrize("column", ["pixel size(mm)", "head circumference (mm)"])
def test_a_bad_number_of_hc18_is_named(tmp_path: Path, number: str, column: str) -> None:
    values = {"pixel size(mm)": "0.1", "head circumference (mm)": "180", column: f'"{number}"'}
    root = hc18(tmp_path, HC18 + f"009_HC.png,{','.join(values.values())}\n")
    told = f"line 6: {column} must be a positive number, not {number!r}"
    with pytest.raises(ValueError, match=re.escape(told)):
        read_source(root)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("image,caption\n,A head\n", "line 2: image is empty"),
        ("image,caption\n1.png,\n", "line 2: caption is empty"),
        ("image,caption\n/data/1.png,A head\n", "line 2: image must be a path relative to"),
        ("image,caption,split\n1.png,A head,valid\n", "line 2: split must be one of 'train', "),
        ("image,caption,patient\n1.png,A head,\n", "line 2: patient is empty"),
        ("image,caption\n1.png,A head, seen from above\n", "line 2: 3 values for 2 columns"),
        ("file,caption\n1.png,A head\n", "lacks the columns image; it has file, caption"),
        ("image,caption\n", "has no rows"),
        ("", "lacks the columns image, caption; it has none"),
    ],
)
def test_a_bad_row_of_captions_is_named(tmp_path: Path, table: str, told: str) -> None:
    (tmp_path / "c.csv").write_text(table)
    with pytest.raises(ValueError, match=told):
        read_source(tmp_path / "c.csv")


def test_an_unknown_layout_is_told_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no known layout") as raised:
        read_source(tmp_path)
    for name in (
        "FETAL_PLANES_DB_data.csv (FETAL_PLANES_DB)",
        "training_set_pixel_size_and_HC.csv (HC18)",
        "planes/labels.csv",
        "hc18/labels.csv",
        "image and caption",
    ):
        assert name in str(raised.value)


def test_a_source_that_is_not_there_or_not_unpacked_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere does not exist"):
        read_source(tmp_path / "elsewhere")
    for table, folder in (
        ("FETAL_PLANES_DB_data.csv", "Images"),
        ("training_set_pixel_size_and_HC.csv", "training_set"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / table).write_text("")
        with pytest.raises(FileNotFoundError, match=f"{folder} is missing: unpack"):
            read_source(tmp_path / folder)


@given(st.integers(98, 272))
def test_the_age_of_the_median_head_is_the_charts_own(days: int) -> None:
    assert age_from_circumference(who_median_mm(days)) == days


@pytest.mark.parametrize("days", [97, 273])
def test_heads_beyond_the_chart_have_no_age(days: int) -> None:
    assert age_from_circumference(who_median_mm(days)) is None
