"""Sequences by position: lists, arrays, tensors, pandas and other columns become one plain kind on input."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Set
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._errors import ClipAlignError

_TO_LIST = ("tolist", "to_list", "to_pylist")
_KINDS_OF_OBJECTS: dict[type, tuple[type, ...]] = {
    str: (np.str_,),
    bool: (np.bool_,),
    int: (np.int64, np.int32),
    float: (int, bool, np.float64, np.float32, np.int64, np.int32),
}


def as_list(values: Any, name: str) -> list[Any]:
    """The entries of a sequence in order of position, whatever its index says.

    Args:
        values (`Iterable`): a list, tuple, iterator, array, tensor, or one column of pandas, polars, pyarrow or
            datasets.
        name (`str`): of the argument, for errors.

    Returns:
        `list`: plain Python values where the sequence holds numbers or strings.

    Raises:
        `ClipAlignError`: a single string, a mapping, a set, a table of several columns, or no sequence at all.

    Example:
        ```python
        >>> as_list(np.array(["cat", "dog"])[::-1], "class_names")
        ['dog', 'cat']
        ```
    """
    _refuse_other_kinds(values, name)
    for method in _TO_LIST:
        if hasattr(values, method):
            return getattr(values, method)()
    return list(values)


def as_array(values: Any, name: str, *, missing_is_nan: bool = False) -> NDArray[Any]:
    """Numbers or strings as an array by position: native byte order, contiguous, no objects where it can be helped.

    Args:
        values (`Iterable`): as in `as_list`, or nested lists, or a table (pandas, polars) for a matrix.
        name (`str`): of the argument, for errors.
        missing_is_nan (`bool`, *optional*, defaults to `False`): None and NA among numbers become NaN.

    Returns:
        `NDArray`: of integers, floats, booleans or strings; of objects where entries are of several kinds. Half
        precision of tensors becomes float32.

    Raises:
        `ClipAlignError`: a single string, a mapping, a set, rows of several lengths, a missing entry among strings or
            integers, or no sequence at all.

    Example:
        ```python
        >>> as_array(np.array(["cat", "dog"], dtype=object), "labels").dtype.kind
        'U'
        ```
    """
    if not _is_table(values):
        _refuse_other_kinds(values, name)
    array = _numpy(values, name)
    if array.dtype.kind in "OT":
        array = _without_objects(array, name, missing_is_nan)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape)


def _is_table(values: Any) -> bool:
    """A data frame or the like: it has columns with names, and iterating gives these or the rows, not the entries."""
    return hasattr(values, "columns") or hasattr(values, "column_names")


def _refuse_other_kinds(values: Any, name: str) -> None:
    if isinstance(values, str | bytes):
        shown = repr(values) if len(values) <= 40 else repr(values[:40]) + "…"
        raise ClipAlignError(f"{name} is a single string, {shown}: give a list, such as [{shown}].")
    if isinstance(values, Mapping | Set):
        raise ClipAlignError(f"{name} is a {type(values).__name__}, which has no order: give a list.")
    if _is_table(values):
        raise ClipAlignError(f"{name} is a {type(values).__name__}: give one of its columns.")
    if not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        raise ClipAlignError(f"{name} is {values!r}: give a list, with one entry for each item.")


def as_positions(rows: Any, n: int, name: str) -> NDArray[np.int64]:
    """Positions among n items, from integers or a mask.

    Args:
        rows (`Iterable[int]`, or mask `[n]` of `bool`): as in `as_list`.
        n (`int`): how many items there are.
        name (`str`): of the argument, for errors.

    Returns:
        `NDArray`: int64, each from 0 to n - 1.

    Raises:
        `ClipAlignError`: no integers, one that is out of range, or a mask of another length.

    Example:
        ```python
        >>> as_positions([True, False, True], 3, "rows").tolist()
        [0, 2]
        ```
    """
    chosen = as_list(rows, name)
    if chosen and all(isinstance(row, (bool, np.bool_)) for row in chosen):
        if len(chosen) != n:
            raise ClipAlignError(f"{name} is a mask of {len(chosen)} entries for {n} items: give one for each.")
        return np.flatnonzero(chosen)
    wrong = next((row for row in chosen if isinstance(row, bool) or not isinstance(row, Integral)), None)
    if wrong is not None:
        raise ClipAlignError(f"{name} holds {wrong!r}: give integers from 0 to {n - 1}.")
    outside = next((row for row in chosen if not 0 <= row < n), None)
    if outside is not None:
        raise ClipAlignError(f"{name} holds {outside}: there are {n} items, from 0 to {n - 1}.")
    return np.array(chosen, dtype=np.int64)


def _numpy(values: Any, name: str) -> NDArray[Any]:
    if _is_tensor(values):
        values = values.detach().cpu()
        return (values.float() if values.is_floating_point() and values.element_size() < 4 else values).numpy()
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        hidden = np.ma.getmaskarray(values)
        values = values.data.astype(object)
        values[hidden] = None
    try:
        if hasattr(values, "to_numpy"):
            return np.asarray(values.to_numpy())
        array = values if isinstance(values, np.ndarray) else _from_list(list(values))
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ClipAlignError(f"{name} must be numbers or strings, with rows of one length: {reason}") from error
    return array


def _is_tensor(value: Any) -> bool:
    """There is no tensor before torch is imported, and not every search of an index imports it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _from_list(rows: list[Any]) -> NDArray[Any]:
    """NumPy would turn numbers beside strings into strings, and make objects of tensors on other devices."""
    if rows and all(map(_is_tensor, rows)):
        rows = [row.detach().cpu().float().numpy() if row.is_floating_point() else row.cpu().numpy() for row in rows]
    array = np.asarray(rows)
    if array.dtype.kind in "US" and not all(isinstance(row, str | bytes | list | tuple | np.ndarray) for row in rows):
        return np.array(rows, dtype=object)
    return array


def _without_objects(array: NDArray[Any], name: str, missing_is_nan: bool) -> NDArray[Any]:
    entries = array.ravel().tolist()
    missing = [place for place, entry in enumerate(entries) if _is_missing(entry)]
    if missing_is_nan:
        entries = [float("nan") if _is_missing(entry) else entry for entry in entries]
    elif missing:
        raise ClipAlignError(f"{name} has no value at place {missing[0]}: fill it in, or leave the row out.")
    kinds = {type(entry) for entry in entries}
    for kind, others in _KINDS_OF_OBJECTS.items():
        if kinds and kinds <= {kind, *others}:
            try:
                return np.array(entries, dtype=kind).reshape(array.shape)
            except OverflowError as error:
                raise ClipAlignError(f"{name} holds an integer of more than 64 bits.") from error
    return array


def _is_missing(entry: Any) -> bool:
    return entry is None or type(entry).__name__ == "NAType" or (isinstance(entry, float) and entry != entry)
