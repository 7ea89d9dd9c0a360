"""Tasks of incremental learning: disjoint, complete, patient by patient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_clipalign import ClipAlignError
from hf_clipalign.data import (
    FindingLabels,
    IncrementalTask,
    class_incremental,
    data_incremental,
    disjoint_parts,
    joint,
    label_incremental,
)


def labels(n: int, patients: list[str] | None = None) -> FindingLabels:
    values = np.random.default_rng(0).integers(2, size=(n, 3)).astype(float)
    return FindingLabels([str(row) for row in range(n)], ["A", "B", "C"], values, patients)


def test_published_parts_are_consecutive() -> None:
    parts = disjoint_parts(labels(10), 3)
    assert [part.tolist() for part in parts] == [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9]]


@given(st.integers(1, 12), st.lists(st.integers(0, 30), min_size=12, max_size=60), st.none() | st.integers(0, 5))
def test_parts_share_no_row_and_no_patient(n_parts: int, owners: list[int], seed: int | None) -> None:
    if len(set(owners)) < n_parts:
        return
    parts = disjoint_parts(labels(len(owners), [str(owner) for owner in owners]), n_parts, seed)
    assert len(parts) == n_parts
    assert all(len(part) for part in parts)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(owners)))
    patients = [{owners[row] for row in part} for part in parts]
    assert sum(map(len, patients)) == len(set(owners))


@pytest.mark.parametrize("n_parts", [5, 10, 20])
def test_parts_are_of_nearly_equal_size(n_parts: int) -> None:
    sizes = [len(task.rows) for task in data_incremental(labels(1003), n_parts, seed=1)]
    assert max(sizes) - min(sizes) <= 1
    few = [str(owner) for owner in np.random.default_rng(0).integers(300, size=1003)]
    sizes = [len(task.rows) for task in data_incremental(labels(1003, few), n_parts, seed=1)]
    assert max(sizes) < 1.5 * 1003 / n_parts


def test_scenarios() -> None:
    data = labels(90)
    by_class, by_label = class_incremental(data, ["C", "A", "B"], seed=3), label_incremental(data, seed=3)
    assert [task.findings for task in by_class] == [("C",), ("A",), ("B",)]
    assert [task.findings for task in by_label] == [("A",), ("A", "B"), ("A", "B", "C")]
    assert [task.name for task in by_label] == ["A", "+ B", "+ C"]
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(by_class, by_label, strict=True))
    assert not np.array_equal(by_class[0].rows, class_incremental(data, seed=4)[0].rows)
    (whole,) = joint(data)
    assert (len(whole.rows), whole.findings) == (90, ("A", "B", "C"))
    only = class_incremental(data, positives_only=True)
    assert all((data.values[task.rows, column] == 1).all() for column, task in enumerate(only))


def test_bad_input() -> None:
    with pytest.raises(ClipAlignError, match="2 patients"):
        data_incremental(labels(9, ["a", "b"] * 4 + ["b"]), 3)
    with pytest.raises(ClipAlignError, match="10 parts cannot be made of 9 rows"):
        data_incremental(labels(9), 10)
    with pytest.raises(ClipAlignError, match="order"):
        class_incremental(labels(9), ["A", "B"])
    for wrong in ({"n_parts": 2.5}, {"n_parts": 0}, {"n_parts": 2, "seed": -1}):
        with pytest.raises(ClipAlignError, match="parts"):
            data_incremental(labels(9), **wrong)


@pytest.mark.parametrize(
    ("rows", "findings", "message"),
    [
        (np.ones(9, bool), ("A",), r"'t': rows must be row numbers.*flatnonzero"),
        (np.array([0.5, 1.0]), ("A",), "float64"),
        (np.ones((2, 2), int), ("A",), r"\(2, 2\)"),
        ([0, 1], (), "there are no findings"),
        ([0, 1], "A", r"such as \['A'\]"),
        ([0, 1], ("A", "A"), "differ"),
    ],
)
def test_a_task_is_checked_where_it_is_made(rows: Any, findings: Any, message: str) -> None:
    with pytest.raises(ClipAlignError, match=message):
        IncrementalTask("t", rows, findings)


def test_a_task_takes_lists() -> None:
    task = IncrementalTask("t", [2, 0], ["A", "B"])  # type: ignore[arg-type]
    assert task.rows.dtype == np.int64
    assert (task.rows.tolist(), task.findings) == ([2, 0], ("A", "B"))


def test_uncertain_and_missing_labels_are_not_positive() -> None:
    values = [[1, np.nan], [-1, 1], [0, 0], [np.nan, 1], [1, -1], [-1, np.nan], [1, np.nan], [0, 1]]
    found = FindingLabels(list("abcdefgh"), ["A", "B"], values)
    tasks = class_incremental(found, positives_only=True)
    assert [task.rows.tolist() for task in tasks] == [[0], [7]]
    assert [task.rows.tolist() for task in class_incremental(found)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
