"""Rows of CSV and the like, with the line that is to blame."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from hf_clipalign._checks.quoting import short_reason
from hf_clipalign._errors import ClipAlignError

_END = "\ue000end of the file\ue000"
"""A last line of its own, unless quotation marks that were not closed take it in."""


def csv_rows(lines: Iterable[str], name: str, **options: Any) -> Iterator[tuple[int, list[str]]]:
    """The number of the last line, and the cells, of each row.

    Args:
        lines (iterable of `str`): the file, or its lines.
        name (`str`): what errors call it.
        **options: Of `csv.reader`.

    Raises:
        `ClipAlignError`: if a cell is over Python's limit of 131,072 characters, a line cannot be read, or the file
            ends inside quotation marks.
    """
    reader = csv.reader(chain(lines, [_END]), **options)
    line = 0
    try:
        for row in reader:
            if row == [_END]:
                return
            if row and row[-1].endswith(_END):
                raise ClipAlignError(
                    f"{name}: a quotation mark is missing: the one that opens in line {line + 1} is never closed"
                )
            line = reader.line_num
            yield line, row
    except csv.Error as error:
        is_long = "field limit" in str(error)
        reason = f"a cell has more than {csv.field_size_limit():,} characters" if is_long else short_reason(error)
        raise ClipAlignError(
            f"{name}: line {reader.line_num} cannot be read: {reason}; is a quotation mark missing?"
        ) from error
