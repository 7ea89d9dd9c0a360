"""Sequences are read by position, whatever kind they come in; what has no positions is refused in one line."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import Dataset

from hf_clipalign._checks.sequences import as_array, as_list
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data import ImageSource, keep_classes, take
from hf_clipalign.features import Features

SHUFFLED = pd.Series(["c", "a", "b"], index=[2, 0, 1])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (SHUFFLED, ["c", "a", "b"]),
        (SHUFFLED.sort_values(), ["a", "b", "c"]),
        (SHUFFLED[::-1], ["b", "a", "c"]),
        (SHUFFLED.astype("category"), ["c", "a", "b"]),
        (pd.Index(["c", "a"]), ["c", "a"]),
        (np.array(["c", "a"]), ["c", "a"]),
        (np.array(["c", "a"], dtype=object)[::-1], ["a", "c"]),
        (pa.chunked_array([["c"], ["a"]]), ["c", "a"]),
        (Dataset.from_dict({"name": ["c", "a"]})["name"], ["c", "a"]),
        (("c", "a"), ["c", "a"]),
        ({"c": 0, "a": 1}.keys(), None),
        (np.arange(3, dtype=">i4")[::-1], [2, 1, 0]),
        (torch.tensor([2, 0]), [2, 0]),
        (pd.Series([2, 0], index=[7, 3], dtype="Int64"), [2, 0]),
        (pd.Series([True, False], dtype="boolean"), [True, False]),
        (torch.tensor([0.5], dtype=torch.bfloat16), [0.5]),
        ([1, 2.5], [1, 2.5]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_by_position(values: object, expected: list | None) -> None:
    if expected is None:
        with pytest.raises(ClipAlignError, match="no order"):
            as_list(values, "names")
        return
    assert as_list(values, "names") == expected
    array = as_array(values, "names")
    assert array.tolist() == expected
    assert array.dtype.kind in "biufU"
    assert array.dtype.isnative
    assert array.flags.c_contiguous


def test_iterators_are_read_once() -> None:
    assert as_list((letter for letter in "ba"), "names") == ["b", "a"]
    assert as_array(iter([1, 2]), "names").tolist() == [1, 2]


def test_tables_are_matrices_but_no_columns() -> None:
    table = pd.DataFrame({"x": [1, 2], "y": [0.5, 1.5]}, index=[5, 3])
    assert as_array(table, "features").tolist() == [[1.0, 0.5], [2.0, 1.5]]
    for other in (table, pa.table({"x": [1]}), Dataset.from_dict({"x": [1]})):
        with pytest.raises(ClipAlignError, match=r"^labels is a .*: give one of its columns"):
            as_list(other, "labels")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("cat", r"^names is a single string, 'cat': give a list, such as \['cat'\]"),
        (b"cat", "^names is a single string"),
        ("c" * 1000, "^names is a single string, 'c{40}'…"),
        ({"cat": 1}, "^names is a dict, which has no order"),
        ({"cat"}, "^names is a set, which has no order"),
        (5, "^names is 5: give a list"),
        (None, "^names is None: give a list"),
        (np.array("cat"), "^names is array"),
        (torch.tensor(3), r"^names is tensor\(3\)"),
    ],
)
def test_what_is_no_sequence_is_named(values: object, words: str) -> None:
    for read in (as_list, as_array):
        with pytest.raises(ClipAlignError, match=words) as caught:
            read(values, "names")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
def test_a_missing_entry_is_named_by_its_place(missing: object) -> None:
    with pytest.raises(ClipAlignError, match="labels has no value at place 1"):
        as_array(pd.Series(["a", missing, "b"], dtype=object), "labels")
    with pytest.raises(ClipAlignError, match="labels has no value at place 1"):
        as_array(["a", missing], "labels")


def test_numbers_keep_their_kind() -> None:
    assert as_array([1, 2], "x").dtype == np.int64
    assert as_array(np.array([1, 2.5], dtype=object), "x").dtype == np.float64
    assert as_array(np.array([True, False], dtype=object), "x").dtype == np.bool_
    assert as_array([True, "a"], "x").dtype == object  # not the strings that NumPy makes of both
    assert as_array(np.array([[1, 2]], dtype=object), "x").shape == (1, 2)
    assert as_array([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])], "x").tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert as_array([], "x").shape == (0,)


def test_rows_of_several_lengths_are_refused_in_one_line() -> None:
    with pytest.raises(ClipAlignError, match=r"^x must be numbers or strings") as caught:
        as_array([[1, 2], [3]], "x")
    assert "\n" not in str(caught.value)


def test_masked_entries_are_missing() -> None:
    masked = np.ma.masked_array([1.0, 2.0, 3.0], mask=[False, True, False])
    with pytest.raises(ClipAlignError, match="scores has no value at place 1"):
        as_array(masked, "scores")
    assert np.isnan(as_array(masked, "scores", missing_is_nan=True)).tolist() == [False, True, False]
    assert as_array(np.ma.masked_array([1, 2]), "scores").tolist() == [1, 2]


@pytest.mark.parametrize("rows", ["ab", [9], [-1], [0.5], [True, False], ["cat"], {0, 1}])
def test_positions_that_do_not_exist_are_refused_everywhere(rows):
    source = ImageSource([b""] * 3, ids=list("abc"), labels=["cat", "dog", "owl"])
    features = Features(torch.eye(3), "image", list("abc"))
    for select in (features.select, lambda r: take(source, r), lambda r: keep_classes(source, r)):
        with pytest.raises(ClipAlignError, match=r"^(rows|classes) ") as caught:
            select(rows)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rows", [[2, 0], np.array([2, 0]), torch.tensor([2, 0]), pd.Series([0, 2])[::-1]])
def test_positions_are_read_in_order(rows):
    source = ImageSource([b""] * 3, ids=list("abc"), labels=["cat", "dog", "owl"])
    assert Features(torch.eye(3), "image", list("abc")).select(rows).ids == ["c", "a"]
    assert take(source, rows).ids == ["c", "a"]
    assert keep_classes(source, rows).class_names == ["owl", "cat"]
    assert Features(torch.eye(3), "image", list("abc")).select([True, False, True]).ids == ["a", "c"]
