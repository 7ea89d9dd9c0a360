"""Checks of tensors and their types at the doors: one clear line instead of an error from the depths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_clipalign._errors import ClipAlignError

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_ROWS_PER_SUM = 4096
_SHOWN_ROWS = 5


def check_tensors(**values: Any) -> None:
    """Refuses arrays and lists where the maths takes tensors.

    Args:
        **values: what was given, by the names of the arguments.

    Raises:
        `ClipAlignError`: the first that is no `Tensor`, by its name.
    """
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise ClipAlignError(f"{name} is of type {type(value).__name__}: give a tensor (torch.as_tensor).")


def parse_dtype(dtype: str | torch.dtype, *allowed: str) -> torch.dtype:
    """A type by its name (`"float16"`) or as torch has it (`torch.float16`).

    Args:
        dtype (`str` or `torch.dtype`): the type.
        *allowed (`str`): the names of those that can be used.

    Raises:
        `ClipAlignError`: another one.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in allowed:
        raise ClipAlignError(f"unknown dtype {name!r}: choose from {', '.join(allowed)}.")
    return getattr(torch, name)


def check_finite(table: Tensor, name: str, describe: Callable[[int], str] = str) -> None:
    """Refuses NaN and infinite values.

    Args:
        table (`Tensor [N, …]`): numbers of any type.
        name (`str`): what they are.
        describe (`Callable`, *optional*, defaults to the number of the row): names a row by its number.

    Raises:
        `ClipAlignError`: it names the first rows that hold such values.
    """
    if not table.is_floating_point() or not table.numel():
        return
    rows = table.reshape(len(table), -1) if table.ndim else table.reshape(1, 1)
    suspects = (~rows.sum(dim=1).isfinite()).nonzero().flatten()  # a sum may also overflow
    bad = suspects[~rows[suspects].isfinite().all(dim=1)].tolist()
    if bad:
        shown = ", ".join(describe(row) for row in bad[:_SHOWN_ROWS]) + (", …" if len(bad) > _SHOWN_ROWS else "")
        raise ClipAlignError(
            f"{name} holds NaN or infinite values in {len(bad)} of {len(rows)} rows ({shown}): remove or repair them."
        )


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
        found = (rows[candidates] + 0.0).cpu().contiguous()  # -0.0 + 0.0 is 0.0
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


def _with_equal_sums(rows: Tensor) -> Tensor:
    """Numbers of the rows whose bits, added up as integers, are those of another row, too: equal rows are among them.

    Cheap: one pass, where sorting the rows would take many.
    """
    if rows.element_size() not in _INTEGERS or not rows.shape[1]:
        return torch.arange(len(rows), device=rows.device)
    kind = _INTEGERS[rows.element_size()]
    sums = torch.cat([(part + 0.0).view(kind).sum(dim=1) for part in rows.detach().split(_ROWS_PER_SUM)])
    _, inverse, counts = sums.unique(return_inverse=True, return_counts=True)
    return (counts[inverse] > 1).nonzero().flatten()
