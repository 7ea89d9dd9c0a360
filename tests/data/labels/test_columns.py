"""Labels and captions of tables: text stays text, and names that look alike are told."""

from __future__ import annotations

import logging

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.data import from_dataset, from_table, image_folder


@pytest.fixture
def table(tmp_path):
    """Writes a CSV file with the given cells in its column `x`."""

    def write(*cells: str):
        rows = [f"{row}.png,{cell}" for row, cell in enumerate(cells)]
        (tmp_path / "table.csv").write_text("\n".join(["image,x", *rows]) + "\n", encoding="utf-8")
        return tmp_path / "table.csv"

    return write


@pytest.mark.parametrize(
    ("cells", "labels", "names"),
    [
        (("007", "07", "7"), [0, 1, 2], ["007", "07", "7"]),
        (("True", "False", "True"), [1, 0, 1], ["False", "True"]),
        (("0", "10", "2"), [0, 10, 2], None),
        (("1", "+1", "1"), [1, 0, 1], ["+1", "1"]),
        (("-1", "1"), [0, 1], ["-1", "1"]),
        (("1", "1.0"), [0, 1], ["1", "1.0"]),
        (("1e3", "1000"), [1, 0], ["1000", "1e3"]),
        (("1_0", "10"), [1, 0], ["10", "1_0"]),
        (("١", "1"), [1, 0], ["1", "١"]),
        (("NA", "None", "nan"), [0, 1, 2], ["NA", "None", "nan"]),
        (("inf", "5"), [1, 0], ["5", "inf"]),
        (("123456789012345678", "2"), [123456789012345678, 2], None),
        (("12345678901234567890", "2"), [0, 1], ["12345678901234567890", "2"]),
        (("2024-01-01", "2024-1-1"), [0, 1], ["2024-01-01", "2024-1-1"]),
    ],
)
def test_only_plain_integers_are_numbers(table, cells, labels, names) -> None:
    source = from_table(table(*cells), label_column="x")
    assert source.labels.tolist() == labels
    assert source.class_names == names


def test_captions_and_file_names_may_be_numbers(table, tmp_path) -> None:
    assert from_table(table("12", "0012"), text_column="x").texts == [["12"], ["0012"]]
    (tmp_path / "numbers.csv").write_text("image,y\n1,a\n02,b\n")
    source = from_table(tmp_path / "numbers.csv")
    assert source.ids == ["1", "02"]
    assert source.items == [str(tmp_path / "1"), str(tmp_path / "02")]


def test_booleans_of_typed_tables_keep_their_names(tmp_path) -> None:
    frame = pd.DataFrame({"image": ["a.png", "b.png"], "x": [True, False]})
    frame.to_parquet(tmp_path / "t.parquet")
    for table in (frame, tmp_path / "t.parquet"):
        source = from_table(table, label_column="x")
        assert (source.labels.tolist(), source.class_names) == ([1, 0], ["False", "True"])
    source = from_dataset(datasets.Dataset.from_pandas(frame), image_column="image", label_column="x")
    assert source.class_names == ["False", "True"]


def test_strings_of_typed_tables_stay_strings() -> None:
    frame = pd.DataFrame({"image": ["a.png", "b.png"], "x": ["1", "0"]})
    assert from_table(frame, label_column="x").class_names == ["0", "1"]


@pytest.mark.parametrize("value", [0.5, "x", None])
def test_mixed_labels_are_refused(value) -> None:
    frame = pd.DataFrame({"image": ["a.png", "b.png"], "x": pd.Series([1, value], dtype=object)})
    with pytest.raises(ClipAlignError, match=r"all integers or all strings|no label in row 1"):
        from_table(frame, label_column="x")


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        (("cat", "cat "), "'cat', 'cat '"),
        (("cat", "Cat", "dog"), "'Cat', 'cat'"),
        (("a  b", "a b"), "'a  b', 'a b'"),
        (("café", "cafe\u0301"), "'café'"),
        (("cat", "dog"), None),
        (("cat", "cats"), None),
        (("1", "2"), None),
    ],
)
def test_names_that_look_alike_are_told_and_kept(table, cells, told, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        source = from_table(table(*cells), label_column="x")
    assert len(np.unique(source.labels)) == len(cells)
    assert len(caplog.records) == (told is not None)
    if told:
        assert told in caplog.text
        assert "table.csv, column 'x'" in caplog.text


def test_folders_that_look_alike_are_told(tmp_path, caplog) -> None:
    for folder in ("Cat", "cat_", "cat"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (2, 2)).save(tmp_path / folder / "a.png")
    assert image_folder(tmp_path).class_names == ["Cat", "cat", "cat_"]
    assert "'Cat', 'cat' are different classes" in caplog.text


def test_columns_of_one_name_are_refused() -> None:
    frame = pd.DataFrame([["a.png", "x", "y"]], columns=["image", "label", "label"])
    with pytest.raises(ClipAlignError, match="several columns are called 'label'"):
        from_table(frame, label_column="label")


def test_a_cell_of_10_megabytes_is_no_traceback(table) -> None:
    path = table("x" * 10**7, "y")
    assert len(from_table(path, label_column="x").class_names) == 2
    with pytest.raises(ClipAlignError, match="no column 'yyy") as caught:
        from_table(path, image_column="y" * 10**6)
    assert len(str(caught.value)) < 600
