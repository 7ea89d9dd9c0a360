"""What the label files of data sets have in common: a table of paths and values, checked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_clipalign._checks.quoting import quoted, short, short_reason
from hf_clipalign._errors import ClipAlignError

if TYPE_CHECKING:
    import pandas as pd

_TEXT_COLUMNS = dict.fromkeys(("Path", "dicom_id", "study_id", "subject_id"), str)


def read_label_file(path: str | os.PathLike[str]) -> tuple[pd.DataFrame, str]:
    import pandas as pd

    file = Path(path).expanduser()
    try:
        return pd.read_csv(file, encoding="utf-8-sig", low_memory=False, dtype=_TEXT_COLUMNS), str(file)
    except (OSError, ValueError) as error:
        raise ClipAlignError(f"{file}: the label file cannot be read ({short_reason(error)})") from error


def require_columns(frame: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ClipAlignError(f"{name}: no column {quoted(missing)}; the columns are {quoted(frame.columns)}")


def label_values(frame: pd.DataFrame, findings: Sequence[str], name: str) -> np.ndarray:
    try:
        return frame[list(findings)].to_numpy(dtype=np.float64)
    except ValueError as error:
        raise ClipAlignError(f"{name}: a label is no number ({short_reason(error)})") from error


def checked_path(value: Any, row: Any, name: str) -> str:
    """A relative path that stays below its folder, with `/` between its parts."""
    text = value.replace("\\", "/") if isinstance(value, str) else ""
    parts = text.split("/")
    if not text or text.startswith(("/", "~")) or ".." in parts or ":" in parts[0] or "\0" in text:
        raise ClipAlignError(
            f"{name}: row {row} (from 0): the path {short(value)} is no relative path below its folder"
        )
    return text
