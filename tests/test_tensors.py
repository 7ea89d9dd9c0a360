"""Checks of tensors, and products in which equal rows tie."""

from __future__ import annotations

import pytest
import torch

from hf_clipalign._checks.tensors import check_finite
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._rows import EqualRows, map_rows, similarities


def test_the_rows_that_are_not_finite_are_named() -> None:
    table = torch.zeros(9, 3)
    table[1, 2], table[4, 0] = torch.nan, -torch.inf
    with pytest.raises(ClipAlignError, match=r"^x holds NaN or infinite values in 2 of 9 rows \(1, 4\)"):
        check_finite(table, "x")
    with pytest.raises(ClipAlignError, match=r"\(item 1, item 4\)"):
        check_finite(table[:, None], "x", lambda row: f"item {row}")
    with pytest.raises(ClipAlignError, match=r"7 of 7 rows \(0, 1, 2, 3, 4, …\)"):
        check_finite(torch.full((7, 1), torch.inf), "x")
    with pytest.raises(ClipAlignError, match="1 of 1 rows"):
        check_finite(torch.tensor(torch.nan), "x")


@pytest.mark.parametrize(
    "table",
    [torch.full((2, 9), 60000.0, dtype=torch.float16), torch.ones(2, dtype=torch.long), torch.zeros(0, 3)],
    ids=["a sum beyond the range", "integers", "nothing"],
)
def test_finite_tables_pass(table: torch.Tensor) -> None:
    check_finite(table, "x")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equal_rows_are_found(dtype: torch.dtype) -> None:
    rows = torch.tensor([[0.0, 1.0], [2.0, 1.0], [1.0, 2.0], [2.0, 1.0], [-0.0, 1.0], [2.0, 1.0]], dtype=dtype)
    equal = EqualRows(rows)
    assert equal.copies.tolist() == [4, 3, 5] or sorted(equal.copies.tolist()) == [3, 4, 5]
    assert equal.tie(torch.arange(6.0)).tolist() == [0, 1, 2, 1, 0, 1]
    assert equal.tie(torch.arange(12.0).view(2, 6), dim=1).tolist() == [[0, 1, 2, 1, 0, 1], [6, 7, 8, 7, 6, 7]]


def test_rows_with_the_same_numbers_in_another_order_differ() -> None:
    assert len(EqualRows(torch.tensor([[1.0, 2.0], [2.0, 1.0]])).copies) == 0
    values = torch.tensor([0.5, 0.25])
    assert EqualRows(torch.eye(2)).tie(values).tolist() == [0.5, 0.25]


def test_many_rows_are_compared_block_by_block() -> None:
    rows = torch.randn(5000, 2, generator=torch.Generator().manual_seed(0))
    rows[4999] = rows[0]
    assert EqualRows(rows).copies.tolist() == [4999]
    assert EqualRows(rows).originals.tolist() == [0]


def test_products_of_equal_items_tie() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, items = torch.randn(5, 513, generator=generator), torch.randn(7, 513, generator=generator)
    scores = similarities(queries, items.repeat(3, 1))
    torch.testing.assert_close(scores[:, :7], queries @ items.T)
    assert torch.equal(scores[:, :7], scores[:, 7:14])
    assert torch.equal(scores[:, :7], scores[:, 14:])


def test_maps_of_equal_rows_are_equal_and_the_rows_stay() -> None:
    rows = torch.tensor([[1.0], [2.0], [1.0]])
    noise = torch.tensor([[0.0], [0.0], [1e-7]])
    assert map_rows(lambda table: table + noise, rows).tolist() == [[1.0], [2.0], [1.0]]
    assert map_rows(lambda table: table, rows) is rows
    assert rows.tolist() == [[1.0], [2.0], [1.0]]
