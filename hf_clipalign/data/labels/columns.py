"""Labels and captions from columns of any table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data._common import quoted


def read_labels(values: Sequence[Any], column: str, name: str) -> tuple[np.ndarray, list[str] | None]:
    """Integers stay as they are; strings are numbered in sorted order."""
    for row, value in enumerate(values):
        if is_missing(value):
            raise ClipAlignError(
                f"{name}: no label in row {row} (from 0) of column {column!r}; fill it or drop the row"
            )
    if all(isinstance(value, str) for value in values):
        return encode_names(values)
    try:
        numbers = np.asarray(values)
        labels = numbers.astype(np.int64)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iufb" or not np.array_equal(labels, numbers):
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        raise ClipAlignError(f"{name}: labels in column {column!r} must be all integers or all strings") from None
    return labels, None


def encode_names(names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    class_names = sorted(set(names))
    index = {name: i for i, name in enumerate(class_names)}
    return np.array([index[name] for name in names], dtype=np.int64), class_names


def read_texts(values: Sequence[Any], column: str, name: str) -> list[list[str]]:
    """A list of captions per row; an empty cell is an empty list."""
    groups = []
    for row, value in enumerate(values):
        group = [] if is_missing(value) else [value] if isinstance(value, str) else value
        if not isinstance(group, (list, tuple, np.ndarray)) or not all(isinstance(text, str) for text in group):
            raise ClipAlignError(
                f"{name}: row {row} (from 0) of column {column!r} is neither a text nor a list of texts"
            )
        groups.append(list(group))
    return groups


def is_missing(value: Any) -> bool:
    """None, NaN, NaT, pandas' NA and the empty string."""
    import pandas as pd

    if isinstance(value, str):
        return value == ""
    return value is None or (not hasattr(value, "__len__") and bool(pd.isna(value)))


def require_column(column: str, present: Iterable[str], name: str) -> None:
    if column not in (present := list(present)):
        raise ClipAlignError(f"{name}: no column {column!r}; the columns are {quoted(present)}")
