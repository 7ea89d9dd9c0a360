"""What the metrics accept, and the errors when it does not fit."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hf_clipalign._errors import ClipAlignError


def as_matrix(values: Any, name: str, device: torch.device | str | None = None) -> Tensor:
    """`values` as a finite, non-empty 2-D tensor (any number type), or an error that names it."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # it is only read
            table = torch.as_tensor(values, device=device).detach()
    except (TypeError, ValueError) as error:
        raise ClipAlignError(f"{name} must be a matrix of numbers [rows, columns]: {error}") from error
    if table.ndim != 2 or 0 in table.shape:
        raise ClipAlignError(f"{name} must be a non-empty matrix [rows, columns], got shape {tuple(table.shape)}")
    check_finite(table, name)
    return table


def check_finite(table: Tensor, name: str) -> None:
    """An error that names the first rows of `table` [N, d] that hold NaN or infinite values, if there are any."""
    suspects = (~torch.isfinite(table.sum(1))).nonzero().flatten()
    bad = suspects[~torch.isfinite(table[suspects]).all(dim=1)].tolist()
    if bad:
        more = ", …" if len(bad) > 5 else ""
        raise ClipAlignError(
            f"{name} holds NaN or infinite values in {len(bad)} of {len(table)} rows "
            f"({', '.join(map(str, bad[:5]))}{more}); remove or repair these rows"
        )


def check_ks(ks: Sequence[int]) -> tuple[int, ...]:
    """`ks` as a tuple of integers of at least 1."""
    ks = tuple(int(k) for k in ks)
    if any(k < 1 for k in ks):
        raise ClipAlignError(f"every k in ks must be at least 1, got {ks}")
    return ks


def check_bins(bins: int) -> None:
    """An error where a histogram cannot have so many bins."""
    if not isinstance(bins, (int, np.integer)) or bins < 1:
        raise ClipAlignError(f"bins must be an integer of at least 1, got {bins!r}")


def as_numpy(values: Any) -> NDArray:
    """`values` as an array; half-precision tensors become float32."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.is_floating_point() and values.element_size() < 4 else values).numpy()
    return np.asarray(values)


def as_floats(values: Any, name: str) -> NDArray[np.float64]:
    """`values` as numbers, or an error that names it."""
    try:
        array = as_numpy(values)
        if array.dtype.kind in "US":
            raise ValueError("it holds text")
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ClipAlignError(f"{name} must be numbers, with rows of one length: {error}") from error


def as_labels(labels: Any, name: str, length: int) -> NDArray:
    """`labels` as an array of `length` integers or strings, or an error that names it."""
    array = as_numpy(labels)
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
    codes = np.unique(np.concatenate([first, second]), return_inverse=True)[1].reshape(-1)
    return codes[: len(first)], codes[len(first) :]
