"""What the metrics accept, and the errors when it does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hf_clipalign._checks.sequences import as_array, as_list
from hf_clipalign._checks.tensors import as_numbers, check_finite
from hf_clipalign._errors import ClipAlignError


def as_matrix(values: Any, name: str, device: torch.device | str | None = None) -> Tensor:
    """`values` as a finite, non-empty 2-D tensor (any number type), or an error that names it."""
    table = as_numbers(values, name, "a matrix of numbers [rows, columns]", device)
    if table.ndim != 2 or 0 in table.shape:
        raise ClipAlignError(f"{name} must be a non-empty matrix [rows, columns], got shape {tuple(table.shape)}")
    check_finite(table, name)
    return table


def check_ks(ks: Sequence[int]) -> tuple[int, ...]:
    """`ks` as a tuple of integers of at least 1."""
    listed = as_list(ks, "ks")
    if any(isinstance(k, bool) or not isinstance(k, Integral) or k < 1 for k in listed):
        raise ClipAlignError(f"every k in ks must be an integer of at least 1, got {listed}")
    return tuple(int(k) for k in listed)


def check_bins(bins: int) -> None:
    """An error where a histogram cannot have so many bins."""
    if not isinstance(bins, (int, np.integer)) or bins < 1:
        raise ClipAlignError(f"bins must be an integer of at least 1, got {bins!r}")


def as_floats(values: Any, name: str) -> NDArray[np.float64]:
    """`values`, also a single number, as float64, missing ones as NaN, or an error that names it."""
    alone = isinstance(values, Real | str) or getattr(values, "ndim", 1) == 0
    array = np.asarray(values) if alone else as_array(values, name, missing_is_nan=True)
    if array.dtype.kind not in "biuf":
        raise ClipAlignError(f"{name} must be numbers, with rows of one length, got entries of the type {array.dtype}")
    return array.astype(np.float64)


def as_labels(labels: Any, name: str, length: int) -> NDArray:
    """`labels` as an array of `length` integers or strings, or an error that names it."""
    array = as_array(labels, name)
    if array.ndim != 1:
        raise ClipAlignError(f"{name} must be one label per row, got shape {array.shape}")
    if len(array) != length:
        raise ClipAlignError(f"{name} has {len(array)} entries for {length} rows")
    if array.dtype.kind not in "biuUS":
        raise ClipAlignError(f"{name} must be all integers or all strings, got the type {array.dtype}")
    return array


def encode_labels(first: NDArray, second: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Both arrays of labels as integers from one numbering."""
    if (first.dtype.kind in "US") != (second.dtype.kind in "US"):
        raise ClipAlignError(
            f"labels are {first.dtype} on one side and {second.dtype} on the other: use the same kind"
        )
    if np.result_type(first, second).kind == "f":  # NumPy's common kind of int64 and uint64, in which integers meet
        first, second = first.astype(object), second.astype(object)
    codes = np.unique(np.concatenate([first, second]), return_inverse=True)[1].reshape(-1)
    return codes[: len(first)], codes[len(first) :]
