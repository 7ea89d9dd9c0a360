"""What the label files of data sets have in common: a table of paths and values, checked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_clipalign._checks.quoting import quoted, short, short_reason
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.labels.findings import is_label
from hf_clipalign.data.texts.delimited import read_frame

if TYPE_CHECKING:
    import pandas as pd

_TEXT_COLUMNS = dict.fromkeys(("Path", "dicom_id", "study_id", "subject_id"), str)

_AGES = (0, 40, 60, 80, 1000)
_AGE_GROUPS = ("0–39", "40–59", "60–79", "80+")


def read_label_file(path: str | os.PathLike[str]) -> tuple[pd.DataFrame, str]:
    file = Path(path).expanduser()
    try:
        return read_frame(file, low_memory=False, dtype=_TEXT_COLUMNS), str(file)
    except ClipAlignError:
        raise
    except (OSError, ValueError) as error:
        raise ClipAlignError(f"{file}: the label file cannot be read ({short_reason(error)})") from error


def require_columns(frame: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ClipAlignError(f"{name}: no column {quoted(missing)}; the columns are {quoted(frame.columns)}")


def label_values(frame: pd.DataFrame, findings: Sequence[str], name: str) -> np.ndarray:
    """The labels `[N, F]` of a file.

    Raises:
        `ClipAlignError`: a cell is no label; row and column are named.
    """
    import pandas as pd

    values = np.empty((len(frame), len(findings)))
    for column, finding in enumerate(findings):
        numbers = pd.to_numeric(frame[finding], errors="coerce")
        values[:, column] = numbers.to_numpy(dtype=np.float64)
        wrong = np.flatnonzero((numbers.isna() & frame[finding].notna()).to_numpy() | ~is_label(values[:, column]))
        if len(wrong):
            number, cell = numbers.iloc[wrong[0]], frame[finding].iloc[wrong[0]]
            what = f"a label is no number, found {short(cell)}" if pd.isna(number) else f"found {number:g}"
            raise ClipAlignError(
                f"{name}: row {frame.index[wrong[0]]} (from 0), column {short(finding)}: {what}; labels must be 1, 0, "
                "-1 (uncertain) or empty"
            )
    return values


def subgroup_values(frame: pd.DataFrame, columns: Mapping[str, str]) -> dict[str, list[str]]:
    """What the columns of a file that are there say of each row; ages in groups.

    Args:
        frame (`pandas.DataFrame`): the file.
        columns (`Mapping[str, str]`): the name of a property by that of its column.
    """
    import pandas as pd

    found: dict[str, list[str]] = {}
    for column, kind in columns.items():
        if column in frame.columns:
            cells = frame[column]
            if kind == "age":
                cells = pd.cut(pd.to_numeric(cells, errors="coerce"), _AGES, right=False, labels=_AGE_GROUPS)
            found[kind] = ["" if pd.isna(cell) else str(cell).strip() for cell in cells]
    return found


def checked_path(value: Any, row: Any, name: str) -> str:
    """A relative path that stays below its folder, with `/` between its parts."""
    text = value.replace("\\", "/") if isinstance(value, str) else ""
    parts = text.split("/")
    if not text or text.startswith(("/", "~")) or ".." in parts or ":" in parts[0] or "\0" in text:
        raise ClipAlignError(
            f"{name}: row {row} (from 0): the path {short(value)} is no relative path below its folder"
        )
    return text
