"""Rows and tables of CSV and the like, with what is to blame."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_clipalign._checks.quoting import quoted, short_reason
from hf_clipalign._errors import ClipAlignError

if TYPE_CHECKING:
    import pandas as pd

_END = "\ue000end of the file\ue000"
"""A last line of its own, unless quotation marks that were not closed take it in."""


def read_frame(path: Path, **options: Any) -> pd.DataFrame:
    """A text file as a data frame in which every cell stands under its heading.

    pandas alone takes the first cells of rows with more cells than headings for the names of the rows, so that all
    others move to the left, and calls a second column of the same name by another.

    Args:
        path (`Path`): the file, UTF-8.
        **options: of `pandas.read_csv`.

    Raises:
        `ClipAlignError`: rows have more cells than there are columns, or several columns have one name. Errors of
            pandas, for a file that it cannot read.
    """
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            frame = pd.read_csv(path, encoding="utf-8-sig", index_col=False, **options)
        except pd.errors.ParserWarning as error:
            raise ClipAlignError(
                f"{path}: rows have more cells than the first line has headings; add the headings, and put cells with "
                "a separator in them into quotation marks"
            ) from error
    lines = {"header": None, "nrows": 1, "dtype": str, "low_memory": True}
    names = pd.read_csv(path, encoding="utf-8-sig", **(options | lines)).iloc[0].dropna()
    if twice := names[names.duplicated()].tolist():
        raise ClipAlignError(f"{path}: several columns are called {quoted(twice)}; rename them")
    return frame


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
