"""Labels and captions from columns of any table."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hf_clipalign._checks.quoting import quoted, short
from hf_clipalign._checks.sequences import as_array
from hf_clipalign._errors import ClipAlignError

logger = logging.getLogger(__name__)

_PLAIN_INTEGER = re.compile(r"0|[1-9][0-9]{0,17}")
"""No sign, no leading zero, no space, and it fits into 64 bits: everything else that a text file holds is a name."""


def class_labels(values: Any, class_names: list[str] | None, name: str) -> tuple[np.ndarray, list[str] | None]:
    """Labels that come with a source, by position: integers as int64, or names that are numbered in sorted order.

    Args:
        values (array `[N]`): what `as_array` takes.
        class_names (`list[str]`, *optional*): what integers mean; names are looked up in it.
        name (`str`): what errors call the labels.

    Returns:
        The labels `[N]`, and what they mean if that is known.

    Raises:
        `ClipAlignError`: if they are neither all whole numbers nor all names, or a name is not among `class_names`.
    """
    labels = as_array(values, name)
    if labels.ndim == 1 and labels.dtype.kind == "U":
        return _numbered(labels.tolist(), class_names, name)
    whole = _whole_numbers(labels)
    if whole is None:
        raise ClipAlignError(f"{name} must be one whole number or one name for each entry, in a list or array [N].")
    return whole, class_names


def read_labels(values: Sequence[Any], column: str, name: str) -> tuple[np.ndarray, list[str] | None]:
    """Integers stay as they are; strings, and the booleans of a table, are numbered in sorted order."""
    for row, value in enumerate(values):
        if is_missing(value):
            raise ClipAlignError(
                f"{name}: no label in row {row} (from 0) of column {short(column)}; fill it or drop the row"
            )
    if all(isinstance(value, (str, bool, np.bool_)) for value in values):
        return encode_names([str(value) for value in values], f"{name}, column {short(column)}")
    try:
        labels = _whole_numbers(np.asarray(values))
    except (ValueError, TypeError, OverflowError):
        labels = None
    if labels is None:
        raise ClipAlignError(f"{name}: labels in column {short(column)} must be all integers or all strings")
    return labels, None


def numbers_of_texts(cells: list[Any]) -> list[Any]:
    """A column of a text file: integers if every cell is a plain one, else what is written there."""
    plain = all(isinstance(cell, str) and _PLAIN_INTEGER.fullmatch(cell) for cell in cells)
    return [int(cell) for cell in cells] if plain else cells


def encode_names(names: Sequence[str], name: str) -> tuple[np.ndarray, list[str]]:
    """Numbers the names in sorted order; a warning lists those that could be meant to be the same."""
    class_names = sorted(set(names))
    _tell_similar(class_names, name)
    index = {class_name: i for i, class_name in enumerate(class_names)}
    return np.array([index[class_name] for class_name in names], dtype=np.int64), class_names


def read_texts(values: Sequence[Any], column: str, name: str) -> list[list[str]]:
    """A list of captions per row; an empty cell is an empty list."""
    groups = []
    for row, value in enumerate(values):
        group = [] if is_missing(value) else [value] if isinstance(value, str) else value
        if not isinstance(group, (list, tuple, np.ndarray)) or not all(isinstance(text, str) for text in group):
            raise ClipAlignError(
                f"{name}: row {row} (from 0) of column {short(column)} is neither a text nor a list of texts"
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
    """Refuses a column that is not there."""
    if column not in (present := list(present)):
        raise ClipAlignError(f"{name}: no column {short(column)}; the columns are {quoted(present)}")


def first_column(columns: Iterable[Any], usual: tuple[str, ...]) -> str | None:
    """The column whose name comes first in `usual`, in any case."""
    lower = {str(column).lower(): column for column in reversed(list(columns))}
    return next((lower[name] for name in usual if name in lower), None)


def _numbered(names: list[str], class_names: list[str] | None, name: str) -> tuple[np.ndarray, list[str]]:
    if class_names is None:
        return encode_names(names, name)
    index = {class_name: i for i, class_name in enumerate(class_names)}
    if unknown := [entry for entry in names if entry not in index]:
        raise ClipAlignError(f"{name}: {short(unknown[0])} is not among class_names: {quoted(class_names)}")
    return np.array([index[entry] for entry in names], dtype=np.int64), class_names


def _whole_numbers(numbers: np.ndarray) -> np.ndarray | None:
    """Numbers `[N]` as int64, or None if that would change one."""
    if numbers.ndim != 1 or numbers.dtype.kind not in "iufb":
        return None
    with np.errstate(invalid="ignore"):
        labels = numbers.astype(np.int64)
    return labels if np.array_equal(labels, numbers) else None


def _tell_similar(class_names: list[str], name: str) -> None:
    groups: dict[str, list[str]] = defaultdict(list)
    for class_name in class_names:
        groups[" ".join(unicodedata.normalize("NFKC", class_name).split()).casefold()].append(class_name)
    for similar in groups.values():
        if len(similar) > 1:
            logger.warning(
                "%s: %s are different classes, though only case, spaces or the encoding of a letter tell them apart; "
                "write them alike if they are one",
                *(name, quoted(similar)),
            )
