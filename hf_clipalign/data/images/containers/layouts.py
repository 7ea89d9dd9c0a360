"""What tars and Parquet files share: folders of them, and how img2dataset says what it could not fetch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hf_clipalign._checks.quoting import short_reason
from hf_clipalign.data.images.file_kinds import by_numbers, image_extensions, is_skipped

STATE, REASON, SUCCESS = "status", "error_message", "success"
"""Columns of img2dataset's tables, and what stands in the first where all is well."""


def failure(state: Any, reason: Any) -> str:
    """Why img2dataset has no image, by its two columns."""
    return str(state) + (f": {short_reason(ValueError(str(reason)))}" if reason else "")


def numbered_files(path: Path, ending: str) -> list[Path]:
    """The files of a folder with an ending, in the order of their numbers."""
    names = [name for name in os.listdir(path) if name.lower().endswith(ending) and not is_skipped(name)]
    return [path / name for name in sorted(names, key=by_numbers)]


def is_folder_of(path: Path, ending: str, *others: str) -> bool:
    """Whether a folder holds files with an ending, and nothing that could be meant instead: images, files with one of
    the other endings, or folders.
    """
    entries = [entry for entry in os.scandir(path) if not is_skipped(entry.name)]
    if any(entry.is_dir() or entry.name.lower().endswith((*image_extensions(), *others)) for entry in entries):
        return False
    return any(entry.name.lower().endswith(ending) for entry in entries)
