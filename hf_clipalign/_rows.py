"""Rows of features: unit length whatever their scale, and products in which equal rows tie."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_ROWS_PER_BLOCK = 4096
_LARGEST_EXPONENT = 60


def unit_rows(table: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The rows of `table` [N, d] scaled to unit length in float64 and rounded to `dtype`; rows of zeros stay zero.

    Neither large nor small numbers leave the range on the way, and equal rows have equal results.
    """
    units = torch.empty(table.shape, dtype=dtype, device=table.device)
    for rows, out in zip(table.split(_ROWS_PER_BLOCK), units.split(_ROWS_PER_BLOCK), strict=True):
        wide = (rows.cpu() if rows.device.type == "mps" else rows).double()  # mps has no float64
        tiny = torch.finfo(wide.dtype).tiny
        out.copy_(normalize(wide / wide.abs().amax(dim=1, keepdim=True).clamp(min=tiny), dim=1, eps=tiny))
    return units


def in_float32_range(table: Tensor) -> Tensor:
    """`table` [N, d] as float32, where its numbers are beyond that range all multiplied by one power of two."""
    if table.dtype in (torch.float16, torch.bfloat16):
        return table.float()
    exponent = math.frexp(float(table.abs().max()))[1]
    if abs(exponent) <= _LARGEST_EXPONENT:
        return table.float()
    # in two steps: the power itself may be beyond the range
    return ((table * 2.0 ** -(exponent // 2)) * 2.0 ** -(exponent - exponent // 2)).float()


class EqualRows:
    """Which rows of a matrix hold the same numbers, so that products with them can be made equal, too.

    Matrix products sum in an order that depends on where a row stands: the products of equal rows differ in their
    last bit, and what ties is ranked by chance. Here all copies of a row take over what its first one got.

    Args:
        rows (`Tensor [N, d]`): the rows.

    Example:
        ```python
        >>> equal = EqualRows(torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]]))
        >>> equal.tie(torch.tensor([0.5, 0.25, 0.75]))
        tensor([0.5000, 0.2500, 0.5000])
        ```
    """

    def __init__(self, rows: Tensor):
        candidates = _with_equal_sums(rows)
        found = _without_negative_zeros(rows[candidates]).cpu().contiguous()
        keys = found.view(torch.uint8).numpy().view(f"V{found.shape[1] * found.element_size()}")[:, 0]
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        first_of = torch.from_numpy(first[inverse.reshape(-1)]).to(rows.device)
        is_copy = first_of != torch.arange(len(candidates), device=rows.device)
        self.copies, self.originals = candidates[is_copy], candidates[first_of[is_copy]]

    def tie(self, values: Tensor, dim: int = 0) -> Tensor:
        """`values` [.., N, ..] with what belongs to copies overwritten, in place, by what belongs to the originals."""
        if len(self.copies):
            values.index_copy_(dim, self.copies, values.index_select(dim, self.originals))
        return values


def similarities(queries: Tensor, items: Tensor) -> Tensor:
    """`queries @ items.T`, in which equal items have equal scores.

    Args:
        queries (`Tensor [Q, d]`): of unit length where cosines are wanted.
        items (`Tensor [N, d]`): likewise.

    Returns:
        `Tensor [Q, N]`.
    """
    return EqualRows(items).tie(queries @ items.T, dim=1)


def map_rows(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """`function(rows)`, in which equal rows have equal results.

    Args:
        function (`Callable`): maps `[N, d]` to `[N, k]`, each row for itself, but for rounding.
        rows (`Tensor [N, d]`): the rows.
    """
    mapped = function(rows)
    return mapped if mapped is rows else EqualRows(rows).tie(mapped)


def top_k(scores: Tensor, k: int) -> Tensor:
    """The places of the k highest scores of every row, best first; equal ones in the order of their places.

    Args:
        scores (`Tensor [Q, N]`): compared in float32.
        k (`int`): at most N.

    Returns:
        `LongTensor [Q, k]`.

    Example:
        ```python
        >>> top_k(torch.tensor([[0.5, 0.9, 0.5, 0.5]]), 3)
        tensor([[1, 0, 2]])
        ```
    """
    bits = _without_negative_zeros(scores.float()).view(torch.int32)
    ascending = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()  # integers in the order of the floats
    places = torch.arange(scores.shape[1], device=scores.device)
    return ((ascending << 32) - places).topk(k, dim=1).indices


def _without_negative_zeros(rows: Tensor) -> Tensor:
    return rows + 0.0 if rows.is_floating_point() else rows


def _with_equal_sums(rows: Tensor) -> Tensor:
    """Numbers of the rows whose bits, added up as integers, are those of another row, too: equal rows are among them.

    Cheap: one pass, where sorting the rows would take many.
    """
    if rows.element_size() not in _INTEGERS or not rows.shape[1]:
        return torch.arange(len(rows), device=rows.device)
    kind = _INTEGERS[rows.element_size()]
    parts = rows.detach().split(_ROWS_PER_BLOCK)
    sums = torch.cat([_without_negative_zeros(part).view(kind).sum(dim=1) for part in parts])
    _, inverse, counts = sums.unique(return_inverse=True, return_counts=True)
    return (counts[inverse] > 1).nonzero().flatten()
