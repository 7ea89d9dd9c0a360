"""Checks of tensors and their types on input: one clear line instead of an error from the depths."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_clipalign._checks.sequences import as_array
from hf_clipalign._errors import ClipAlignError

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


def as_numbers(values: Any, name: str, wanted: str = "numbers", device: torch.device | str | None = None) -> Tensor:
    """Numbers of any kind as a tensor without gradients.

    Args:
        values (`Tensor`, array, list or table): the numbers, read by position (`as_array`).
        name (`str`): of the argument, for errors.
        wanted (`str`, *optional*, defaults to "numbers"): what the error asks for.
        device (`torch.device` or `str`, *optional*): where to; by default it stays where it is.

    Raises:
        `ClipAlignError`: strings, other objects, complex numbers or rows of several lengths.
    """
    if not isinstance(values, Tensor):
        array = as_array(values, name)
        if array.dtype.kind not in "biuf":
            raise ClipAlignError(f"{name} must be {wanted}, got entries of the type {array.dtype}")
        if array.dtype.itemsize > 8:
            array = array.astype(np.float64)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # it is only read
            values = torch.from_numpy(array)
    if values.is_complex():
        raise ClipAlignError(f"{name} must be {wanted}, got complex numbers")
    return values.detach().to(device)


def check_finite(table: Tensor, name: str, describe: Callable[[int], str] = str) -> None:
    """Refuses NaN and infinite values.

    Args:
        table (`Tensor [N, …]`): numbers of any type.
        name (`str`): what they are.
        describe (`Callable`, *optional*, defaults to the number of the row): names a row by its number.

    Raises:
        `ClipAlignError`: it names the first rows that hold such values.
    """
    if bad := not_finite_rows(table):
        shown = ", ".join(describe(row) for row in bad[:_SHOWN_ROWS]) + (", …" if len(bad) > _SHOWN_ROWS else "")
        n_rows = len(table) if table.ndim else 1
        raise ClipAlignError(
            f"{name} holds NaN or infinite values in {len(bad)} of {n_rows} rows ({shown}): remove or repair them."
        )


def not_finite_rows(table: Tensor) -> list[int]:
    """Numbers of the rows of `table` [N, …] that hold NaN or infinite values."""
    if not table.is_floating_point() or not table.numel():
        return []
    rows = table.reshape(len(table), -1) if table.ndim else table.reshape(1, 1)
    suspects = (~rows.sum(dim=1).isfinite()).nonzero().flatten()  # a sum may also overflow
    return suspects[~rows[suspects].isfinite().all(dim=1)].tolist()
